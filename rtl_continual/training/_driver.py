"""An optimizer whose rates fall along half a cosine."""

from __future__ import annotations

import math

import torch

__all__ = ["DecayingOptimizer"]


class DecayingOptimizer:
    """Steps an optimizer at rates that fall from those it has now to 0.

    Tickets that are learned together share one: a step moves the parameters that have a gradient,
    and those are the parameters of the ticket whose batch it was, and the gate's.

    A rate that someone else (a scheduler) has set since the last step is kept, and the decay goes
    on from there.

    Args:
        optimizer: of the parameters, at its initial rates.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self._base = [group["lr"] for group in optimizer.param_groups]
        self._now, self._decay = list(self._base), 1.0

    def step(self, progress: float) -> None:
        """One step, at the rates that belong to a share of all steps from 0 to 1."""
        decay = 0.5 * (1 + math.cos(math.pi * progress))
        for i, group in enumerate(self.optimizer.param_groups):
            if group["lr"] != self._now[i]:
                self._base[i] = group["lr"] / (self._decay or 1.0)
            group["lr"] = self._now[i] = self._base[i] * decay
        self._decay = decay
        self.optimizer.step()
