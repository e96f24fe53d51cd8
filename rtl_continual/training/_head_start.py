"""A ticket's head, solved instead of stepped: before the mask moves, or once it has settled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import nn

from rtl_continual.errors import DataError
from rtl_continual.tickets import merge_features
from rtl_continual.training._linear_head import solve_linear
from rtl_continual.training._norm import fix_norm

if TYPE_CHECKING:
    from rtl_continual.training._learner import TicketLearner

__all__ = ["finish_head", "start_head"]

_ITERATIONS = 60
_BATCH = 256


class HasActivations(Protocol):
    """A trunk's outputs for a data set."""

    @property
    def targets(self) -> torch.Tensor: ...

    def batch(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]: ...


def start_head(learner: TicketLearner, cache: HasActivations) -> None:
    """Fix norm statistics and solve the head for the body as it starts, if options ask for it.

    Fine-tuning from a fresh head distorts good features before the head has learned to use them; a
    head that fits from the start leaves them in place (Kumar et al., 2022, "Fine-Tuning can Distort
    Pretrained Features and Underperform Out-of-Distribution").

    Args:
        learner: not yet trained; its head and norm statistics are changed in place.
        cache: its training data.

    Raises:
        DataError: if the task's head is not linear.
    """
    fix_norm(learner, cache)
    if learner.config.head_start == "probe":
        _solve_head(learner, cache, training=True)


def finish_head(learner: TicketLearner, cache: HasActivations) -> None:
    """Solve the head for the body as it will be served, if ``head_finish`` asks for it.

    With ``features: merged`` it becomes a head over the unmasked body's features too. Training
    needs none of that: it would leave the ticket to learn what those features lack.

    Args:
        learner: trained; a mask that has not reached its target is brought there first.
        cache: its training data.

    Raises:
        DataError: if the task's head is not linear.
    """
    if learner.config.head_finish == "probe":
        learner.complete()
        _solve_head(learner, cache, training=False)


def _solve_head(learner: TicketLearner, cache: HasActivations, *, training: bool) -> None:
    head, bank = learner.head, learner.bank
    if not isinstance(head, nn.Linear):
        raise DataError(
            f"head_start and head_finish: probe solve linear heads alone, the task's is a "
            f"{type(head).__name__}; leave them at their defaults"
        )
    merged = learner.config.features == "merged" and not training
    count = len(cache.targets)
    features, targets = [], []
    # Spread out, so that each chunk's batch statistics stand for the whole.
    chunks = -(-count // _BATCH)
    for first in range(chunks):
        activation, _, labels = cache.batch(torch.arange(first, count, chunks))
        own = learner.represent(activation.clone(), training=training)
        if merged:
            with torch.no_grad():
                own = merge_features(own, bank.backbone.body(activation))
        features.append(own)
        targets.append(labels)
    weight, bias = solve_linear(
        torch.cat(features),
        torch.cat(targets),
        head.out_features,
        loss=learner.task_loss,
        weight_decay=learner.config.head_decay,
        shrinkage=learner.config.head_shrinkage,
        iterations=_ITERATIONS,
    )
    if merged:
        with torch.random.fork_rng(devices=[]):  # its weights are replaced
            wide = bank.task.build_head(2 * bank.backbone.feature_dim)
        assert isinstance(wide, nn.Linear)
        head = learner.head = wide.to(weight.device)
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(bias)
