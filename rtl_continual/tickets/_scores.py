"""Scores: the real-valued parameters from which a mask is learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from rtl_continual.tickets._mask import Mask, MaskLayout

__all__ = ["MaskScores", "empty_like", "magnitude_scores", "top_scores"]


class _StraightThrough(torch.autograd.Function):
    """Each layer's ``weights * keep``; gradients reach the scores as if ``keep`` were the score.

    All layers in one function: their gradients go straight into one flat tensor.
    """

    @staticmethod
    def forward(
        ctx: Any,
        scores: torch.Tensor,
        weights: torch.Tensor,
        masked: Sequence[torch.Tensor],
        layout: MaskLayout,
    ) -> tuple[torch.Tensor, ...]:
        ctx.save_for_backward(weights)
        ctx.layout = layout
        ctx.set_materialize_grads(False)
        return tuple(layer.detach() for layer in masked)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        (weights,) = ctx.saved_tensors
        flat = empty_like(weights)
        layers = ctx.layout.unflatten(weights).values()
        for grad, layer, out in zip(
            grads, layers, ctx.layout.unflatten(flat).values(), strict=True
        ):
            if grad is None:
                out.zero_()
            else:
                torch.mul(grad, layer, out=out)
        return flat, None, None, None


_AT_ONCE = 2**16
"""Scores that a processor works on at once, so that they stay in its cache."""


class _MeanSigmoid(torch.autograd.Function):
    """``scores.sigmoid().mean()``, and the same gradient, piece by piece.

    On millions of scores, writing what lies between to memory takes most of the time.
    """

    @staticmethod
    def forward(ctx: Any, scores: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(scores)
        return torch.stack([part.sigmoid().sum() for part in _pieces(scores)]).sum() / len(scores)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        (scores,) = ctx.saved_tensors
        out, slope = empty_like(scores), grad / len(scores)
        for part, place in zip(_pieces(scores), _pieces(out), strict=True):
            torch.ops.aten.sigmoid_backward.grad_input(
                slope.expand_as(part), part.sigmoid(), grad_input=place
            )
        return out


def empty_like(values: torch.Tensor) -> torch.Tensor:
    """A tensor to be filled, as large as a body's weights and made at each step.

    NumPy asks for huge pages. Of others the system must hand out thousands at a time, which takes
    longer than filling them.
    """
    if values.device.type != "cpu" or values.dtype != torch.float32:
        return torch.empty_like(values)
    return torch.from_numpy(np.empty(values.shape, dtype=np.float32))


def _pieces(values: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return values.split(_AT_ONCE if values.device.type == "cpu" else len(values))


def magnitude_scores(layout: MaskLayout, weights: torch.Tensor) -> torch.Tensor:
    """Initial scores: each weight's rank by magnitude within its layer, spread evenly over 0..1.

    Ranks within a layer make layers of different scale start with equal densities; the global
    budget is then moved between layers by learning.

    Args:
        layout: the body's mask layout.
        weights: flat weights ``[layout.total]``.

    Returns:
        ``[layout.total]`` in 0..1.
    """
    parts = []
    for part in torch.split(weights.detach().abs(), list(layout.sizes.values())):
        ranks = torch.empty_like(part)
        order = torch.argsort(part, stable=True)
        ranks[order] = torch.linspace(0, 1, len(part), dtype=part.dtype, device=part.device)
        parts.append(ranks)
    return torch.cat(parts)


def top_scores(
    scores: torch.Tensor, layout: MaskLayout, sparsity: float, floor: float
) -> torch.Tensor:
    """Keep the highest scores under a global budget, and never empty a layer.

    Args:
        scores: flat scores ``[layout.total]``.
        layout: the body's mask layout.
        sparsity: fraction of all maskable weights to drop.
        floor: each layer keeps at least this fraction of the mean density, and at least one
            weight; at extreme sparsities, where the budget cannot pay both, one weight alone.

    Returns:
        Boolean ``[layout.total]`` with exactly ``round((1 - sparsity) * total)`` set (or one per
        layer, if that is more). Equal scores are kept in the order of their position.
    """
    budget = max(round((1 - sparsity) * layout.total), len(layout.sizes))
    if budget >= layout.total:
        return torch.ones_like(scores, dtype=torch.bool)
    density = budget / layout.total
    sizes = list(layout.sizes.values())
    least = [max(1, int(floor * density * size)) for size in sizes]
    if sum(least) > budget:
        least = [1] * len(least)
    # Finite, so that what is set to infinity below comes first; `finish` tells of divergence.
    ranked = scores.detach()
    if not ranked.sum().isfinite():
        ranked = ranked.nan_to_num(nan=torch.finfo(scores.dtype).min)
    while True:
        keep = _largest(ranked, budget)
        # Torch counts booleans many times faster than it sums them.
        kept = torch.stack([part.count_nonzero() for part in keep.split(sizes)]).tolist()
        short = [
            i for i, (count, wanted) in enumerate(zip(kept, least, strict=True)) if count < wanted
        ]
        if not short:
            return keep
        # Rare. To pay for these layers the others give something up, and may fall short in turn.
        ranked = ranked.clone()
        for i in short:
            part = ranked.split(sizes)[i]
            part[_largest(part, least[i])] = torch.inf


def _largest(values: torch.Tensor, count: int) -> torch.Tensor:
    """Boolean mask of the ``count`` largest values; ties go to the lower index."""
    place = len(values) - count
    if values.device.type == "cpu":
        # A partition is several times faster than torch's selection on a processor.
        threshold = torch.from_numpy(np.partition(values.numpy(), place)[place : place + 1])
    elif count <= place:
        # On other devices `kthvalue` works on one multiprocessor alone, `topk` on all.
        threshold = values.topk(count, sorted=False).values.min()
    else:
        threshold = values.topk(place + 1, largest=False, sorted=False).values.max()
    keep = values >= threshold
    if too_many := int(keep.count_nonzero()) - count:
        ties = torch.nonzero(values == threshold).flatten()
        keep[ties[len(ties) - too_many :]] = False
    return keep


class MaskScores(nn.Module):
    """Learnable scores over a body's weights and the binary mask they imply.

    The mask is recomputed only by :meth:`binarise`; between two calls it is a constant, and the
    straight-through estimator (Bengio et al., 2013) passes gradients to the scores of kept and
    dropped weights alike.

    Args:
        layout: the body's mask layout.
        weights: frozen flat weights ``[layout.total]``.
        initial: initial flat scores ``[layout.total]``.
        floor: see :func:`top_scores`.
    """

    weights: torch.Tensor
    keep: torch.Tensor

    def __init__(
        self,
        layout: MaskLayout,
        weights: torch.Tensor,
        initial: torch.Tensor,
        *,
        floor: float = 0.1,
    ) -> None:
        super().__init__()
        self.layout = layout
        self.floor = floor
        self.scores = nn.Parameter(initial.detach().clone())
        self.register_buffer("weights", weights.detach(), persistent=False)
        self.register_buffer("keep", torch.ones_like(weights))
        self._least: dict[str, int] = {}
        self._masked: list[torch.Tensor] = []
        self._masked_by: torch.Tensor | None = None

    def limit(self, layer: str, sparsity: float) -> None:
        """From the next mask on, keep a layer at most this sparse, whatever the budget says."""
        self._least[layer] = max(1, round((1 - sparsity) * self.layout.sizes[layer]))

    @torch.no_grad()
    def binarise(self, sparsity: float) -> None:
        """Recompute the mask at a sparsity from the current scores."""
        keep = top_scores(self.scores, self.layout, sparsity, self.floor)
        parts = self.layout.unflatten(keep), self.layout.unflatten(self.scores)
        for layer, least in self._least.items():
            if int(parts[0][layer].sum()) < least:
                grown = _largest(parts[1][layer].flatten(), least)
                parts[0][layer].copy_(grown.view_as(parts[0][layer]))
        self.keep = empty_like(self.weights).copy_(keep)

    def effective(self) -> dict[str, torch.Tensor]:
        """The masked weights by name, differentiable with respect to the scores.

        Do not write to them: they are made once for each mask.
        """
        if self._masked_by is not self.keep:
            self._masked, self._masked_by = self._mask_weights(), self.keep
        masked = _StraightThrough.apply(self.scores, self.weights, self._masked, self.layout)
        return dict(zip(self.layout.shapes, masked, strict=True))

    # They outlive the call: tensors made in inference mode would be of no use to autograd.
    @torch.inference_mode(False)
    def _mask_weights(self) -> list[torch.Tensor]:
        kept = self.layout.unflatten(self.keep)
        products = [w * kept[name] for name, w in self.layout.unflatten(self.weights).items()]
        # Convolutions are given channels-last activations, and want such weights.
        return [
            t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t for t in products
        ]

    def mean_sigmoid(self) -> torch.Tensor:
        """What a sparsity regulariser pushes down, differentiable."""
        mean: torch.Tensor = _MeanSigmoid.apply(self.scores)
        return mean

    def mask(self) -> Mask:
        """The current mask, packed."""
        return Mask.from_flat(self.layout, self.keep > 0)
