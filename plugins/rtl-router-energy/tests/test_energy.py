from __future__ import annotations

import math

import pytest
import torch
from rtl_router_energy import EnergyRouter, EnergyRouterConfig

from rtl_continual.plugins import get_manager
from rtl_continual.routing import UNKNOWN, FeatureMixture, OutputsOf, build_router, router_names
from rtl_continual.testing import check_router


def clusters(count: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(60, 5, generator=generator) + 4 * i for i in range(count)]


def fitted(count: int = 3, **options: object) -> EnergyRouter:
    router = EnergyRouter(EnergyRouterConfig(**options))
    router.fit([FeatureMixture.fit(part) for part in clusters(count)])
    return router


@pytest.mark.parametrize("options", [{}, {"tickets": 2}, {"candidates": 1}, {"temperature": 9.0}])
def test_keeps_the_contract(options: dict[str, object]) -> None:
    check_router(lambda: EnergyRouter(EnergyRouterConfig(**options)))


def test_is_found_by_its_name() -> None:
    get_manager().load("rtl_router_energy")
    assert "energy" in router_names()
    assert isinstance(build_router(EnergyRouterConfig(tickets=2)), EnergyRouter)


def test_energy_is_the_negative_log_density_per_feature() -> None:
    router, x = fitted(), clusters(3, seed=1)[1][:4]
    mixture = FeatureMixture.fit(clusters(3)[1])
    assert torch.allclose(router.energies(x)[:, 1], -mixture.log_prob(x) / 5)


def test_only_candidates_are_evaluated() -> None:
    energies = fitted(count=6, candidates=2).energies(clusters(6)[0])
    assert (energies.isfinite().sum(dim=1) == 2).all()


def test_weights_fall_with_energy_and_even_out_with_temperature() -> None:
    between = torch.full((1, 5), 1.8)
    sharp = fitted(tickets=2).route(between)
    soft = fitted(tickets=2, temperature=50.0).route(between)
    assert sharp.ticket_ids.tolist() == [[0, 1]]
    assert sharp.weights[0, 0] > soft.weights[0, 0] > 0.5


def test_far_inputs_are_unknown() -> None:
    router = fitted(abstain_above=10.0)
    ids = router.route(torch.stack([clusters(3)[2][0], torch.full((5,), 99.0)])).ticket_ids
    assert ids.tolist() == [[2], [UNKNOWN]]


def heads(*sure: float) -> tuple[list[tuple[int, int]], OutputsOf]:
    """Tickets whose outputs are as sure as given, and what they were asked."""
    asked: list[tuple[int, int]] = []

    def outputs_of(ticket_id: int, rows: torch.Tensor) -> torch.Tensor:
        asked.append((ticket_id, len(rows)))
        return torch.tensor([sure[ticket_id], 0.0, 0.0]).expand(len(rows), 3)

    return asked, outputs_of


@pytest.mark.parametrize("score", ["energy", "entropy"])
def test_the_surest_head_among_the_candidates_wins(score: str) -> None:
    router = fitted(count=4, candidates=2, score=score)
    x = clusters(4)[0]
    assert router.route(x).ticket_ids.unique().tolist() == [0]
    asked, outputs_of = heads(1.0, 5.0, 9.0, 9.0)
    answer = router.route_by_outputs(x, outputs_of)
    assert answer.ticket_ids.unique().tolist() == [1]
    assert sum(rows for _, rows in asked) == 2 * len(x)
    assert {ticket for ticket, _ in asked} == {0, 1}
    assert bool(((answer.confidence > 0.5) & (answer.confidence <= 1)).all())


def test_scores_are_energy_and_entropy_of_the_outputs() -> None:
    _, outputs_of = heads(2.0, 0.0)
    x = torch.full((1, 5), 2.0)
    energy = torch.tensor([-(math.exp(2.0) + 2), -3.0]).abs().log()
    answer = fitted(count=2, tickets=2).route_by_outputs(x, outputs_of)
    assert torch.allclose(answer.weights[0], energy.softmax(dim=0), atol=1e-5)
    share = torch.tensor([2.0, 0.0, 0.0]).softmax(dim=0)
    entropy = torch.tensor([-(share * share.log()).sum(), math.log(3)])
    answer = fitted(count=2, tickets=2, score="entropy").route_by_outputs(x, outputs_of)
    assert torch.allclose(answer.weights[0], (-entropy).softmax(dim=0), atol=1e-5)


def test_features_alone_need_no_outputs() -> None:
    asked, outputs_of = heads(9.0, 0.0, 0.0)
    router = fitted(score="features")
    x = clusters(3)[1]
    assert router.route_by_outputs(x, outputs_of).ticket_ids.unique().tolist() == [1]
    assert asked == []


def test_far_inputs_are_unknown_to_heads_too() -> None:
    _, outputs_of = heads(9.0, 0.0, 0.0)
    router = fitted(abstain_above=10.0)
    assert router.route_by_outputs(torch.full((1, 5), 99.0), outputs_of).ticket_ids == UNKNOWN
