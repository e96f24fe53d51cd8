"""How the sparsity of a ticket rises while it learns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from rtl_continual.registry import ClassRegistry, NamedSection

__all__ = [
    "BUILT_IN_SCHEDULES",
    "CubicSchedule",
    "CubicScheduleConfig",
    "ScheduleSection",
    "SparsitySchedule",
    "build_schedule",
    "cubic_sparsity",
    "schedule_config_class",
    "schedule_names",
]


def cubic_sparsity(step: int, total_steps: int, start: float, target: float, ramp: float) -> float:
    """Sparsity after ``step`` of ``total_steps`` updates (Zhu and Gupta, 2017, equation 1).

    Rises from ``start`` to ``target`` during the first ``ramp`` fraction of the steps, fast at
    first and slowly at the end, and stays there.

    Args:
        step: updates done so far.
        total_steps: updates planned in all.
        start: sparsity before the first update.
        target: sparsity at the end of the ramp.
        ramp: fraction of the updates during which sparsity rises, above 0 and at most 1.

    Example:
        >>> [round(cubic_sparsity(s, 10, 0.0, 0.9, 0.5), 3) for s in (0, 1, 5, 10)]
        [0.0, 0.439, 0.9, 0.9]
    """
    progress = min(1.0, step / max(1.0, ramp * total_steps))
    return target + (start - target) * (1.0 - progress) ** 3


class SparsitySchedule(ABC):
    """The way from a ticket's first sparsity to its target.

    A schedule is built from its options alone, ``ScheduleClass(config)``, and keeps no state.
    """

    name: ClassVar[str]
    config_class: ClassVar[type[BaseModel]]
    config: Any

    @abstractmethod
    def sparsity(
        self, step: int, total_steps: int, *, start: float, target: float, ramp: float
    ) -> float:
        """Sparsity in 0..1 after ``step`` of ``total_steps`` updates.

        Must give ``target`` for ``step == total_steps``.

        Args:
            step: updates done so far.
            total_steps: updates planned in all.
            start: sparsity before the first update.
            target: sparsity to reach.
            ramp: fraction of the updates during which sparsity rises (``tickets.ramp``).
        """


class CubicScheduleConfig(BaseModel):
    """Options of the cubic schedule: none of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["cubic"] = "cubic"


class CubicSchedule(SparsitySchedule):
    """Fast at first, slowly at the end; see :func:`cubic_sparsity`.

    Example:
        >>> round(CubicSchedule().sparsity(1, 10, start=0.0, target=0.9, ramp=0.5), 3)
        0.439
    """

    name: ClassVar[str] = "cubic"
    config_class: ClassVar[type[BaseModel]] = CubicScheduleConfig

    def __init__(self, config: CubicScheduleConfig | None = None) -> None:
        self.config = config or CubicScheduleConfig()

    def sparsity(
        self, step: int, total_steps: int, *, start: float, target: float, ramp: float
    ) -> float:
        return cubic_sparsity(step, total_steps, start, target, ramp)


BUILT_IN_SCHEDULES: dict[str, type[SparsitySchedule]] = {"cubic": CubicSchedule}
"""What the built-in plugin registers."""


_SCHEDULES: ClassRegistry[SparsitySchedule] = ClassRegistry("sparsity schedule", SparsitySchedule)

ScheduleSection = Annotated[BaseModel, NamedSection(_SCHEDULES)]
"""The type of a field that holds a schedule's options."""


def schedule_names() -> tuple[str, ...]:
    """The names of all sparsity schedules, sorted."""
    return tuple(_SCHEDULES)


def schedule_config_class(name: str) -> type[BaseModel]:
    """The options of the sparsity schedule called ``name``.

    Raises:
        RTLError: if there is no such schedule.
    """
    return _SCHEDULES.config_class(name)


def build_schedule(config: BaseModel) -> SparsitySchedule:
    """A schedule from an instance of its own config class.

    Raises:
        RTLError: if no schedule has such a config.
    """
    return _SCHEDULES.build(config)
