"""What to do about a collapse: policies that lower a ticket's sparsity target."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from rtl_continual.registry import ClassRegistry, NamedSection
from rtl_continual.training._collapse import CollapseReport

__all__ = [
    "BUILT_IN_RELAXATION_POLICIES",
    "RELAXATION_POLICIES",
    "LayersPolicy",
    "LayersPolicyConfig",
    "RegrowPolicy",
    "RegrowPolicyConfig",
    "Relaxation",
    "RelaxationPolicy",
    "RelaxationSection",
    "StopPolicy",
    "StopPolicyConfig",
    "build_relaxation_policy",
]


@dataclass(frozen=True)
class Relaxation:
    """What a policy decides.

    Args:
        target: the new sparsity target, at most the present one. The highest-scored pruned weights
            grow back until the mask has it.
        layers: the highest sparsity that a layer may have from now on, by name. These weights are
            kept on top of what ``target`` pays for.
        freeze: put the last healthy mask back and change it no more; norm and head go on learning.
    """

    target: float
    layers: Mapping[str, float] = field(default_factory=dict)
    freeze: bool = False


class RelaxationPolicy(ABC):
    """Decides how a ticket's target is relaxed when its monitor raises a flag.

    A policy is built from its options alone, ``PolicyClass(config)``, and keeps no state: the same
    report gives the same answer.
    """

    name: ClassVar[str]
    config_class: ClassVar[type[BaseModel]]
    config: Any

    @abstractmethod
    def relax(self, report: CollapseReport) -> Relaxation | None:
        """How to relax, or ``None`` to go on pruning as planned.

        Args:
            report: what the monitor saw.
        """


class RegrowPolicyConfig(BaseModel):
    """Options of ``regrow``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["regrow"] = "regrow"
    margin: float = Field(
        1.0,
        ge=1,
        le=16,
        description="the new target keeps so many times the weights of the last healthy mask",
    )


class RegrowPolicy(RelaxationPolicy):
    """The target goes back to the last healthy sparsity; the highest-scored weights grow back.

    Example:
        >>> report = CollapseReport.example(sparsity=0.99, healthy_sparsity=0.97)
        >>> RegrowPolicy().relax(report).target
        0.97
    """

    name: ClassVar[str] = "regrow"
    config_class: ClassVar[type[BaseModel]] = RegrowPolicyConfig

    def __init__(self, config: RegrowPolicyConfig | None = None) -> None:
        self.config = config or RegrowPolicyConfig()

    def relax(self, report: CollapseReport) -> Relaxation | None:
        kept = self.config.margin * (1 - report.healthy_sparsity)
        return Relaxation(target=min(report.target, max(0.0, 1 - kept)))


class StopPolicyConfig(BaseModel):
    """Options of ``stop``: none of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["stop"] = "stop"


class StopPolicy(RelaxationPolicy):
    """The last healthy mask is put back and kept; only norm and head go on learning.

    Example:
        >>> report = CollapseReport.example(sparsity=0.99, healthy_sparsity=0.97)
        >>> StopPolicy().relax(report).freeze
        True
    """

    name: ClassVar[str] = "stop"
    config_class: ClassVar[type[BaseModel]] = StopPolicyConfig

    def __init__(self, config: StopPolicyConfig | None = None) -> None:
        self.config = config or StopPolicyConfig()

    def relax(self, report: CollapseReport) -> Relaxation | None:
        return Relaxation(target=min(report.target, report.healthy_sparsity), freeze=True)


class LayersPolicyConfig(BaseModel):
    """Options of ``layers``: none of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["layers"] = "layers"


class LayersPolicy(RelaxationPolicy):
    """Only the collapsing layers go back to their last healthy density; the rest goes on.

    Example:
        >>> report = CollapseReport.example(sparsity=0.99, healthy_sparsity=0.97)
        >>> LayersPolicy().relax(report)
        Relaxation(target=0.99, layers={'conv.weight': 0.95}, freeze=False)
    """

    name: ClassVar[str] = "layers"
    config_class: ClassVar[type[BaseModel]] = LayersPolicyConfig

    def __init__(self, config: LayersPolicyConfig | None = None) -> None:
        self.config = config or LayersPolicyConfig()

    def relax(self, report: CollapseReport) -> Relaxation | None:
        healthy = report.healthy_layer_sparsity
        return Relaxation(target=report.target, layers={n: healthy[n] for n in report.layers})


BUILT_IN_RELAXATION_POLICIES: dict[str, type[RelaxationPolicy]] = {
    policy.name: policy for policy in (LayersPolicy, RegrowPolicy, StopPolicy)
}
"""What the built-in plugin registers."""


RELAXATION_POLICIES: ClassRegistry[RelaxationPolicy] = ClassRegistry(
    "relaxation policy", RelaxationPolicy
)
"""What plugins have registered, the built-in one included."""

RelaxationSection = Annotated[BaseModel, NamedSection(RELAXATION_POLICIES)]
"""The type of a field that holds a policy's options."""


def build_relaxation_policy(config: BaseModel) -> RelaxationPolicy:
    """A policy from an instance of its own config class.

    Raises:
        RTLError: if no policy has such a config.
    """
    return RELAXATION_POLICIES.build(config)
