"""Rare classes: the logit adjustment."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from rtl_continual.training._learner import TicketLearner

__all__ = ["Loss", "balance_classes", "balanced_loss"]

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class HasTargets(Protocol):
    """A data set's labels."""

    @property
    def targets(self) -> torch.Tensor: ...


def balanced_loss(loss: Loss, targets: torch.Tensor, classes: int, weight: float) -> Loss:
    """A loss that lets rare classes count as much as frequent ones.

    The logarithm of each class's frequency is added to its output before the loss, so that a head
    need not learn how frequent a class is; outputs that are used stay without it (Menon et al.,
    2021, "Long-tail learning via logit adjustment").

    Args:
        loss: of outputs ``[batch, classes]`` and labels ``[batch]``.
        targets: all labels ``[n]`` of the data to learn from.
        classes: how many there are.
        weight: of the adjustment; 0 gives ``loss`` itself.
    """
    if not weight:
        return loss
    counts = torch.bincount(targets.cpu(), minlength=classes)
    # A class without an image is taken for one with half an image.
    offset = weight * (counts.clamp_min(0.5) / len(targets)).log()

    def adjusted(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return loss(outputs + offset.to(outputs), labels)

    return adjusted


def balance_classes(learner: TicketLearner, cache: HasTargets) -> None:
    """Give a learner the :func:`balanced_loss` of its data, as far as its options ask for it.

    Args:
        learner: not yet trained, nor its head solved.
        cache: its training data.
    """
    task = learner.bank.task
    learner.task_loss = balanced_loss(
        task.loss, cache.targets, task.num_outputs, learner.config.class_balance
    )
