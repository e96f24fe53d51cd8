"""A ticket's first head, solved on the features that its body gives before the mask moves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from rtl_continual.training._learner import TicketLearner

__all__ = ["start_head"]

_ITERATIONS = 60
_BATCH = 256


class HasActivations(Protocol):
    """A trunk's outputs for a data set."""

    targets: torch.Tensor

    def batch(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]: ...


def start_head(learner: TicketLearner, cache: HasActivations) -> None:
    """Solve the head for the body as it starts, if the learner's options ask for it.

    Fine-tuning from a fresh head distorts good features before the head has learned to use them; a
    head that fits from the start leaves them in place (Kumar et al., 2022, "Fine-Tuning can Distort
    Pretrained Features and Underperform Out-of-Distribution").

    Args:
        learner: not yet trained; its head is changed in place.
        cache: its training data.
    """
    if learner.config.head_start != "probe":
        return
    count = len(cache.targets)
    features, targets = [], []
    with torch.no_grad():
        # Spread out, so that each chunk's batch statistics stand for the whole.
        chunks = -(-count // _BATCH)
        for first in range(chunks):
            activation, _, labels = cache.batch(torch.arange(first, count, chunks))
            features.append(learner.represent(activation))
            targets.append(labels)
    x, y = torch.cat(features), torch.cat(targets)
    parameters = list(learner.head.parameters())
    solver = torch.optim.LBFGS(parameters, max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        solver.zero_grad()
        loss = learner.bank.task.loss(learner.head(x), y)
        penalty = sum(p.pow(2).sum() for p in parameters if p.ndim >= 2)
        total: torch.Tensor = loss + 0.5 * learner.config.head_decay * penalty
        total.backward()
        return total

    with torch.enable_grad():
        solver.step(closure)
