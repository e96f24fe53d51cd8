"""Runs units, here or in worker processes; results do not depend on which."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

import torch

from rtl_continual.errors import RTLError
from rtl_continual.plugins import load_plugins
from rtl_continual.runs._environment import ignore_known_warnings
from rtl_continual.runs._scenario import Scenario
from rtl_continual.runs._units import Unit, Workshop
from rtl_continual.threads import use_threads

__all__ = ["Listener", "WorkerError", "run_here", "run_in_processes"]


class WorkerError(RuntimeError):
    """A worker failed through our fault; the message holds its traceback."""


class Listener(Protocol):
    """Hears of each unit's progress, in the driver's process."""

    def started(self, job: int, unit: Unit) -> None: ...

    def event(self, unit: Unit, event: str, facts: dict[str, Any]) -> None: ...

    def working(self, job: int, text: str) -> None: ...

    def finished(self, job: int, unit: Unit, result: dict[str, Any]) -> None: ...


def run_here(scenario: Scenario, folder: Path, units: Sequence[Unit], listener: Listener) -> None:
    """Run units one after the other in this process."""
    threads = torch.get_num_threads()
    try:
        workshop = Workshop(scenario, folder)
        for unit in units:
            listener.started(0, unit)
            result = workshop.run(
                unit,
                lambda event, unit=unit, **facts: listener.event(unit, event, facts),
                lambda text: listener.working(0, text),
            )
            listener.finished(0, unit, result)
    finally:
        use_threads(threads)


def run_in_processes(
    scenario: Scenario, folder: Path, units: Sequence[Unit], listener: Listener, jobs: int
) -> None:
    """Run units in ``jobs`` fresh processes, each taking the next unit when it is free.

    Raises:
        RTLError: if a unit fails through the user's mistake.
        WorkerError: if a worker fails otherwise.
    """
    context = multiprocessing.get_context("spawn")
    waiting = deque(units)
    workers: dict[Connection, _Worker] = {}
    try:
        for job in range(min(jobs, len(units))):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_work,
                args=(theirs, scenario.plugins, pickle.dumps(scenario), folder),
                daemon=True,
                name=f"rtl-worker-{job}",
            )
            process.start()
            theirs.close()
            workers[ours] = _Worker(job, process)
            _hand_out(ours, workers[ours], waiting, listener)
        while any(worker.unit is not None for worker in workers.values()):
            busy = [c for c, worker in workers.items() if worker.unit is not None]
            for connection in wait(busy):
                assert isinstance(connection, Connection)
                worker = workers[connection]
                if _hear(connection, worker, listener):
                    _hand_out(connection, worker, waiting, listener)
    finally:
        for worker in workers.values():
            worker.process.terminate()
        for worker in workers.values():
            worker.process.join(5)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()


class _Worker:
    def __init__(self, job: int, process: Any) -> None:
        self.job = job
        self.process = process
        self.unit: Unit | None = None


def _hand_out(
    connection: Connection, worker: _Worker, waiting: deque[Unit], listener: Listener
) -> None:
    worker.unit = waiting.popleft() if waiting else None
    if worker.unit is not None:
        listener.started(worker.job, worker.unit)
        with suppress(BrokenPipeError):  # its end is told by _hear, with the exit code
            connection.send(worker.unit)


def _hear(connection: Connection, worker: _Worker, listener: Listener) -> bool:
    """Handle one message; true when the worker is free again."""
    assert worker.unit is not None
    try:
        kind, *content = connection.recv()
    except EOFError:
        worker.process.join()
        raise WorkerError(
            f"{worker.unit.id}: its worker process ended with exit code "
            f"{worker.process.exitcode} (-9: killed, often for want of memory; try fewer jobs)"
        ) from None
    if kind == "event":
        listener.event(worker.unit, *content)
    elif kind == "working":
        listener.working(worker.job, *content)
    elif kind == "finished":
        listener.finished(worker.job, worker.unit, *content)
        return True
    elif kind == "mistake":
        raise RTLError(*content)
    else:
        raise WorkerError(f"{worker.unit.id}:\n{content[0]}")
    return False


def _work(connection: Connection, plugins: Sequence[str], pickled: bytes, folder: Path) -> None:
    """A worker's life: take a unit, run it, answer; until the driver is gone.

    The scenario comes pickled: its sections may be classes of plugins, which are loaded first.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the driver ends its workers
    ignore_known_warnings()
    threading.Thread(target=_end_with_driver, daemon=True).start()
    workshop = None
    while True:
        try:
            unit = connection.recv()
        except EOFError:
            return
        try:
            if workshop is None:
                load_plugins(plugins)
                workshop = Workshop(pickle.loads(pickled), folder)
            connection.send(("finished", _run_unit(workshop, unit, connection.send)))
        except RTLError as error:
            connection.send(("mistake", str(error)))
        except Exception:
            connection.send(("failed", traceback.format_exc()))


def _run_unit(workshop: Workshop, unit: Unit, send: Callable[[Any], None]) -> dict[str, Any]:
    return workshop.run(
        unit,
        lambda event, **facts: send(("event", event, facts)),
        lambda text: send(("working", text)),
    )


def _end_with_driver() -> None:
    """A driver that was killed leaves no worker behind."""
    driver = multiprocessing.parent_process()
    if driver is not None:
        wait([driver.sentinel])
        os._exit(1)
