"""What all built-in routers share."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rtl_continual.errors import BankError, RTLError
from rtl_continual.routing import (
    UNKNOWN,
    FeatureMixture,
    Router,
    Routing,
    build_router,
    router_config_class,
    router_names,
)

WIDTH = 10
VARIANTS: dict[str, dict[str, Any]] = {
    "flat": {"name": "flat", "samples_per_ticket": 64, "iterations": 40},
    "flat, closed form": {"name": "flat", "discriminant_above": 3},
    "prototype": {"name": "prototype"},
    "kmeans": {"name": "kmeans", "samples": 64},
    "mahalanobis": {"name": "mahalanobis"},
    "one Gaussian": {"name": "mahalanobis", "covariance": "ticket"},
    "shared covariance": {"name": "mahalanobis", "covariance": "shared"},
    "hierarchical": {"name": "hierarchical"},
    "tree": {"name": "hierarchical", "exact_below": 0, "branching": 8},
}
ALL = pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())
MEASURING = pytest.mark.parametrize(
    "options",
    [options for options in VARIANTS.values() if options["name"] != "flat"],
    ids=[name for name, options in VARIANTS.items() if options["name"] != "flat"],
)


def build(options: dict[str, Any], **more: Any) -> Router:
    return build_router(router_config_class(options["name"]).model_validate({**options, **more}))


def cluster(index: int, count: int = 80, seed: int = 0) -> torch.Tensor:
    """Correlated features of one ticket's data; the last feature is dead."""
    center = 4 * torch.randn(WIDTH, generator=torch.Generator().manual_seed(index))
    mixing = torch.eye(WIDTH) + 0.3 * torch.ones(WIDTH, WIDTH)
    noise = torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(99 * seed + index))
    x = (noise @ mixing + center) * torch.logspace(-1, 1, WIDTH)
    x[:, -1] = 0.5
    return x


def mixtures(count: int) -> list[FeatureMixture]:
    return [FeatureMixture.fit(cluster(index)) for index in range(count)]


def probes(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.cat([cluster(index, 20, seed=1) for index in range(count)])
    return x, torch.arange(count).repeat_interleave(20)


def same(one: Routing, other: Routing, tolerance: float = 1e-4) -> bool:
    return torch.equal(one.ticket_ids, other.ticket_ids) and torch.allclose(
        one.confidence, other.confidence, atol=tolerance
    )


def test_every_router_is_tested_here() -> None:
    assert {options["name"] for options in VARIANTS.values()} == set(router_names())


@ALL
def test_clusters_find_their_tickets(options: dict[str, Any]) -> None:
    router = build(options)
    router.fit(mixtures(6))
    x, right = probes(6)
    answer = router.route(x)
    assert (answer.ticket_ids[:, 0] == right).float().mean() > 0.97
    assert torch.equal(answer.weights, torch.ones(120, 1))
    assert answer.confidence.dtype == torch.float32


@ALL
def test_a_ticket_at_a_time_gives_what_all_at_once_gives(options: dict[str, Any]) -> None:
    grown, at_once = build(options), build(options)
    for mixture in mixtures(6):
        grown.add(mixture)
    at_once.fit(mixtures(6))
    assert grown.num_tickets == at_once.num_tickets == 6
    x, _ = probes(6)
    assert same(grown.route(x), at_once.route(x))


@ALL
def test_a_loaded_router_grows_like_the_one_that_was_saved(options: dict[str, Any]) -> None:
    router, loaded = build(options), build(options)
    router.fit(mixtures(5))
    loaded.load_state_dict({name: t.clone() for name, t in router.state_dict().items()})
    if hasattr(loaded, "attach"):
        loaded.attach(mixtures(5))
    for one in (router, loaded):
        one.add(mixtures(6)[5])
    x, _ = probes(6)
    assert same(router.route(x), loaded.route(x))


@ALL
def test_an_empty_router_can_be_saved_and_loaded(options: dict[str, Any]) -> None:
    router = build(options)
    router.load_state_dict(build(options).state_dict())
    assert router.num_tickets == router.flops() == 0
    with pytest.raises(BankError, match="knows no ticket"):
        router.route(torch.zeros(1, WIDTH))


@ALL
def test_a_stir_in_a_feature_that_is_dead_everywhere_is_overheard(options: dict[str, Any]) -> None:
    router = build(options, **({} if options["name"] == "flat" else {"novelty": None}))
    router.fit(mixtures(6))
    x, right = probes(6)
    stirred = x.clone()
    stirred[:, -1] += 0.05
    found = router.route(stirred).ticket_ids[:, 0]
    assert (found == right).float().mean() > 0.97


@ALL
def test_where_it_is_unsure_nothing_or_the_fallback_serves(options: dict[str, Any]) -> None:
    between = (cluster(0, 60, seed=1) + cluster(1, 60, seed=1)) / 2
    x = torch.cat([probes(4)[0], between])
    free = build(options)
    free.fit(mixtures(4))
    confidence = free.route(x).confidence
    limit = float(confidence.quantile(0.3))
    unsure = confidence < limit
    assert 0 < unsure.sum() < len(x)
    for fallback, expected in ((None, UNKNOWN), (2, 2), (7, UNKNOWN)):
        router = build(options, abstain_below=limit, fallback=fallback)
        router.fit(mixtures(4))
        answer = router.route(x)
        assert torch.equal(answer.confidence, confidence)
        assert (answer.ticket_ids[unsure] == expected).all()
        assert torch.equal(answer.ticket_ids[~unsure], free.route(x).ticket_ids[~unsure])
        assert torch.equal(router.abstains(answer), unsure)
    assert not free.abstains(free.route(x)).any()


@ALL
def test_tickets_can_be_mixed_by_their_probabilities(options: dict[str, Any]) -> None:
    router, hard = build(options, mix=3), build(options)
    for one in (router, hard):
        one.fit(mixtures(4))
    x = torch.cat([probes(4)[0], (cluster(0, 60, seed=1) + cluster(1, 60, seed=1)) / 2])
    answer = router.route(x)
    assert answer.ticket_ids.shape == answer.weights.shape == (len(x), 3)
    torch.testing.assert_close(answer.weights.sum(dim=1), torch.ones(len(x)))
    assert (answer.weights.diff(dim=1) <= 0).all()
    assert (answer.ticket_ids.sort(dim=1).values.diff(dim=1) > 0).all()
    assert torch.equal(answer.ticket_ids[:, :1], hard.route(x).ticket_ids)
    assert router.route(x, budget=2).ticket_ids.shape == (len(x), 2)
    assert same(router.route(x, budget=1), hard.route(x))
    with pytest.raises(RTLError, match="a budget of 0 tickets"):
        router.route(x, budget=0)


@ALL
def test_a_mixing_router_that_abstains_gives_the_fallback_all_weight(
    options: dict[str, Any],
) -> None:
    router = build(options, mix=2, abstain_below=1.0, fallback=1)
    router.fit(mixtures(3))
    answer = router.route(cluster(0, 5, seed=1) * 1.3)
    unsure = router.abstains(answer)
    assert (answer.ticket_ids[unsure] == 1).all()
    assert torch.equal(answer.weights[unsure], torch.tensor([[1.0, 0.0]]).expand(unsure.sum(), 2))


@MEASURING
def test_confidence_fades_far_from_every_ticket(options: dict[str, Any]) -> None:
    router, blind = build(options), build(options, novelty=None)
    for one in (router, blind):
        one.fit(mixtures(4))
    inside, outside = probes(4)[0], 60 * cluster(9, 20, seed=1)
    assert (router.route(outside).confidence < 0.01).all()
    assert (router.route(inside).confidence > 0.5).float().mean() > 0.95
    assert torch.equal(router.route(outside).ticket_ids, blind.route(outside).ticket_ids)
    assert (blind.route(outside).confidence >= 0.25).all()


@ALL
def test_long_batches_are_worked_on_in_parts(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rtl_continual.routing import _centroids, _gaussians, flat

    router = build(options)
    router.fit(mixtures(5))
    x, _ = probes(5)
    whole = router.route(x)
    for module in (_centroids, _gaussians, flat):
        monkeypatch.setattr(module, "_VALUES_AT_ONCE", 64)
    assert same(router.route(x), whole)
