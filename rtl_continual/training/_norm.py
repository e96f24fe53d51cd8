"""A ticket's running statistics, estimated for the mask it ends with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.modules.batchnorm import _NormBase

if TYPE_CHECKING:
    from rtl_continual.training._head_start import HasActivations
    from rtl_continual.training._learner import TicketLearner

__all__ = ["estimate_norm"]

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
    if learner.config.norm_statistics == "backbone":
        return
    norms = [m for m in learner._body.module.modules() if isinstance(m, _NormBase)]
    momenta = [norm.momentum for norm in norms]
    for name, tensor in learner.norm.items():
        if name.endswith("num_batches_tracked"):
            tensor.zero_()
    count = len(cache.targets)
    # Spread out, so that each batch stands for the whole.
    chunks = -(-count // _BATCH)
    try:
        for norm in norms:
            norm.momentum = None  # a plain average over batches
        for first in range(chunks):
            activation, _, _ = cache.batch(torch.arange(first, count, chunks))
            learner.forward(activation)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
