"""Flags and relaxations are events, counted in the results, and drawn in the report."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rtl_continual.runs import load_scenario, run_scenario, write_report
from rtl_continual.runs._charts import collapse_plot
from rtl_continual.runs._files import read_events, read_json
from rtl_continual.training import CollapseMonitor, CollapseReport, TicketState

TEXT = """\
name: told
seeds: [0]
jobs: 1
stream:
  name: digits
  domains: [printed, handwritten]
  images_per_domain: 40
  test_images_per_domain: 20
backbone: {name: glyphnet, weights: "random:0", width: 2}
tickets: {epochs: 4, batch_size: 16, sparsity: 0.9, collapse: {max_relaxations: 1}}
methods: {rtl: {}, single_ticket: {}}
"""


@pytest.fixture
def folder(
    write_scenario: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A run in which every mask above 70 % is flagged."""
    check = CollapseMonitor.check

    def strict(self: CollapseMonitor, state: TicketState, target: float) -> CollapseReport | None:
        if state.sparsity <= 0.7:
            return check(self, state, target)
        return self._report(state, target, None, "drop", 0.5, ())

    monkeypatch.setattr(CollapseMonitor, "check", strict)
    run_scenario(load_scenario(write_scenario(TEXT)), tmp_path / "out")
    return tmp_path / "out"


def test_flags_and_relaxations_are_told(folder: Path) -> None:
    events = read_events(folder / "metrics.jsonl")
    flags = [e for e in events if e["event"] == "collapse" and e["method"] == "rtl"]
    answers = [e for e in events if e["event"] == "relaxation" and e["method"] == "rtl"]
    assert [(e["ticket"], e["cluster"]) for e in answers] == [(0, "printed"), (1, "handwritten")]
    for flag, answer in zip(flags, answers, strict=False):
        assert flag["direction"] == "drop"
        assert flag["sparsity"] > 0.7 >= flag["healthy_sparsity"]
        assert answer["target_before"] == 0.9
        assert answer["target_after"] == flag["healthy_sparsity"]
        assert answer["kept_after"] > answer["kept_before"]
    assert {e["method"] for e in events if e["event"] == "relaxation"} == {"rtl", "single_ticket"}
    tickets = read_json(folder / "results.json")["methods"]["rtl"]["tickets"]
    assert [t["relaxations"] for t in tickets] == [1, 1]
    assert [t["sparsity_target"] for t in tickets] == [e["target_after"] for e in answers]
    assert [t["collapse"]["score"] for t in tickets] == ["confidence", "confidence"]
    page = write_report(folder).read_text(encoding="utf-8")
    assert "the bound that it learned" in page
    assert '<td class="text">relaxation</td>' in page


def test_the_picture_shows_score_bound_and_flag() -> None:
    row: dict[str, Any] = {"step": 5, "sparsity": 0.5, "score": 0.9, "low": None, "flagged": False}
    trace = [row, {**row, "step": 9, "low": 0.8}, {**row, "step": 12, "score": 0.7, "low": 0.8}]
    trace[-1]["flagged"] = True
    seen = {"score": "confidence", "trace": [{**row, "score": None}, *trace]}
    picture = collapse_plot([{"id": 0, "cluster": "a", "collapse": seen}] * 6)
    root = ElementTree.fromstring(picture.replace("xlink:href", "href"))
    assert root.get("aria-label")
    for word in ("lower bound", "flag", "0 a", "confidence"):
        assert word in picture
