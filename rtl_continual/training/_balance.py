"""Rare classes: the logit adjustment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from rtl_continual.training._learner import TicketLearner

__all__ = ["balance_classes"]


class HasTargets(Protocol):
    """A data set's labels."""

    @property
    def targets(self) -> torch.Tensor: ...


def balance_classes(learner: TicketLearner, cache: HasTargets) -> None:
    """Let rare classes count as much as frequent ones, as far as the learner's options ask for it.

    In training the logarithm of each class's frequency is added to its output, so that the head
    need not learn how frequent a class is; outputs that are used stay without it (Menon et al.,
    2021, "Long-tail learning via logit adjustment").

    Args:
        learner: not yet trained.
        cache: its training data.
    """
    weight = learner.config.class_balance
    if not weight:
        return
    counts = torch.bincount(cache.targets.cpu(), minlength=learner.bank.task.num_outputs)
    # A class without an image is taken for one with half an image.
    share = counts.clamp_min(0.5) / len(cache.targets)
    learner.logit_offset = (weight * share.log()).to(learner.bank.backbone.mean.device)
