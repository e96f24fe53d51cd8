"""What policies decide, what a learner does about it, and that it never goes on for ever."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from rtl_continual.errors import ConfigError, RTLError
from rtl_continual.runs import load_scenario
from rtl_continual.streams import ArraySet
from rtl_continual.tickets import Ticket, TicketBank, TicketInfo
from rtl_continual.training import (
    CollapseConfig,
    CollapseMonitor,
    CollapseReport,
    LayersPolicy,
    LayersPolicyConfig,
    RegrowPolicy,
    RegrowPolicyConfig,
    RelaxationPolicy,
    StopPolicy,
    StopPolicyConfig,
    TicketConfig,
    TicketLearner,
    TicketState,
    build_relaxation_policy,
    learn_ticket,
)

MakeData = Callable[..., ArraySet]
Event = tuple[CollapseReport, Mapping[str, Any] | None]


@pytest.mark.parametrize(
    ("margin", "expected"), [(1.0, 0.97), (2.0, 0.94), (16.0, 0.52)], ids=["none", "twice", "most"]
)
def test_regrow_steps_back_from_the_last_healthy_mask(margin: float, expected: float) -> None:
    report = CollapseReport.example(sparsity=0.985, healthy_sparsity=0.97, target=0.99)
    relaxation = RegrowPolicy(RegrowPolicyConfig(margin=margin)).relax(report)
    assert relaxation is not None
    assert relaxation.target == pytest.approx(expected)
    assert not relaxation.layers
    assert not relaxation.freeze


@pytest.mark.parametrize("policy", [RegrowPolicy(), StopPolicy(), LayersPolicy()])
def test_no_policy_raises_a_target(policy: RelaxationPolicy) -> None:
    relaxation = policy.relax(CollapseReport.example(healthy_sparsity=0.97, target=0.9))
    assert relaxation is not None
    assert relaxation.target <= 0.9


@pytest.mark.parametrize("config", [RegrowPolicyConfig(), StopPolicyConfig(), LayersPolicyConfig()])
def test_policies_are_built_from_their_options(config: BaseModel) -> None:
    policy = build_relaxation_policy(config)
    assert policy.name == config.name  # type: ignore[attr-defined]
    report = CollapseReport.example()
    assert policy.relax(report) == policy.relax(report)


def test_options_of_no_policy_are_refused() -> None:
    class Other(BaseModel):
        model_config = ConfigDict(extra="forbid")

    with pytest.raises(RTLError, match="unknown relaxation policy config 'Other'"):
        build_relaxation_policy(Other())


@pytest.fixture
def alarm(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Every mask sparser than the number in this list is flagged, whatever its score."""
    limit = [0.7]

    def check(self: CollapseMonitor, state: TicketState, target: float) -> CollapseReport | None:
        if state.sparsity <= limit[0]:
            self._before = self._healthy = state
            return None
        return self._report(state, target, None, None, None, ())

    monkeypatch.setattr(CollapseMonitor, "check", check)
    return limit


def learn(
    bank: TicketBank, data: ArraySet, **collapse: Any
) -> tuple[Ticket, TicketLearner, list[Event]]:
    events: list[Event] = []
    config = TicketConfig(
        epochs=8, batch_size=16, sparsity=0.95, collapse=CollapseConfig(**collapse)
    )
    ticket, learner = learn_ticket(
        bank,
        data,
        config,
        info=TicketInfo("t"),
        seed=0,
        on_collapse=lambda report, facts: events.append((report, facts)),
    )
    return ticket, learner, events


def test_regrow_ends_at_the_last_healthy_sparsity(
    bank: TicketBank, make_data: MakeData, alarm: list[float]
) -> None:
    ticket, _, events = learn(bank, make_data(), policy=RegrowPolicyConfig(margin=1.0))
    (report, facts), *more = events
    assert not more
    assert facts is not None
    assert facts["policy"] == "regrow"
    assert facts["target_before"] == 0.95
    assert facts["target_after"] == report.healthy_sparsity < 0.7
    assert facts["kept_after"] > facts["kept_before"]
    assert ticket.mask.sparsity == pytest.approx(report.healthy_sparsity, abs=1e-3)
    assert ticket.info.sparsity_target == report.healthy_sparsity
    assert ticket.info.relaxations == 1
    assert ticket.info.provenance["collapse"]["relaxations"] == [facts]
    TicketInfo.from_json(ticket.info.to_json())


def test_stop_puts_the_last_healthy_mask_back_and_keeps_it(
    bank: TicketBank, make_data: MakeData, alarm: list[float]
) -> None:
    ticket, learner, events = learn(bank, make_data(), policy=StopPolicyConfig())
    assert len(events) == 1
    report, facts = events[0]
    assert facts is not None
    assert facts["frozen"]
    assert ticket.mask.sparsity == pytest.approx(report.healthy_sparsity, abs=1e-3)
    assert learner.watch is not None
    assert learner.watch._healthy_keep is not None
    assert ticket.mask.to_flat().equal(learner.watch._healthy_keep.bool().cpu())


def test_layers_keep_what_they_had_and_the_rest_goes_on(
    bank: TicketBank, make_data: MakeData, alarm: list[float]
) -> None:
    ticket, _, events = learn(bank, make_data(), policy=LayersPolicyConfig(), max_relaxations=1)
    report, facts = events[0]
    assert facts is not None
    assert facts["target_after"] == 0.95
    assert 0 < len(facts["layers"]) < len(bank.layout.sizes)
    density = ticket.mask.layer_density()
    for name in bank.layout.sizes:
        if name in report.layers:
            assert 1 - density[name] <= report.healthy_layer_sparsity[name] + 0.01
    others = [name for name in bank.layout.sizes if name not in report.layers]
    assert any(density[name] < 0.5 * (1 - report.layer_sparsity[name]) for name in others)


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_relaxations_are_bounded(
    bank: TicketBank, make_data: MakeData, alarm: list[float], limit: int
) -> None:
    alarm[0] = -1.0  # nothing is ever healthy
    ticket, learner, events = learn(bank, make_data(), max_relaxations=limit)
    assert sum(facts is not None for _, facts in events) <= limit
    assert len(events) <= limit + 1
    assert ticket.info.relaxations <= limit
    assert learner.steps_done == learner.total_steps


def test_a_policy_may_decline(
    bank: TicketBank, make_data: MakeData, alarm: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RegrowPolicy, "relax", lambda self, report: None)
    ticket, _, events = learn(bank, make_data())
    assert [facts for _, facts in events] == [None]
    assert ticket.mask.sparsity == pytest.approx(0.95, abs=1e-3)
    assert ticket.info.provenance["collapse"]["flags"] == 1


def test_the_same_seed_relaxes_the_same_way(
    bank: TicketBank, make_data: MakeData, alarm: list[float]
) -> None:
    prints = {learn(bank, make_data())[0].fingerprint for _ in range(2)}
    assert len(prints) == 1


SCENARIO = """\
name: s
stream: {name: digits}
backbone: {name: glyphnet}
tickets:
  collapse:
    score: confidense
    direction: sideways
    policy: {name: regrow, margin: 0.5}
    max_relaxations: -1
methods: {rtl: {}}
"""


def test_mistakes_in_the_section_are_reported_with_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(SCENARIO, encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        load_scenario(path)
    lines = error.value.problems
    assert [line.removeprefix(str(path)).split(":")[1] for line in lines] == ["6", "7", "8", "9"]
    assert "tickets.collapse.score" in lines[0]
    assert "did you mean 'confidence'?" in lines[0]
    assert "drop" in lines[1]
    assert "margin" in lines[2]
    assert "at least 0" in lines[3]
