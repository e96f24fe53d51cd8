from __future__ import annotations

from itertools import pairwise

import pytest
from pydantic import ValidationError
from rtl_policy_anneal import (
    AnnealPolicy,
    AnnealPolicyConfig,
    AnnealSchedule,
    AnnealScheduleConfig,
)

from rtl_continual.plugins import get_manager
from rtl_continual.testing import check_relaxation_policy, check_sparsity_schedule
from rtl_continual.tickets import build_schedule
from rtl_continual.training import CollapseReport, TicketConfig, build_relaxation_policy


@pytest.mark.parametrize("options", [{}, {"heat": 0.0}, {"heat": 15.0}, {"protect_layers": False}])
def test_the_policy_keeps_its_contract(options: dict[str, object]) -> None:
    check_relaxation_policy(lambda: AnnealPolicy(AnnealPolicyConfig(**options)))


@pytest.mark.parametrize("hold", [0.0, 0.5, 0.9])
def test_the_schedule_keeps_its_contract(hold: float) -> None:
    check_sparsity_schedule(lambda: AnnealSchedule(AnnealScheduleConfig(hold=hold)))


def test_both_are_found_by_their_name() -> None:
    get_manager().load("rtl_policy_anneal")
    config = TicketConfig.model_validate(
        {"schedule": {"name": "anneal", "hold": 0.2}, "collapse": {"policy": {"name": "anneal"}}}
    )
    assert isinstance(build_schedule(config.schedule), AnnealSchedule)
    assert config.collapse is not None
    assert isinstance(build_relaxation_policy(config.collapse.policy), AnnealPolicy)


def test_the_later_the_fewer_weights_come_back() -> None:
    reports = [CollapseReport.example(step=s, healthy_sparsity=0.9) for s in (0, 200, 400, 500)]
    targets = [AnnealPolicy(AnnealPolicyConfig(heat=2.0)).relax(r).target for r in reports]
    assert targets == sorted(targets)
    assert targets[0] == pytest.approx(0.7)
    assert targets[-1] == pytest.approx(0.9)


def test_more_than_everything_cannot_come_back() -> None:
    report = CollapseReport.example(step=0, healthy_sparsity=0.1, sparsity=0.2)
    assert AnnealPolicy(AnnealPolicyConfig(heat=9.0)).relax(report).target == 0.0


def test_dying_layers_are_protected_if_asked_for() -> None:
    report = CollapseReport.example(dying_layers=("conv.weight",))
    assert AnnealPolicy().relax(report).layers == {"conv.weight": 0.95}
    assert AnnealPolicy(AnnealPolicyConfig(protect_layers=False)).relax(report).layers == {}


def test_the_schedule_holds_then_rises_slowly_fast_slowly() -> None:
    schedule = AnnealSchedule(AnnealScheduleConfig(hold=0.2))
    values = [schedule.sparsity(s, 100, start=0.3, target=0.9, ramp=1.0) for s in range(101)]
    assert values[:21] == [pytest.approx(0.3)] * 21
    steps = [after - before for before, after in pairwise(values[20:])]
    assert max(steps) == pytest.approx(steps[40], abs=1e-3)
    assert steps[0] < steps[20] < steps[40] > steps[60] > steps[79]


def test_options_are_checked() -> None:
    with pytest.raises(ValidationError):
        AnnealScheduleConfig(hold=1.0)
    with pytest.raises(ValidationError):
        AnnealPolicyConfig(heat=-1.0)
