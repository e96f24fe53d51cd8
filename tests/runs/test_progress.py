"""What a run tells: bars on a terminal, plain lines in a log."""

from __future__ import annotations

import io

from rich.console import Console

from rtl_continual.runs import make_progress
from rtl_continual.runs._progress import BarProgress, LineProgress, RunProgress


def tell(progress: RunProgress) -> None:
    progress.begin(3, 1, 2)
    progress.unit_started(1, "seed0.rtl")
    progress.working(1, "epoch [3] of 15")
    progress.unit_finished(1, "seed0.rtl", "balanced accuracy 0.9")
    progress.end()


def test_a_log_gets_plain_lines() -> None:
    log = io.StringIO()
    progress = make_progress(Console(file=log))
    assert isinstance(progress, LineProgress)
    tell(progress)
    assert log.getvalue().splitlines() == [
        "3 units, 1 done already, 2 at a time",
        "seed0.rtl: started",
        "seed0.rtl: balanced accuracy 0.9 (0 s; 2 of 3 units)",
    ]


def test_a_terminal_gets_bars_and_what_each_worker_does() -> None:
    screen = io.StringIO()
    progress = make_progress(Console(file=screen, force_terminal=True, width=100))
    assert isinstance(progress, BarProgress)
    tell(progress)
    assert "1/3" in screen.getvalue()
    assert "done" in screen.getvalue()
    assert "seed0.rtl: balanced accuracy 0.9" in screen.getvalue()
