from __future__ import annotations

import pytest
import torch

from rtl_continual.routing import FeatureMixture, MahalanobisRouter, MahalanobisRouterConfig
from rtl_continual.routing._gaussians import MixtureStack


def data(index: int, count: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(index)
    mixing = torch.randn(width, width, generator=generator)
    x = torch.randn(count, width, generator=generator) @ mixing
    x[: count // 3] += 5 * torch.randn(width, generator=generator)
    return x * torch.logspace(-2, 2, width) + 3 * torch.randn(width, generator=generator)


@pytest.mark.parametrize(
    ("width", "shapes"),
    [
        (12, [(3, 64), (1, 64), (2, 64)]),
        (12, [(3, 5), (1, 7), (2, 64)]),
        (40, [(3, 8), (2, 8)]),
    ],
    ids=["full", "mixed", "axes"],
)
def test_densities_are_those_of_the_mixtures(width: int, shapes: list[tuple[int, int]]) -> None:
    mixtures = [
        FeatureMixture.fit(data(index, 150, width), components=components, rank=rank)
        for index, (components, rank) in enumerate(shapes)
    ]
    x = torch.cat([data(index, 150, width)[:30] for index in range(len(shapes))])
    expected = torch.stack([mixture.log_prob(x) for mixture in mixtures], dim=1)
    found = MixtureStack(mixtures).log_prob(x)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-4)


def test_probabilities_are_those_of_equally_frequent_tickets() -> None:
    mixtures = [FeatureMixture.fit(data(index, 150, 6), components=2) for index in range(3)]
    router = MahalanobisRouter(MahalanobisRouterConfig(novelty=None, mix=3))
    router.fit(mixtures)
    x = torch.cat([data(index, 150, 6)[:20] for index in range(3)])
    answer = router.route(x)
    scores = torch.stack([mixture.log_prob(x) for mixture in mixtures], dim=1)
    expected = scores.softmax(dim=1).gather(1, answer.ticket_ids)
    torch.testing.assert_close(answer.weights.double(), expected, atol=1e-4, rtol=0)


def test_a_shared_covariance_makes_straight_borders() -> None:
    """Fisher's linear discriminant, written out."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(5, 5, generator=generator)
    centers = 3 * torch.randn(3, 5, generator=generator)
    parts = [torch.randn(400, 5, generator=generator) @ mixing + center for center in centers]
    mixtures = [FeatureMixture.fit(part) for part in parts]
    router = MahalanobisRouter(MahalanobisRouterConfig(covariance="shared", ridge=1e-9))
    router.fit(mixtures)
    within = torch.stack([mixture.covariance() for mixture in mixtures]).mean(dim=0)
    means = torch.stack([mixture.mean() for mixture in mixtures])
    weight = torch.linalg.solve(within, means.T).T
    x = torch.cat(parts).double()
    linear = x @ weight.T - 0.5 * (weight * means).sum(dim=1)
    assert torch.equal(router.route(x.float()).ticket_ids[:, 0], linear.argmax(dim=1))


def test_whole_mixtures_see_what_means_do_not() -> None:
    """A ticket on both sides of another one: only its mixture is not in between."""
    generator = torch.Generator().manual_seed(0)
    around = torch.randn(400, 3, generator=generator)
    around[:200, 0] += 12
    around[200:, 0] -= 12
    between = 3 * torch.randn(400, 3, generator=generator)
    mixtures = [FeatureMixture.fit(around), FeatureMixture.fit(between)]
    share = {}
    for covariance in ("mixture", "shared"):
        router = MahalanobisRouter(MahalanobisRouterConfig(covariance=covariance))
        router.fit(mixtures)
        share[covariance] = float((router.route(around).ticket_ids == 0).float().mean())
    assert share["mixture"] > 0.99 > share["shared"]
