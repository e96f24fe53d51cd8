"""A monitor learns what is usual from healthy checks, and sees no label."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import pytest
import torch

from rtl_continual.backbones import Backbone
from rtl_continual.streams import ArraySet
from rtl_continual.tickets import Mask, MaskLayout, MaskScores, TicketBank, TicketInfo
from rtl_continual.training import (
    COLLAPSE_SCORES,
    CollapseConfig,
    CollapseMonitor,
    CollapseReport,
    CollapseScore,
    CollapseWatch,
    ScoreValue,
    TicketConfig,
    TicketLearner,
    TicketState,
    TrunkCache,
    commit_ticket,
    learn_ticket,
    watch_collapse,
)
from rtl_continual.training._collapse_scores import attainable_overlap

MakeData = Callable[..., ArraySet]
LAYOUT = MaskLayout({"a.weight": (40, 50), "b.weight": (8, 50)})


def mask_of(seed: int, sparsity: float) -> Mask:
    weights = torch.rand(LAYOUT.total, generator=torch.Generator().manual_seed(seed))
    scores = MaskScores(LAYOUT, weights, weights)
    scores.binarise(sparsity)
    return scores.mask()


def state_of(
    sparsity: float,
    *,
    mask: Mask | None = None,
    others: Sequence[Mask] = (),
    outputs: torch.Tensor | None = None,
    ahead: torch.Tensor | None = None,
) -> TicketState:
    return TicketState(
        step=10,
        total_steps=100,
        sparsity=sparsity,
        mask=mask or mask_of(0, sparsity),
        others=tuple(others),
        features=torch.eye(8),
        outputs=torch.zeros(100, 4) if outputs is None else outputs,
        ahead=torch.zeros(100, 4) if ahead is None else ahead,
    )


class Scripted(CollapseScore):
    """Says what the test wants, in order."""

    name = "scripted"

    def __init__(self, values: Sequence[float], *, falls: bool = False) -> None:
        self.values = iter(values)
        self.falls_with_sparsity = falls  # type: ignore[misc]

    def measure(self, state: TicketState, before: TicketState | None) -> ScoreValue:
        return ScoreValue(next(self.values), 0.1)


def run(
    values: Sequence[float],
    *,
    direction: Literal["drop", "rise", "either"] = "drop",
    falls: bool = False,
    earlier: Sequence[Sequence[tuple[float, float]]] = (),
) -> list[CollapseReport | None]:
    """Check a script of scores, a third of a halving of the weights from one to the next."""
    monitor = CollapseMonitor("t", direction=direction, earlier=earlier)
    monitor.score = Scripted(values, falls=falls)
    monitor._earlier = [monitor._judged(rows) for rows in earlier]
    same = mask_of(0, 0.5)
    return [
        monitor.check(state_of(1 - 0.5 ** (1 + i / 3), mask=same), 0.99) for i in range(len(values))
    ]


PLATEAU = [0.3, 0.8, 0.95, 0.96, 0.97, 0.96, 0.95]


def flagged(reports: Sequence[CollapseReport | None]) -> list[int]:
    return [i for i, report in enumerate(reports) if report is not None]


def test_learning_at_first_and_scatter_later_are_no_collapse() -> None:
    assert flagged(run([*PLATEAU, 0.955, 0.94, 0.965, 0.95])) == []


def test_a_drop_below_the_usual_is_flagged_at_once() -> None:
    reports = run([*PLATEAU, 0.8])
    assert flagged(reports) == [7]
    report = reports[7]
    assert report is not None
    assert report.direction == "drop"
    assert report.score == 0.8
    assert report.threshold is not None
    assert 0.8 < report.threshold < 0.94
    assert report.sparsity == pytest.approx(1 - 0.5 ** (1 + 7 / 3))
    assert report.healthy_sparsity == pytest.approx(1 - 0.5**3)
    assert [value for _, value in report.history] == PLATEAU


def test_a_slow_decline_does_not_become_usual() -> None:
    slow = [0.96 - 0.01 * i for i in range(20)]
    first = flagged(run([*PLATEAU, *slow]))[0]
    assert slow[first - len(PLATEAU)] > 0.85


def test_what_scatters_more_needs_a_deeper_drop() -> None:
    rough = [0.3, 0.7, 0.99, 0.85, 0.96, 0.8, 0.9]
    assert flagged(run([*PLATEAU, 0.85])) == [7]
    assert flagged(run([*rough, 0.78])) == []
    assert flagged(run([*rough, 0.2])) == [7]


def test_the_threshold_is_learned_from_earlier_tickets_too() -> None:
    rough = [(0.5, v) for v in (0.99, 0.85, 0.96, 0.8, 0.9)]
    assert flagged(run([*PLATEAU, 0.85], earlier=[rough, rough])) == []


@pytest.mark.parametrize(("direction", "expected"), [("drop", []), ("rise", [7]), ("either", [7])])
def test_direction_says_which_way_out_counts(
    direction: Literal["drop", "rise", "either"], expected: list[int]
) -> None:
    low = [0.4, 0.3, 0.31, 0.3, 0.29, 0.3, 0.31]
    reports = run([*low, 0.6], direction=direction)
    assert flagged(reports) == expected
    assert all(r.direction == "rise" for r in reports if r is not None)


def test_no_flag_before_anything_is_known() -> None:
    assert flagged(run([0.9, 0.9, 0.9, 0.9, 0.0])) == []


def test_a_score_that_falls_with_sparsity_is_judged_by_its_slope() -> None:
    line = [0.9 - 0.05 * i for i in range(8)]
    assert flagged(run([*line, line[-1] - 0.05], falls=True)) == []
    assert flagged(run([*line, line[-1] - 0.05])) != []
    assert flagged(run([*line, line[-1] - 0.3], falls=True)) == [8]


def test_a_flagged_check_teaches_nothing() -> None:
    reports = run([*PLATEAU, 0.5, 0.5, 0.5, 0.96])
    assert flagged(reports) == [7, 8, 9]
    assert reports[9] is not None
    assert len(reports[9].history) == len(PLATEAU)


def test_a_layer_about_to_lose_its_last_weights_is_flagged() -> None:
    monitor = CollapseMonitor("t")
    keep = torch.ones(LAYOUT.total, dtype=torch.bool)
    thin, last = keep.clone(), keep.clone()
    thin[2000 + 30 :] = False
    last[2000 + 4 :] = False
    monitor.score = Scripted([0.9] * 3)
    states = [state_of(0.5, mask=Mask.from_flat(LAYOUT, k)) for k in (keep, thin, last)]
    assert [monitor.check(state, 0.9) for state in states[:2]] == [None, None]
    report = monitor.check(states[2], 0.9)
    assert report is not None
    assert report.dying_layers == report.layers == ("b.weight",)
    assert report.direction is None
    assert report.threshold is None
    assert report.layer_sparsity["b.weight"] == pytest.approx(1 - 4 / 400)
    assert report.healthy_layer_sparsity["b.weight"] == pytest.approx(1 - 30 / 400)


def test_overlap_is_corrected_for_chance_and_for_unequal_sizes() -> None:
    a, b = mask_of(1, 0.9), mask_of(2, 0.9)
    value, chance, layers = attainable_overlap(a, b)
    assert abs(value) < 0.05
    assert chance == pytest.approx(0.1 / 1.9, abs=1e-3)
    assert set(layers) == set(LAYOUT.shapes)
    # A mask within a larger one shares all it can.
    assert attainable_overlap(mask_of(1, 0.97), mask_of(1, 0.9))[0] == pytest.approx(1, abs=0.05)
    assert attainable_overlap(a, a)[0] == pytest.approx(1)


def test_scores_of_outputs_and_features() -> None:
    sure = torch.zeros(100, 4)
    sure[:, 0] = 50.0
    split = sure.clone()
    split[:25, 1] = 99.0
    before, now = state_of(0.5, outputs=sure), state_of(0.6, outputs=split)
    agreement = COLLAPSE_SCORES["agreement"].measure(now, before)
    assert agreement is not None
    assert agreement.value == pytest.approx(0.75)
    assert COLLAPSE_SCORES["agreement"].measure(before, None) is None
    confidence = COLLAPSE_SCORES["confidence"]
    flat = confidence.measure(state_of(0.5), None)
    certain = confidence.measure(before, None)
    assert flat is not None
    assert flat.value == pytest.approx(0.25) == flat.chance
    assert certain is not None
    assert certain.value == pytest.approx(1.0)
    lookahead = COLLAPSE_SCORES["lookahead"].measure(state_of(0.5, outputs=sure, ahead=split), None)
    assert lookahead is not None
    assert lookahead.value == pytest.approx(0.75)
    rank = COLLAPSE_SCORES["rank"].measure(before, None)
    assert rank is not None
    assert rank.value == pytest.approx(7 / 8)


def test_similarity_needs_someone_to_be_compared_with() -> None:
    for name in ("similarity", "layer_similarity"):
        assert COLLAPSE_SCORES[name].measure(state_of(0.9), None) is None
        same = state_of(0.9, mask=mask_of(1, 0.9), others=[mask_of(1, 0.9), mask_of(2, 0.9)])
        found = COLLAPSE_SCORES[name].measure(same, None)
        assert found is not None
        assert 0.4 < found.value < 0.6


class NoLabels:
    """Training data whose labels nobody may read."""

    def __init__(self, cache: TrunkCache) -> None:
        self.features = cache.features
        self._activations = cache.batch(torch.arange(len(cache.targets)))[0]

    def batch(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, Any]:
        return self._activations[index], self.features[index], Forbidden()

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"read {name}")


class Forbidden:
    def __getattribute__(self, name: str) -> Any:
        raise AssertionError("read a label")


def tensors_in(value: object) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mask):
        yield value.to_flat()
    elif dataclasses.is_dataclass(value):
        for part in dataclasses.fields(value):
            yield from tensors_in(getattr(value, part.name))
    elif isinstance(value, tuple | list):
        for part in value:
            yield from tensors_in(part)


def test_no_monitor_sees_a_label(
    bank: TicketBank, make_data: MakeData, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = TrunkCache(bank, make_data(), 10**8)
    seen: list[TicketState] = []
    check = CollapseMonitor.check

    def spy(self: CollapseMonitor, state: TicketState, target: float) -> Any:
        seen.append(state)
        return check(self, state, target)

    monkeypatch.setattr(CollapseMonitor, "check", spy)
    config = TicketConfig(batch_size=16, collapse=CollapseConfig(probe_images=32))
    learner = TicketLearner(bank, config, total_steps=20, seed=0, features=cache.features)
    watch_collapse(learner, NoLabels(cache), ticket="t")
    for step in range(20):
        activation, features, targets = cache.batch(torch.arange(16) + 16 * (step % 6))
        learner.step(activation, targets, features)
    assert len(seen) > 3
    for state in seen:
        # Nothing that is handed over is a whole number a label could be.
        assert {t.dtype for t in tensors_in(state)} <= {torch.float32, torch.bool}
        assert not any(t.requires_grad for t in tensors_in(state))


def test_watching_changes_nothing_while_no_flag_is_raised(
    bank: TicketBank, make_data: MakeData
) -> None:
    prints = []
    for collapse in (None, CollapseConfig(max_relaxations=0)):
        config = TicketConfig(epochs=3, batch_size=16, collapse=collapse)
        ticket, _ = learn_ticket(bank, make_data(), config, info=TicketInfo("a"), seed=0)
        prints.append(ticket.fingerprint)
    assert prints[0] == prints[1]
    trace = ticket.info.provenance["collapse"]["trace"]
    assert [row["sparsity"] for row in trace] == sorted(row["sparsity"] for row in trace)
    assert trace[-1]["sparsity"] == pytest.approx(0.9)


def test_a_first_ticket_is_compared_with_the_largest_weights_and_later_ones_with_it(
    bank: TicketBank, make_data: MakeData
) -> None:
    config = TicketConfig(
        epochs=4, batch_size=16, start="cold", collapse=CollapseConfig(max_relaxations=0)
    )
    for number in range(2):
        ticket, learner = learn_ticket(
            bank, make_data(number), config, info=TicketInfo(f"t{number}"), seed=0
        )
        assert isinstance(learner.watch, CollapseWatch)
        state = learner.watch._state(learner, 0.9)
        if number == 0:
            assert state.others[0].sparsity == pytest.approx(0.9, abs=1e-3)
        else:
            assert state.others == (bank[0].mask,)
            histories = [ticket.info.provenance["collapse"] for ticket in bank]
            assert len(learner.watch.monitor._earlier) == sum(not h["flags"] for h in histories)
        commit_ticket(bank, ticket, learner)


def test_batch_statistics_of_a_probe_are_not_kept(backbone: Backbone, bank: TicketBank) -> None:
    learner = TicketLearner(bank, TicketConfig(), total_steps=5, seed=0)
    before = {name: t.detach().clone() for name, t in learner.norm.items()}
    activation = backbone.run_trunk(torch.rand(12, 3, 32, 32)).activation
    features, outputs = learner.probe(activation)
    assert features.shape == (12, backbone.feature_dim)
    assert outputs.shape == (12, 4)
    assert all(torch.equal(before[name], t) for name, t in learner.norm.items())
