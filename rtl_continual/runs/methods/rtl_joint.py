"""The paper's offline procedure, for comparison: masks by pruning, weights trained jointly."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from rtl_continual.runs._method import MethodConfig, RunContext
from rtl_continual.runs.methods.rtl import RTLMethod
from rtl_continual.training import JointConfig, learn_joint

__all__ = ["RTLJointConfig", "RTLJointMethod"]


class RTLJointConfig(MethodConfig):
    """Options of mode ``joint``; budget, epochs and batch size are those of ``tickets``."""

    rounds: int = Field(4, ge=1, description="prune-and-rewind rounds")
    round_epochs: int = Field(3, ge=1, description="passes over a group's data in each round")
    lr: float = Field(0.001, gt=0, description="Adam's rate for weights, norm and heads")


class RTLJointMethod(RTLMethod):
    """Mode ``joint``: one group per experience, all known in advance."""

    name: ClassVar[str] = "rtl_joint"
    summary: ClassVar[str] = "the paper's offline tickets: pruned, rewound, jointly retrained"
    config_class: ClassVar[type[MethodConfig]] = RTLJointConfig
    protocol = "offline"

    def __init__(self, context: RunContext, config: RTLJointConfig) -> None:
        super().__init__(context, config)
        tickets: Any = self.options
        self.joint = JointConfig(
            sparsity=tickets.sparsity,
            rounds=config.rounds,
            round_epochs=config.round_epochs,
            retrain_epochs=self.epochs,
            batch_size=self.batch_size,
            lr=config.lr,
            layer_floor=tickets.layer_floor,
            mixture_components=tickets.mixture_components,
            shift=tickets.shift,
            cache_bytes=tickets.cache_bytes,
        )

    def learn_all(self) -> None:
        experiences = self.context.stream.experiences
        self.bank = learn_joint(
            self.bank,
            [experience.train for experience in experiences],
            self.joint,
            infos=[self.ticket_info(index) for index in range(len(experiences))],
            seed=self.context.seed,
            on_stage=self.context.advance,
        )
