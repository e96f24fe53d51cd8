"""Runs a scenario into a folder, and goes on where a killed run stopped."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from rtl_continual.errors import RTLError
from rtl_continual.plugins import get_manager
from rtl_continual.problems import shown
from rtl_continual.runs._files import EventLog, read_json, write_json, write_text
from rtl_continual.runs._progress import RunProgress
from rtl_continual.runs._results import assemble
from rtl_continual.runs._scenario import Scenario
from rtl_continual.runs._units import Unit, pick_device, plan_units
from rtl_continual.runs._workers import run_here, run_in_processes

__all__ = ["run_scenario"]

_UNIT_KEYS = ("unit", "entry", "stream", "backbone", "device", "versions")
"""What a finished unit's file holds."""


def run_scenario(
    scenario: Scenario,
    folder: str | Path,
    *,
    resume: bool = False,
    progress: RunProgress | None = None,
) -> dict[str, Any]:
    """Run every unit of a scenario and write the run's folder.

    Each finished unit is saved at once, so a run that is killed loses only the units it was at.

    Args:
        scenario: what to run.
        folder: gets ``config.yaml``, ``metrics.jsonl``, ``units/``, ``results.json`` and ``bank/``.
        resume: go on with what ``folder`` holds. A folder that does not exist is a fresh start.
        progress: is told what happens.

    Returns:
        The content of ``results.json``.

    Raises:
        RTLError: if the folder is in use, or holds something else than this scenario's run, or if
            data and options do not fit.
    """
    folder = Path(folder)
    pick_device(scenario.device)
    _check_folder(folder, resume)
    try:
        (folder / "units").mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        with lock.acquire(timeout=0):
            return _run_locked(scenario, folder, progress or RunProgress())
    except Timeout:
        raise RTLError(f"{folder}: another run is writing here") from None
    except OSError as error:
        if error.filename is None:
            raise
        raise RTLError(f"{error.filename}: cannot be written: {error.strerror}") from error


def _check_folder(folder: Path, resume: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise RTLError(f"{folder}: is a file; --out needs a folder")
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not resume:
        raise RTLError(f"{folder}: is not empty; add --resume to go on with it, or choose another")
    if not (folder / ".lock").exists():
        raise RTLError(f"{folder}: holds no run, there is nothing to resume")


def _run_locked(scenario: Scenario, folder: Path, progress: RunProgress) -> dict[str, Any]:
    config = folder / "config.yaml"
    if config.exists():
        _check_same(scenario, config)
    else:
        write_text(config, scenario.to_yaml())
    shutil.rmtree(folder / ".bank-partial", ignore_errors=True)
    units = plan_units(scenario)
    files = {unit: _unit_file(folder, unit) for unit in units}
    done = {unit: read_json(file, _UNIT_KEYS) for unit, file in files.items() if file.exists()}
    waiting = [unit for unit in units if unit not in done]
    with EventLog(folder / "metrics.jsonl") as log:
        log.write(
            "run_resumed" if done else "run_started",
            scenario=scenario.name,
            units=len(units),
            finished=len(done),
        )
        hook = get_manager().hook
        hook.run_started(scenario=scenario, folder=folder)
        jobs = min(scenario.jobs, len(waiting))
        progress.begin(len(units), len(done), max(jobs, 1))
        try:
            recorder = _Recorder(folder, log, progress, done)
            _execute(scenario, folder, waiting, recorder, jobs)
        finally:
            progress.end()
        results = assemble(scenario, {unit: done[unit] for unit in units})
        write_json(folder / "results.json", results)
        log.write("run_finished", units=len(units))
        hook.run_finished(scenario=scenario, folder=folder, results=results)
    return results


def _execute(
    scenario: Scenario, folder: Path, units: Sequence[Unit], recorder: _Recorder, jobs: int
) -> None:
    if jobs > 1:
        run_in_processes(scenario, folder, units, recorder, jobs)
    elif units:
        run_here(scenario, folder, units, recorder)


def _unit_file(folder: Path, unit: Unit) -> Path:
    return folder / "units" / f"{unit.id}.json"


def _check_same(scenario: Scenario, config: Path) -> None:
    """A run may be resumed with another number of jobs, and with nothing else changed."""
    try:
        before = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise RTLError(f"{config}: cannot be read: {error}") from error
    changed = _changes(before, yaml.safe_load(scenario.to_yaml()), "")
    changed = [line for line in changed if not line.startswith("jobs ")]
    if changed:
        raise RTLError(
            f"{config.parent}: holds another scenario's run, this one cannot go on with it:\n"
            + "\n".join(f"  {line}" for line in changed[:8])
        )


def _changes(before: Any, now: Any, path: str) -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        lines = []
        for key in dict.fromkeys([*before, *now]):
            inner = f"{path}.{key}" if path else key
            lines += _changes(before.get(key), now.get(key), inner)
        return lines
    return [] if before == now else [f"{path} was {shown(before)}, is {shown(now)}"]


_UNIT_HOOKS = {
    "collapse": "collapse_detected",
    "shift_detected": "shift_detected",
    "ticket_added": "ticket_added",
    "ticket_rejected": "ticket_rejected",
}
"""Events of a unit that plugins hear of, and the hook of each."""


class _Recorder:
    """Writes events and unit files, and passes on what happens."""

    def __init__(
        self,
        folder: Path,
        log: EventLog,
        progress: RunProgress,
        done: dict[Unit, dict[str, Any]],
    ) -> None:
        self.folder = folder
        self.log = log
        self.progress = progress
        self.done = done

    def started(self, job: int, unit: Unit) -> None:
        self.event(unit, "unit_started", {})
        self.progress.unit_started(job, unit.id)

    def event(self, unit: Unit, event: str, facts: dict[str, Any]) -> None:
        self.log.write(event, unit=unit.id, seed=unit.seed, method=unit.label, **facts)
        if event in _UNIT_HOOKS:
            hook = getattr(get_manager().hook, _UNIT_HOOKS[event])
            hook(folder=self.folder, unit=unit.id, facts=facts)

    def working(self, job: int, text: str) -> None:
        self.progress.working(job, text)

    def finished(self, job: int, unit: Unit, result: dict[str, Any]) -> None:
        write_json(_unit_file(self.folder, unit), result)
        self.done[unit] = result
        score = result["entry"]["final"]["balanced_accuracy_domain_mean"]
        self.event(unit, "unit_finished", {"balanced_accuracy_domain_mean": score})
        shown_score = "none" if score is None else f"{score:.4f}"
        self.progress.unit_finished(job, unit.id, f"balanced accuracy {shown_score}")
