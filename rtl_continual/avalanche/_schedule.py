"""Plugins of the dense baselines: how their rate decays, and what they say meanwhile."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from avalanche.core import SupervisedPlugin

__all__ = ["CosineRate", "EpochReport"]


class CosineRate(SupervisedPlugin):
    """Let each experience's rate fall from its start to zero along a half cosine, step by step.

    Tickets and the other dense networks are trained with the same decay. List it after plugins
    that replace the loader, whose length tells the number of steps.
    """

    def __init__(self) -> None:
        super().__init__()
        self._start: list[float] = []
        self._step = 0
        self._total = 1

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        if not self._start:
            self._start = [group["lr"] for group in strategy.optimizer.param_groups]
        self._step = 0
        self._total = max(1, len(strategy.dataloader) * strategy.train_epochs)

    def before_update(self, strategy: Any, **kwargs: Any) -> None:
        decay = 0.5 * (1 + math.cos(math.pi * min(1.0, self._step / self._total)))
        for group, start in zip(strategy.optimizer.param_groups, self._start, strict=True):
            group["lr"] = start * decay
        self._step += 1


class EpochReport(SupervisedPlugin):
    """Say after each epoch how far training is.

    Args:
        advance: takes one line.
    """

    def __init__(self, advance: Callable[[str], None]) -> None:
        super().__init__()
        self._advance = advance

    def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        experience = strategy.clock.train_exp_counter + 1
        epoch = strategy.clock.train_exp_epochs + 1
        self._advance(f"experience {experience}, epoch {epoch} of {strategy.train_epochs}")
