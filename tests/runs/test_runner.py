"""Runs: what they write, that they resume, and that workers change nothing."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from rtl_continual import load_bank
from rtl_continual.errors import RTLError
from rtl_continual.runs import RunProgress, load_scenario, read_events, run_scenario
from rtl_continual.runs._files import EventLog, plain, read_json, write_json
from rtl_continual.runs._units import Unit, plan_units
from rtl_continual.runs._workers import WorkerError, run_in_processes

Write = Callable[..., Path]

SWEEP = "sweep: {key: tickets.sparsity, values: [0.5, 0.9], methods: [fake]}\n"


def without(value: Any, *keys: str) -> Any:
    """The same without what may differ between two runs."""
    if isinstance(value, dict):
        return {k: without(v, *keys) for k, v in value.items() if k not in keys}
    return [without(v, *keys) for v in value] if isinstance(value, list) else value


def number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def share(value: Any) -> bool:
    return number(value) and 0 <= value <= 1


def check_entry(entry: dict[str, Any], domains: list[str], stages: int) -> None:
    for key in ("accuracy_matrix", "balanced_accuracy_matrix"):
        assert len(entry[key]) == stages
        assert all(len(row) == len(domains) and all(map(share, row)) for row in entry[key])
    final = entry["final"]
    for key in ("accuracy_by_domain", "balanced_accuracy_by_domain", "recall_macro_by_domain"):
        assert set(final[key]) == set(domains)
        assert all(map(share, final[key].values()))
    for key in (
        "accuracy_sample_weighted",
        "accuracy_domain_mean",
        "balanced_accuracy_domain_mean",
    ):
        assert share(final[key])
    assert share(entry["average_accuracy"])
    assert number(entry["forgetting"])
    assert number(entry["backward_transfer"])
    assert set(entry["parameters"]) >= {
        "backbone",
        "effective_union",
        "separate_models",
        "ratio_vs_separate",
        "bytes_on_disk",
    }
    assert all(map(number, entry["parameters"].values()))
    assert set(entry["seconds"]) == {"train", "eval"}


def test_results_keep_the_contract(tiny: str, write_scenario: Write, tmp_path: Path) -> None:
    text = tiny.replace("[0]", "[3, 4]") + "  other: {method: fake_offline, wrong: 0.5}\n" + SWEEP
    results = run_scenario(load_scenario(write_scenario(text)), tmp_path / "out")
    assert results == read_json(tmp_path / "out" / "results.json")
    assert {
        "schema_version",
        "scenario",
        "seeds",
        "device",
        "versions",
        "stream",
        "methods",
        "environment",
    } <= set(results)
    assert results["schema_version"] == 1
    assert results["seeds"] == [3, 4]
    assert results["labels"] == ["fake", "other"]
    domains = results["stream"]["domains"]
    assert domains == ["printed", "handwritten"]
    assert [e["train"] for e in results["stream"]["experiences"]] == [20, 20]
    assert results["stream"]["evaluation"] == {"printed": 20, "handwritten": 20}
    for label in ("fake", "other"):
        entry = results["methods"][label]
        check_entry(entry, domains, 2)
        assert [run["seed"] for run in entry["per_seed"]] == [3, 4]
        for run in entry["per_seed"]:
            check_entry(run, domains, 2)
        assert set(entry["std"]) >= set(entry["final"])
    ours = results["methods"]["fake"]
    assert set(ours["router"]) == {"name", "accuracy", "confusion", "abstained"}
    assert ours["discovery"]["adjusted_rand_index"] is None, "NaN has no place in JSON"
    assert ours["tickets"][0]["id"] == 0, "what is counted stays a whole number"
    offline = results["methods"]["other"]
    assert offline["protocol"] == "offline"
    assert offline["needs_domain"] is True
    assert offline["accuracy_matrix"][0] == offline["accuracy_matrix"][1]
    values = [run["final"]["accuracy_domain_mean"] for run in offline["per_seed"]]
    assert values[0] != values[1], "seeds differ"
    mean, half = sum(values) / 2, (values[0] - values[1]) / 2
    assert offline["final"]["accuracy_domain_mean"] == pytest.approx(mean)
    assert offline["std"]["accuracy_domain_mean"] == pytest.approx(abs(half) * math.sqrt(2))
    assert results["sweep"]["values"] == [0.5, 0.9]
    assert len(results["sweep"]["methods"]["fake"]) == 2
    assert results["sweep"]["methods"]["fake"][0] == ours, "the scenario's own value runs once"


def test_the_folder_holds_what_is_promised(
    tiny: str, write_scenario: Write, tmp_path: Path
) -> None:
    text = tiny.replace("fake:", "rtl_like: {method: fake}") + "  fake: {forgets: true}\n"
    scenario = load_scenario(write_scenario(text))
    results = run_scenario(scenario, tmp_path / "out")
    assert load_scenario(tmp_path / "out" / "config.yaml") == scenario
    assert sorted(p.name for p in (tmp_path / "out" / "units").iterdir()) == [
        "seed0.fake.json",
        "seed0.rtl_like.json",
    ]
    assert results["methods"]["fake"]["forgetting"] == 1.0
    assert results["methods"]["rtl_like"]["forgetting"] == 0.0
    events = read_events(tmp_path / "out" / "metrics.jsonl")
    names = [event["event"] for event in events]
    assert names[0] == "run_started"
    assert names[-1] == "run_finished"
    assert names.count("ticket_added") == 4
    evaluated = [e for e in events if e["event"] == "evaluated" and e["method"] == "fake"]
    assert evaluated[1]["accuracy"] == {"printed": 0.0, "handwritten": 1.0}


def test_validation_images_leave_the_test_sets_unseen(
    write_scenario: Write, tmp_path: Path
) -> None:
    scenario = load_scenario(write_scenario(), ["evaluate_on=validation"])
    results = run_scenario(scenario, tmp_path / "out")
    sizes = {e["name"]: e["validation"] for e in results["stream"]["experiences"]}
    assert results["stream"]["evaluation"] == sizes
    assert results["evaluated_on"] == "validation"


def test_a_frozen_backbone_that_changes_is_our_fault(write_scenario: Write, tmp_path: Path) -> None:
    scenario = load_scenario(write_scenario(), ["methods.fake.fails=thaw"])
    with pytest.raises(RuntimeError, match=r"seed0.fake: the frozen backbone has changed"):
        run_scenario(scenario, tmp_path / "out")


class TestResume:
    def test_goes_on_where_a_run_stopped(
        self, tiny: str, write_scenario: Write, tmp_path: Path
    ) -> None:
        text = tiny + "  other: {method: fake, wrong: 0.5}\n" + SWEEP
        whole = run_scenario(load_scenario(write_scenario(text)), tmp_path / "whole")
        broken = load_scenario(write_scenario(text))

        class Stop(RunProgress):
            def unit_started(self, job: int, unit: str) -> None:
                if unit == "seed0.other":
                    raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run_scenario(broken, tmp_path / "out", progress=Stop())
        assert not (tmp_path / "out" / "results.json").exists()
        first = (tmp_path / "out" / "units" / "seed0.fake.json").stat().st_mtime_ns
        with (tmp_path / "out" / "metrics.jsonl").open("a") as file:
            file.write('{"time": "cut of')
        resumed = run_scenario(broken, tmp_path / "out", resume=True)
        assert without(resumed, "seconds") == without(whole, "seconds")
        assert (tmp_path / "out" / "units" / "seed0.fake.json").stat().st_mtime_ns == first
        names = [e["event"] for e in read_events(tmp_path / "out" / "metrics.jsonl")]
        assert "run_resumed" in names
        assert names.count("unit_started") == 3

    def test_a_finished_run_resumes_to_the_same_file(
        self, write_scenario: Write, tmp_path: Path
    ) -> None:
        scenario = load_scenario(write_scenario())
        run_scenario(scenario, tmp_path / "out")
        before = (tmp_path / "out" / "results.json").read_bytes()
        run_scenario(scenario, tmp_path / "out", resume=True)
        assert (tmp_path / "out" / "results.json").read_bytes() == before

    def test_another_scenario_is_refused(self, write_scenario: Write, tmp_path: Path) -> None:
        run_scenario(load_scenario(write_scenario()), tmp_path / "out")
        changed = load_scenario(write_scenario(), ["tickets.sparsity=0.8", "jobs=2", "seeds=[1]"])
        with pytest.raises(RTLError) as caught:
            run_scenario(changed, tmp_path / "out", resume=True)
        lines = str(caught.value).splitlines()
        assert lines[1:] == ["  seeds was [0], is [1]", "  tickets.sparsity was 0.5, is 0.8"]

    def test_other_versions_are_refused(
        self, tiny: str, write_scenario: Write, tmp_path: Path
    ) -> None:
        scenario = load_scenario(write_scenario(tiny + "  other: {method: fake}\n"))
        run_scenario(scenario, tmp_path / "out")
        path = tmp_path / "out" / "units" / "seed0.other.json"
        unit = read_json(path)
        unit["versions"]["torch"] = "1.0"
        write_json(path, unit)
        with pytest.raises(RTLError, match=r"differ in their versions: torch was .*, is 1.0"):
            run_scenario(scenario, tmp_path / "out", resume=True)

    def test_a_damaged_unit_is_told(self, write_scenario: Write, tmp_path: Path) -> None:
        scenario = load_scenario(write_scenario())
        run_scenario(scenario, tmp_path / "out")
        (tmp_path / "out" / "units" / "seed0.fake.json").write_text("{")
        with pytest.raises(RTLError, match=r"seed0.fake.json: is damaged .*; delete it"):
            run_scenario(scenario, tmp_path / "out", resume=True)


class TestFolder:
    def test_what_is_there_is_not_overwritten(self, write_scenario: Write, tmp_path: Path) -> None:
        scenario = load_scenario(write_scenario())
        run_scenario(scenario, tmp_path / "out")
        with pytest.raises(RTLError, match="is not empty; add --resume"):
            run_scenario(scenario, tmp_path / "out")

    def test_what_is_no_run_is_not_resumed(self, write_scenario: Write, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "thesis.tex").touch()
        with pytest.raises(RTLError, match="holds no run"):
            run_scenario(load_scenario(write_scenario()), tmp_path / "out", resume=True)

    def test_a_file_is_no_folder(self, write_scenario: Write, tmp_path: Path) -> None:
        (tmp_path / "out").touch()
        with pytest.raises(RTLError, match="is a file; --out needs a folder"):
            run_scenario(load_scenario(write_scenario()), tmp_path / "out")

    def test_two_runs_do_not_share_a_folder(self, write_scenario: Write, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        with FileLock(tmp_path / "out" / ".lock"), pytest.raises(RTLError, match="another run"):
            run_scenario(load_scenario(write_scenario()), tmp_path / "out", resume=True)


def test_units_that_need_not_run_twice_run_once(tiny: str, write_scenario: Write) -> None:
    scenario = load_scenario(write_scenario(tiny + SWEEP))
    assert plan_units(scenario) == [Unit(0, "fake"), Unit(0, "fake", 1)]


REAL = """\
name: real
seeds: [0, 1, 2]
stream: {name: digits, domains: [printed], images_per_domain: 40, test_images_per_domain: 20}
backbone: {name: glyphnet, weights: "random:0", width: 2}
tickets: {epochs: 2, sparsity: 0.5}
methods:
  rtl:
"""


@pytest.mark.slow
def test_a_killed_run_with_workers_resumes_to_the_results_of_one_process(
    write_scenario: Write, tmp_path: Path
) -> None:
    path, out = write_scenario(REAL, "real.yaml"), tmp_path / "killed"
    whole = run_scenario(load_scenario(path), tmp_path / "whole")
    command = [sys.executable, "-m", "rtl_continual", "run", str(path), "--out", str(out)]
    driver = subprocess.Popen(
        [*command, "--jobs", "2"],
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 240
    while not list(out.glob("units/*.json")):
        assert driver.poll() is None, "ended before its first unit"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    children = Path(f"/proc/{driver.pid}/task/{driver.pid}/children")
    workers = children.read_text().split() if children.exists() else []
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert not (out / "results.json").exists()
    while any(_alive(pid) for pid in workers):
        assert time.monotonic() < deadline, "workers outlive their driver"
        time.sleep(0.05)
    resumed = run_scenario(load_scenario(path), out, resume=True)
    assert without(resumed, "seconds", "jobs") == without(whole, "seconds", "jobs")
    bank = load_bank(out / "bank")
    assert len(bank) == 1
    assert bank[0].info.provenance["seed"] == 0, "of the first seed"


def _alive(pid: str) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and ") Z " not in status.read_text()


class _Quiet:
    def started(self, job: int, unit: Unit) -> None: ...

    def event(self, unit: Unit, event: str, facts: dict[str, Any]) -> None: ...

    def working(self, job: int, text: str) -> None: ...

    def finished(self, job: int, unit: Unit, result: dict[str, Any]) -> None: ...


@pytest.mark.slow
def test_mistakes_and_bugs_in_workers_reach_the_driver(
    write_scenario: Write, tmp_path: Path
) -> None:
    wrong = load_scenario(write_scenario(REAL), ["backbone.weights=nowhere.safetensors"])
    with pytest.raises(RTLError, match=r"nowhere\.safetensors"):
        run_in_processes(wrong, tmp_path, [Unit(0, "rtl")], _Quiet(), 1)
    scenario = load_scenario(write_scenario(REAL))
    with pytest.raises(WorkerError, match=r"(?s)seed0.none:.*KeyError: 'none'"):
        run_in_processes(scenario, tmp_path, [Unit(0, "none")], _Quiet(), 1)


class TestFiles:
    def test_json_is_sorted_whole_and_without_nan(self, tmp_path: Path) -> None:
        write_json(tmp_path / "a.json", {"b": float("nan"), "a": (1, float("inf"))})
        assert json.loads((tmp_path / "a.json").read_text()) == {"a": [1, None], "b": None}
        assert (tmp_path / "a.json").read_text().index('"a"') < (
            tmp_path / "a.json"
        ).read_text().index('"b"')
        with pytest.raises(TypeError, match="object has no JSON form"):
            write_json(tmp_path / "a.json", {"a": object()})
        assert [p.name for p in tmp_path.iterdir()] == ["a.json"]

    def test_arrays_become_lists(self) -> None:
        import torch

        assert plain({"a": torch.tensor([1.5]), "b": torch.tensor(2)}) == {"a": [1.5], "b": 2}

    def test_events_of_attempts_cut_short_do_not_count(self, tmp_path: Path) -> None:
        path = tmp_path / "metrics.jsonl"
        with EventLog(path) as log:
            log.write("unit_started", unit="u")
            log.write("ticket_added", unit="u", ticket=0)
            assert len(path.read_text().splitlines()) == 2, "flushed as it happens"
        with path.open("a") as file:
            file.write('{"half')
        with EventLog(path) as log:
            log.write("unit_started", unit="u")
        assert [e["event"] for e in read_events(path)] == ["unit_started"]
        assert len(path.read_text().splitlines()) == 3
        assert read_events(tmp_path / "none.jsonl") == []
