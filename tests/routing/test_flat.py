from __future__ import annotations

import pytest
import torch

from rtl_continual.backbones import backbone_flops, build_backbone
from rtl_continual.errors import BankError
from rtl_continual.routing import UNKNOWN, FeatureMixture, FlatRouter, FlatRouterConfig

WIDTH = 12


def cluster(index: int, count: int = 200, seed: int = 0) -> torch.Tensor:
    """Features of one ticket's data; scales differ by a factor of a thousand."""
    center = torch.randn(WIDTH, generator=torch.Generator().manual_seed(index)) * 3
    noise = torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(1000 * seed + index))
    return (noise + center) * torch.logspace(-2, 1, WIDTH)


def mixtures(count: int) -> list[FeatureMixture]:
    return [FeatureMixture.fit(cluster(index)) for index in range(count)]


def fitted(count: int, **options: object) -> FlatRouter:
    router = FlatRouter(FlatRouterConfig(**options))  # type: ignore[arg-type]
    router.fit(mixtures(count))
    return router


def test_clusters_are_told_apart() -> None:
    router = fitted(5)
    for index in range(5):
        routing = router.route(cluster(index, seed=1))
        assert routing.ticket_ids.shape == (200, 1)
        assert (routing.ticket_ids == index).float().mean() > 0.98
        assert torch.equal(routing.weights, torch.ones(200, 1))
        assert ((routing.confidence > 0.2) & (routing.confidence <= 1)).all()


def test_confidence_is_the_softmax_of_the_scores() -> None:
    router = fitted(3)
    features = cluster(0, 10, seed=2)
    expected = (features @ router.weight.T + router.bias).softmax(dim=1).max(dim=1).values
    torch.testing.assert_close(router.route(features).confidence, expected, rtol=1e-4, atol=1e-5)


def test_growing_gives_what_fitting_at_once_gives() -> None:
    parts = mixtures(4)
    grown, at_once = FlatRouter(), FlatRouter()
    for part in parts:
        grown.add(part)
    at_once.fit(parts)
    assert grown.num_tickets == at_once.num_tickets == 4
    torch.testing.assert_close(grown.weight, at_once.weight)
    torch.testing.assert_close(grown.bias, at_once.bias)


def test_growing_keeps_the_ids_of_old_tickets() -> None:
    router = fitted(3)
    before = [router.route(cluster(index, seed=1)).ticket_ids for index in range(3)]
    router.add(mixtures(4)[3])
    for index in range(3):
        same = router.route(cluster(index, seed=1)).ticket_ids == before[index]
        assert same.float().mean() > 0.97
    assert (router.route(cluster(3, seed=1)).ticket_ids == 3).float().mean() > 0.97


@pytest.mark.parametrize("tickets", [1, 2, 7])
@pytest.mark.parametrize("width", [8, 48, 131, 2048])
def test_a_row_has_the_same_bits_in_any_batch(tickets: int, width: int) -> None:
    router = FlatRouter()
    router.load_state_dict({"weight": torch.randn(tickets, width), "bias": torch.randn(tickets)})
    features = torch.randn(300, width)
    whole = router.scores(features)
    for count in (1, 2, 3, 17, 64):
        parts = [router.scores(part) for part in features.split(count)]
        assert torch.equal(torch.cat(parts), whole)
    strided = torch.randn(width, 300).T.copy_(features)
    assert torch.equal(router.scores(strided), whole)
    confidence = router.route(features).confidence
    alone = torch.cat([router.route(row[None]).confidence for row in features])
    assert torch.equal(alone, confidence)


def test_one_ticket_takes_everything() -> None:
    routing = fitted(1).route(cluster(4, 20))
    assert not routing.ticket_ids.any()
    assert torch.equal(routing.confidence, torch.ones(20))


def test_a_router_without_tickets_cannot_route() -> None:
    router = FlatRouter()
    assert router.num_tickets == router.flops() == 0
    with pytest.raises(BankError, match="knows no ticket"):
        router.route(torch.zeros(1, WIDTH))
    router.fit([])
    assert router.num_tickets == 0


def test_low_confidence_is_unknown() -> None:
    strict, plain = fitted(3, abstain_below=0.9), fitted(3)
    between = (cluster(0, 100, seed=1) + cluster(1, 100, seed=1)) / 2
    features = torch.cat([cluster(2, 100, seed=1), between])
    routing, free = strict.route(features), plain.route(features)
    assert torch.equal(routing.confidence, free.confidence)
    unsure = free.confidence < 0.9
    assert unsure.any()
    assert not unsure.all()
    assert (routing.ticket_ids[unsure] == UNKNOWN).all()
    assert torch.equal(routing.ticket_ids[~unsure], free.ticket_ids[~unsure])


def test_saved_and_loaded_it_routes_the_same_and_grows_once_it_has_its_mixtures() -> None:
    parts = mixtures(4)
    router, loaded, at_once = FlatRouter(), FlatRouter(), FlatRouter()
    router.fit(parts[:3])
    loaded.load_state_dict(router.state_dict())
    features = torch.cat([cluster(index, seed=1) for index in range(3)])
    for one, other in zip(router.route(features), loaded.route(features), strict=True):
        assert torch.equal(one, other)
    for growing in (
        lambda: loaded.add(parts[3]),
        lambda: loaded.gate_learner(features),
        lambda: loaded.add_trained([parts[3]], router.gate_learner(features)),
    ):
        with pytest.raises(BankError, match="without its tickets' mixtures"):
            growing()
    with pytest.raises(BankError, match="3 outputs for 4 tickets"):
        loaded.attach(parts)
    loaded.attach(parts[:3])
    loaded.add(parts[3])
    at_once.fit(parts)
    torch.testing.assert_close(loaded.weight, at_once.weight)


def test_a_loaded_router_does_not_share_memory_with_its_source() -> None:
    router, loaded = fitted(2), FlatRouter()
    state = router.state_dict()
    loaded.load_state_dict(state)
    before = loaded.weight.clone()
    state["weight"].zero_()
    assert torch.equal(loaded.weight, before)


def test_seeds_decide_the_samples() -> None:
    assert torch.equal(fitted(3).weight, fitted(3).weight)
    assert not torch.equal(fitted(3).weight, fitted(3, seed=1).weight)


def test_routing_costs_under_one_percent_of_the_backbone() -> None:
    backbone = build_backbone("glyphnet", weights="random:0")
    width, tickets = backbone.router_feature_dim, 5
    router = FlatRouter()
    router.load_state_dict({"weight": torch.zeros(tickets, width), "bias": torch.zeros(tickets)})
    assert router.flops() == 2 * tickets * width + tickets
    assert router.flops() < 0.01 * backbone_flops(backbone)["total"]
