"""What a run tells the person who waits for it."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

__all__ = ["BarProgress", "LineProgress", "RunProgress", "make_progress"]


class RunProgress:
    """Hears what a run does; this one says nothing."""

    def begin(self, total: int, done: int, jobs: int) -> None:
        """The run starts: ``done`` of ``total`` units are there already."""

    def unit_started(self, job: int, unit: str) -> None:
        """Worker ``job`` begins a unit."""

    def working(self, job: int, text: str) -> None:
        """What worker ``job`` is doing now."""

    def unit_finished(self, job: int, unit: str, result: str) -> None:
        """A unit is saved."""

    def end(self) -> None:
        """The run is over, well or not."""


class LineProgress(RunProgress):
    """One plain line when a unit starts and one when it is done, for logs.

    Args:
        console: where to.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._total = self._done = 0
        self._started: dict[str, float] = {}

    def begin(self, total: int, done: int, jobs: int) -> None:
        self._total, self._done = total, done
        self._say(f"{total} units, {done} done already, {jobs} at a time")

    def unit_started(self, job: int, unit: str) -> None:
        self._started[unit] = time.monotonic()
        self._say(f"{unit}: started")

    def unit_finished(self, job: int, unit: str, result: str) -> None:
        self._done += 1
        spent = time.monotonic() - self._started.pop(unit)
        self._say(f"{unit}: {result} ({spent:.0f} s; {self._done} of {self._total} units)")

    def _say(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)


class BarProgress(RunProgress):
    """A bar over the units, and a line for what each worker is doing.

    Args:
        console: a terminal.
    """

    def __init__(self, console: Console) -> None:
        self._total = self._done = 0
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[count]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            transient=True,
        )

    def begin(self, total: int, done: int, jobs: int) -> None:
        self._total, self._done = total, done
        count = f"{done}/{total}"
        self._overall = self._bars.add_task(
            "units", total=total, completed=done, count=count, note=""
        )
        self._workers = [
            self._bars.add_task("", total=None, visible=False, count="", note="")
            for _ in range(jobs)
        ]
        self._bars.start()

    def unit_started(self, job: int, unit: str) -> None:
        self._bars.reset(
            self._workers[job], visible=True, total=None, description=unit, count="", note=""
        )

    def working(self, job: int, text: str) -> None:
        self._bars.update(self._workers[job], note=text)

    def unit_finished(self, job: int, unit: str, result: str) -> None:
        self._bars.update(self._workers[job], visible=False)
        self._done += 1
        count = f"{self._done}/{self._total}"
        self._bars.update(self._overall, completed=self._done, count=count)
        self._bars.print(f"[green]done[/] {unit}: {result}", highlight=False)

    def end(self) -> None:
        self._bars.stop()


def make_progress(console: Console) -> RunProgress:
    """Bars on a terminal, plain lines elsewhere."""
    return BarProgress(console) if console.is_terminal else LineProgress(console)
