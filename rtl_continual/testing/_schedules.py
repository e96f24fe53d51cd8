"""What every sparsity schedule must hold to."""

from __future__ import annotations

from collections.abc import Callable

from rtl_continual.testing._suite import Outcome, Suite, require
from rtl_continual.tickets import SparsitySchedule

__all__ = ["SCHEDULE_SUITE", "check_sparsity_schedule"]

SCHEDULE_SUITE: Suite[SparsitySchedule] = Suite("sparsity schedule")

Build = Callable[[], SparsitySchedule]

_WAYS = ((0.0, 0.9), (0.5, 0.9), (0.6, 0.6), (0.0, 0.0))


def check_sparsity_schedule(build: Build) -> list[Outcome]:
    """Check a sparsity schedule.

    Args:
        build: makes the schedule.

    Returns:
        One outcome per property.

    Raises:
        ConformanceError: with every property that does not hold.

    Example:
        >>> from rtl_continual.tickets import CubicSchedule
        >>> len(check_sparsity_schedule(CubicSchedule))
        4
    """
    return SCHEDULE_SUITE.check(build)


def _values(build: Build, start: float, target: float, total: int = 50) -> list[float]:
    schedule = build()
    return [
        schedule.sparsity(step, total, start=start, target=target, ramp=0.6)
        for step in range(total + 1)
    ]


@SCHEDULE_SUITE.add
def reaches_its_target(build: Build) -> None:
    """Exactly, at the last step."""
    for start, target in _WAYS:
        last = _values(build, start, target)[-1]
        require(abs(last - target) < 1e-9, f"ends at {last:.4g} instead of {target}")


@SCHEDULE_SUITE.add
def stays_between_start_and_target(build: Build) -> None:
    """Never denser than at the start, never sparser than the target."""
    for start, target in _WAYS:
        values = _values(build, start, target)
        inside = all(start - 1e-9 <= value <= target + 1e-9 for value in values)
        require(inside, f"leaves {start}..{target}: {min(values):.4g}..{max(values):.4g}")


@SCHEDULE_SUITE.add
def works_for_a_single_step(build: Build) -> None:
    """A ticket with one update reaches its target too."""
    last = _values(build, 0.0, 0.5, total=1)[-1]
    require(abs(last - 0.5) < 1e-9, f"one step ends at {last:.4g} instead of 0.5")


@SCHEDULE_SUITE.add
def keeps_no_state(build: Build) -> None:
    """The same step gives the same sparsity, whatever was asked before."""
    schedule = build()
    asked = [schedule.sparsity(s, 50, start=0.0, target=0.9, ramp=0.6) for s in (10, 40, 10)]
    require(asked[0] == asked[2], f"step 10 gives {asked[0]:.4g}, and later {asked[2]:.4g}")
