from __future__ import annotations

import pytest
import torch
from rtl_router_energy import EnergyRouter, EnergyRouterConfig

from rtl_continual.plugins import get_manager
from rtl_continual.routing import UNKNOWN, FeatureMixture, build_router, router_names
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
