"""The relaxation policy and the sparsity schedule ``anneal``: both cool down with training."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from rtl_continual.plugins import hookimpl
from rtl_continual.tickets import SparsitySchedule
from rtl_continual.training import CollapseReport, Relaxation, RelaxationPolicy

__all__ = [
    "AnnealPolicy",
    "AnnealPolicyConfig",
    "AnnealSchedule",
    "AnnealScheduleConfig",
    "temperature",
]

rtl_api_version = 1


def temperature(progress: float) -> float:
    """Half a cosine from 1 to 0.

    Args:
        progress: share of the steps done; beyond 0..1 it stays at its ends.

    Example:
        >>> [round(temperature(p), 3) for p in (0.0, 0.25, 0.5, 1.0)]
        [1.0, 0.854, 0.5, 0.0]
    """
    return (1 + math.cos(math.pi * min(1.0, max(0.0, progress)))) / 2


class AnnealPolicyConfig(BaseModel):
    """Options of the policy."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["anneal"] = "anneal"
    heat: float = Field(
        1.0,
        ge=0,
        le=15,
        description="how many times the last healthy mask's weights come back beside it, at first",
    )
    protect_layers: bool = Field(
        True, description="dying layers may be no sparser than they last were in health"
    )


class AnnealPolicy(RelaxationPolicy):
    """Gives back many weights early in training and few late.

    Args:
        config: options.

    Example:
        >>> early = CollapseReport.example(step=0, healthy_sparsity=0.97)
        >>> late = CollapseReport.example(step=500, healthy_sparsity=0.97)
        >>> [round(AnnealPolicy().relax(report).target, 3) for report in (early, late)]
        [0.94, 0.97]
    """

    name: ClassVar[str] = "anneal"
    config_class: ClassVar[type[BaseModel]] = AnnealPolicyConfig

    def __init__(self, config: AnnealPolicyConfig | None = None) -> None:
        self.config = config or AnnealPolicyConfig()

    def relax(self, report: CollapseReport) -> Relaxation:
        heat = self.config.heat * temperature(report.step / max(1, report.total_steps))
        kept = (1 - report.healthy_sparsity) * (1 + heat)
        healthy = report.healthy_layer_sparsity
        dying = [name for name in report.dying_layers if name in healthy]
        return Relaxation(
            target=min(report.target, max(0.0, 1 - kept)),
            layers={name: healthy[name] for name in dying} if self.config.protect_layers else {},
        )


class AnnealScheduleConfig(BaseModel):
    """Options of the schedule."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["anneal"] = "anneal"
    hold: float = Field(
        0.0, ge=0, lt=1, description="share of the ramp during which sparsity stays where it starts"
    )


class AnnealSchedule(SparsitySchedule):
    """Slow at first, fastest in the middle of the ramp, slow at its end.

    Args:
        config: options.

    Example:
        >>> way = {"start": 0.0, "target": 0.9, "ramp": 0.5}
        >>> [round(AnnealSchedule().sparsity(step, 100, **way), 3) for step in (0, 10, 25, 50, 100)]
        [0.0, 0.086, 0.45, 0.9, 0.9]
    """

    name: ClassVar[str] = "anneal"
    config_class: ClassVar[type[BaseModel]] = AnnealScheduleConfig

    def __init__(self, config: AnnealScheduleConfig | None = None) -> None:
        self.config = config or AnnealScheduleConfig()

    def sparsity(
        self, step: int, total_steps: int, *, start: float, target: float, ramp: float
    ) -> float:
        progress = step / max(1.0, ramp * total_steps)
        progress = (progress - self.config.hold) / (1 - self.config.hold)
        return target + (start - target) * temperature(progress)


@hookimpl
def register_relaxation_policies() -> dict[str, type[RelaxationPolicy]]:
    """The policy ``anneal``."""
    return {"anneal": AnnealPolicy}


@hookimpl
def register_sparsity_schedules() -> dict[str, type[SparsitySchedule]]:
    """The schedule ``anneal``."""
    return {"anneal": AnnealSchedule}
