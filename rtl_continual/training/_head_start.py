"""What of a ticket is solved or measured on all its data, before the mask moves or once it settled.

A head can be solved instead of stepped, and norm statistics measured instead of averaged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

import torch
from torch import nn

from rtl_continual.errors import DataError

if TYPE_CHECKING:
    from rtl_continual.training._learner import TicketLearner

__all__ = ["finish_head", "solve_linear", "start_head"]

_ITERATIONS = 60
_BATCH = 256

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


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

    Norm statistics of the new data bring features of another domain back to where the next layers
    expect them (Li et al., 2017, "Revisiting Batch Normalization for Practical Domain Adaptation");
    mixed with the old ones they do not depend on few samples alone (Schneider et al., 2020,
    "Improving Robustness against Common Corruptions by Covariate Shift Adaptation").

    Args:
        learner: not yet trained; its head and norm statistics are changed in place.
        cache: its training data.

    Raises:
        DataError: if the task's head is not linear.
    """
    if learner.config.norm_statistics == "fixed":
        _fix_norms(learner, cache)
    if learner.config.head_start == "probe":
        _solve_head(learner, cache, training=True)


def finish_head(learner: TicketLearner, cache: HasActivations) -> None:
    """Solve the head for the body as it will be served, if ``head_finish`` asks for it.

    Args:
        learner: trained; a mask that has not reached its target is brought there first.
        cache: its training data.

    Raises:
        DataError: if the task's head is not linear.
    """
    if learner.config.head_finish == "probe":
        learner.complete()
        _solve_head(learner, cache, training=False)


def _spread(cache: HasActivations) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Activations and targets, chunk by chunk; each chunk's statistics stand for the whole."""
    count = len(cache.targets)
    chunks = -(-count // _BATCH)
    for first in range(chunks):
        activation, _, targets = cache.batch(torch.arange(first, count, chunks))
        yield activation, targets


def _fix_norms(learner: TicketLearner, cache: HasActivations) -> None:
    totals: dict[str, torch.Tensor] = {}
    for activation, targets in _spread(cache):
        for name, value in learner.batch_statistics(activation).items():
            totals[name] = totals.get(name, 0) + value.double() * len(targets)
    for name, total in totals.items():
        old = learner.norm[name]
        old.lerp_((total / len(cache.targets)).to(old), learner.config.norm_share)


def _solve_head(learner: TicketLearner, cache: HasActivations, *, training: bool) -> None:
    head = learner.head
    if not isinstance(head, nn.Linear):
        raise DataError(
            f"head_start and head_finish: probe solve linear heads alone, the task's is a "
            f"{type(head).__name__}; leave them at their defaults"
        )
    features, targets = [], []
    for activation, labels in _spread(cache):
        features.append(learner.represent(activation, training=training))
        targets.append(labels)
    weight, bias = solve_linear(
        torch.cat(features),
        torch.cat(targets),
        head.out_features,
        loss=learner.bank.task.loss,
        weight_decay=learner.config.head_decay,
        iterations=_ITERATIONS,
    )
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(bias)


@torch.enable_grad()
def solve_linear(
    features: torch.Tensor,
    targets: torch.Tensor,
    outputs: int,
    *,
    loss: Loss,
    weight_decay: float,
    iterations: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The linear head with the least loss, for raw features.

    With a convex loss the answer depends on neither a seed nor a rate. It is solved in float64 on
    standardised features.

    Args:
        features: ``[n, features]``.
        targets: of the loss.
        outputs: rows of the weight.
        loss: of outputs and targets, a mean over samples.
        weight_decay: half of it times the squared (standardised) weights is penalised.
        iterations: at most so many of L-BFGS.

    Returns:
        Weight ``[outputs, features]`` and bias ``[outputs]``.
    """
    x = features.double()
    mean, scale = x.mean(dim=0), x.std(dim=0, correction=0).clamp_min(1e-6)
    x = (x - mean) / scale
    weight = torch.zeros(outputs, x.shape[1], dtype=x.dtype, device=x.device, requires_grad=True)
    bias = torch.zeros(outputs, dtype=x.dtype, device=x.device, requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=iterations, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        solver.zero_grad()
        total = loss(x @ weight.T + bias, targets)
        total = total + 0.5 * weight_decay * weight.pow(2).sum()
        total.backward()
        return total

    solver.step(closure)
    folded = weight.detach() / scale
    return folded.float(), (bias.detach() - folded @ mean).float()
