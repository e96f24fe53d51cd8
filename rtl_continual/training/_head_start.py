"""A ticket's head, solved instead of stepped: before the mask moves, or once it has settled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import nn

from rtl_continual.errors import DataError
from rtl_continual.tickets import merge_features
from rtl_continual.training._balance import Loss
from rtl_continual.training._norm import fix_norm

if TYPE_CHECKING:
    from rtl_continual.training._learner import TicketLearner

__all__ = ["finish_head", "solve_linear", "start_head"]

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
        own = learner.represent(activation, training=training)
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
    standardised features, in the samples' span where there are fewer samples than features.

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
    axes = None
    if len(x) < x.shape[1]:
        # No weight outside the samples' span changes an output; the decay holds those at zero.
        axes, coordinates = torch.linalg.qr(x.T)
        x = coordinates.T.contiguous()
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
    solved = weight.detach() if axes is None else weight.detach() @ axes.T
    folded = solved / scale
    return folded.float(), (bias.detach() - folded @ mean).float()
