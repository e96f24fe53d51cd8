"""A ticket's running statistics: fixed before training, or estimated for its final mask."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch.nn.modules.batchnorm import _NormBase

if TYPE_CHECKING:
    from rtl_continual.training._head_start import HasActivations
    from rtl_continual.training._learner import TicketLearner

__all__ = ["estimate_norm", "fix_norm"]

_BATCH = 256


@torch.no_grad()
def estimate_norm(learner: TicketLearner, cache: HasActivations) -> None:
    """Average a ticket's own running statistics over one pass of its training data.

    What training leaves behind lags: it mixes in the masks of earlier steps and, after few steps
    or with a small momentum, still the backbone's own statistics. Averages over the data are the
    usual remedy (Izmailov et al., 2018, "Averaging Weights Leads to Wider Optima and Better
    Generalization", section 3.3).

    Args:
        learner: trained; a mask that has not reached its target is brought there first.
        cache: its training data.
    """
    learner.complete()
    if learner.config.norm_statistics == "fixed":
        return
    norms = [m for m in learner._body.module.modules() if isinstance(m, _NormBase)]
    momenta = [norm.momentum for norm in norms]
    for name, tensor in learner.norm.items():
        if name.endswith("num_batches_tracked"):
            tensor.zero_()
    try:
        for norm in norms:
            norm.momentum = None  # a plain average over batches
        for activation, _ in _spread(cache):
            learner.forward(activation)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


@torch.no_grad()
def fix_norm(learner: TicketLearner, cache: HasActivations) -> None:
    """Move running statistics towards the data's own, if options ask for fixed ones.

    Statistics of new data bring features of another domain back to where the next layers expect
    them (Li et al., 2017, "Revisiting Batch Normalization for Practical Domain Adaptation"); mixed
    with the old ones they do not hang on few samples alone (Schneider et al., 2020, "Improving
    Robustness against Common Corruptions by Covariate Shift Adaptation").

    Args:
        learner: not yet trained.
        cache: its training data.
    """
    if learner.config.norm_statistics != "fixed":
        return
    totals: dict[str, torch.Tensor] = {}
    for activation, count in _spread(cache):
        for name, value in learner.batch_statistics(activation).items():
            totals[name] = totals.get(name, 0) + value.double() * count
    for name, total in totals.items():
        old = learner.norm[name]
        old.lerp_((total / len(cache.targets)).to(old), learner.config.norm_share)


def _spread(cache: HasActivations) -> Iterator[tuple[torch.Tensor, int]]:
    """Activations in batches that each stand for the whole, and how many samples they are."""
    count = len(cache.targets)
    batches = -(-count // _BATCH)
    for first in range(batches):
        rows = torch.arange(first, count, batches)
        yield cache.batch(rows)[0], len(rows)
