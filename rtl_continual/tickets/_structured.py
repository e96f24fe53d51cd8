"""Scores whose masks drop whole units."""

from __future__ import annotations

import math

import torch

from rtl_continual.tickets._mask import MaskLayout
from rtl_continual.tickets._scores import MaskScores, empty_like
from rtl_continual.tickets._units import UnitGroup, unit_mask

__all__ = ["UnitScores"]


class UnitScores(MaskScores):
    """Scores of single weights; a unit counts as much as its weights do on average.

    The budget means what it means for single weights: at a sparsity, at most that fraction of all
    maskable weights is kept, and as many units as fit. Weights of no unit are always kept, so a
    very high sparsity may be out of reach.

    Args:
        layout: the body's mask layout.
        weights: frozen flat weights ``[layout.total]``.
        initial: initial flat scores ``[layout.total]``.
        groups: the body's units.
        floor: each group keeps at least this share of the mean density, and at least one unit.
    """

    def __init__(
        self,
        layout: MaskLayout,
        weights: torch.Tensor,
        initial: torch.Tensor,
        groups: tuple[UnitGroup, ...],
        *,
        floor: float = 0.1,
    ) -> None:
        super().__init__(layout, weights, initial, floor=floor)
        self.groups = groups

    @torch.no_grad()
    def binarise(self, sparsity: float) -> None:
        """Recompute the mask at a sparsity from the current scores."""
        budget = (1 - sparsity) * self.layout.total
        ranks = self._ranked(1 - sparsity)
        order = torch.cat(ranks).sort(descending=True).values
        # The fewest are those that floors ask for.
        low, high = int(order.isposinf().sum()), len(order)
        while low < high:
            middle = (low + high + 1) // 2
            if self._weights_kept([r >= order[middle - 1] for r in ranks]) <= budget:
                low = middle
            else:
                high = middle - 1
        kept = {
            group.producer: rank >= order[low - 1]
            for group, rank in zip(self.groups, ranks, strict=True)
        }
        keep = unit_mask(self.layout, self.groups, kept)
        self.keep = empty_like(self.weights).copy_(keep)

    def _ranked(self, density: float) -> list[torch.Tensor]:
        """Each group's scores ``[size]``; infinite for those that floors keep."""
        layers = self.layout.unflatten(self.scores.detach())
        ranks = []
        for group in self.groups:
            views = group.by_unit(layers)
            made, read = views[group.made_by], views[group.read_by]
            rank = (made.flatten(1).mean(dim=1) + read.flatten(1).mean(dim=1)) / 2
            least = max(1, int(self.floor * density * group.size))
            if group.made_by in self._least:
                share = self._least[group.made_by] / self.layout.sizes[group.made_by]
                least = max(least, math.ceil(group.size * share))
            rank[rank.topk(least).indices] = torch.inf
            ranks.append(rank)
        return ranks

    def _weights_kept(self, kept: list[torch.Tensor]) -> float:
        """How many weights a choice of units keeps."""
        density = dict.fromkeys(self.layout.sizes, 1.0)
        shapes = self.layout.unflatten(self.scores.detach())
        for group, keep in zip(self.groups, kept, strict=True):
            share = float(keep.float().mean())
            for name in group.by_unit(shapes):
                density[name] *= share
        return sum(density[name] * size for name, size in self.layout.sizes.items())
