"""The regression guard over speed ratios, on made-up figures: nothing is timed here."""

from __future__ import annotations

import copy
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOUND: dict[str, dict[str, Any]] = {
    "inference": {
        "benchmark": "inference",
        "quick": False,
        "machine": {},
        "ratios": {
            "a/routed": {"ratio": 1.0, "low": 0.98, "high": 1.02, "pairs": 15},
            "b/routed": {"ratio": 2.0, "low": 1.9, "high": 2.1, "pairs": 15},
        },
    }
}


@pytest.fixture
def run_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """``benchmarks/run_all.py`` with a results page and a baseline of its own."""
    path = Path(__file__).parents[1] / "benchmarks" / "run_all.py"
    spec = importlib.util.spec_from_file_location("run_all_under_test", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "RESULTS", tmp_path / "results.md")
    monkeypatch.setattr(module, "BASELINE", tmp_path / "baseline.json")
    module.RESULTS.write_text("# Results\n")
    module.write(FOUND)
    return module


def later(key: str, ratio: float, *, spread: float = 0.04) -> dict[str, dict[str, Any]]:
    found = copy.deepcopy(FOUND)
    row = found["inference"]["ratios"][key]
    row |= {"ratio": ratio, "low": ratio - spread / 2, "high": ratio + spread / 2}
    return found


@pytest.mark.parametrize(
    ("found", "worse"),
    [
        (FOUND, 0),
        (later("a/routed", 1.2), 0),
        (later("a/routed", 0.5), 0),
        (later("a/routed", 1.3), 1),
        (later("b/routed", 2.45), 0),
        (later("b/routed", 2.7), 1),
        # A wide spread is noise, and is forgiven by half its width.
        (later("a/routed", 1.3, spread=0.4), 0),
    ],
)
def test_only_what_is_worse_beyond_the_margin_counts(
    run_all: ModuleType, found: dict[str, dict[str, Any]], worse: int
) -> None:
    assert run_all.check(found) == worse


@pytest.mark.parametrize(("ratio", "code"), [(1.0, 0), (1.5, 1)])
def test_the_exit_code_tells(
    run_all: ModuleType, monkeypatch: pytest.MonkeyPatch, ratio: float, code: int
) -> None:
    monkeypatch.setattr(run_all, "run", lambda name, quick: later("a/routed", ratio)[name])
    monkeypatch.setattr(sys, "argv", ["run_all.py", "--check", "--only", "inference"])
    assert run_all.main() == code


def test_a_check_that_compares_nothing_fails(run_all: ModuleType) -> None:
    other = {"inference": {**FOUND["inference"], "ratios": {"c/routed": {"ratio": 1.0}}}}
    assert run_all.check(other) == 1


def test_quick_runs_are_compared_where_they_measure_the_same(run_all: ModuleType) -> None:
    quick = later("a/routed", 1.5)
    quick["inference"]["quick"] = True
    del quick["inference"]["ratios"]["b/routed"]
    assert run_all.check(quick) == 1


def test_writing_one_benchmark_leaves_the_others(run_all: ModuleType) -> None:
    more = {
        "benchmark": "startup",
        "machine": {},
        "ratios": {"c": FOUND["inference"]["ratios"]["a/routed"]},
    }
    run_all.write({"startup": more})
    run_all.write(later("a/routed", 0.5))
    page = run_all.RESULTS.read_text()
    assert page.count("### ") == 2
    assert (
        page.index("### inference") < page.index("| a/routed | 0.500 |") < page.index("### startup")
    )
    assert json.loads(run_all.BASELINE.read_text()).keys() == {"inference", "startup"}


def test_a_written_page_can_be_written_again(run_all: ModuleType) -> None:
    page = run_all.RESULTS.read_text()
    run_all.write(FOUND)
    assert run_all.RESULTS.read_text() == page
    assert "| a/routed | 1.000 | 0.980 to 1.020 | 15 |" in page
    assert json.loads(run_all.BASELINE.read_text())["inference"]["ratios"].keys() == {
        "a/routed",
        "b/routed",
    }
