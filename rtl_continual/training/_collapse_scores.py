"""Scores that tell, without labels, how a ticket fares while it is pruned."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from rtl_continual.tickets import Mask, chance_jaccard

__all__ = ["COLLAPSE_SCORES", "CollapseScore", "ScoreValue", "TicketState"]


@dataclass(frozen=True)
class TicketState:
    """All that a monitor sees of a ticket: its mask and what it makes of images without labels.

    Args:
        step: updates done.
        total_steps: updates planned.
        sparsity: that the mask was made for.
        mask: the ticket's.
        others: masks to compare it with: those of the other tickets, or for a bank's first ticket
            the one that keeps the backbone's largest weights at the same sparsity.
        features: the body's ``[images, features]`` for the probe images.
        outputs: ``[images, classes]`` for the probe images.
        ahead: outputs for them if half of the kept weights went at once, the lowest-scored;
            ``None`` where no score asks for them.
    """

    step: int
    total_steps: int
    sparsity: float
    mask: Mask
    others: tuple[Mask, ...]
    features: torch.Tensor
    outputs: torch.Tensor
    ahead: torch.Tensor | None = None


@dataclass(frozen=True)
class ScoreValue:
    """What a score says of one state.

    Args:
        value: the score.
        chance: what it would be for a random mask, or for random outputs.
        layers: the same by layer, for scores that have layers.
    """

    value: float
    chance: float
    layers: Mapping[str, float] = field(default_factory=dict)


class CollapseScore(ABC):
    """One way to see a collapse. It has no options and keeps nothing."""

    name: ClassVar[str]
    falls_with_sparsity: ClassVar[bool] = False
    """Whether it falls steadily as a healthy ticket is pruned."""

    @abstractmethod
    def measure(self, state: TicketState, before: TicketState | None) -> ScoreValue | None:
        """The score of a state.

        Args:
            state: now.
            before: at the check before this one, at lower sparsity; ``None`` at the first.

        Returns:
            The score, or ``None`` where there is nothing to compare with.
        """


def attainable_overlap(mask: Mask, other: Mask) -> tuple[float, float, dict[str, float]]:
    """Jaccard overlap between chance and what two masks of these sizes can reach, 0 to 1.

    ``(J - chance) / (most - chance)`` with ``most`` the smaller mask's size over the larger's; for
    equal sizes that is the usual correction ``(J - chance) / (1 - chance)``. A ticket in training
    meets finished masks of other densities, and against ``most = 1`` its score would fall with its
    own density alone.

    Returns:
        The corrected overlap, chance as plain Jaccard, and the corrected overlap by layer.
    """
    layers = {}
    plain = mask.layer_jaccard(other)
    for name, size in mask.layout.sizes.items():
        layers[name] = _corrected(plain[name], mask.counts[name] / size, other.counts[name] / size)
    a, b = 1 - mask.sparsity, 1 - other.sparsity
    return _corrected(mask.jaccard(other), a, b), chance_jaccard(a, b), layers


def _corrected(overlap: float, a: float, b: float) -> float:
    chance, most = chance_jaccard(a, b), min(a, b) / max(a, b, 1e-12)
    return (overlap - chance) / (most - chance) if most - chance > 1e-12 else 1.0


class SimilarityScore(CollapseScore):
    """Mean overlap with other tickets' masks, corrected for chance; the document's diagnosis."""

    name: ClassVar[str] = "similarity"
    falls_with_sparsity: ClassVar[bool] = True

    def measure(self, state: TicketState, before: TicketState | None) -> ScoreValue | None:
        rows = [attainable_overlap(state.mask, other) for other in state.others]
        if not rows:
            return None
        mean = {
            name: math.fsum(layers[name] for _, _, layers in rows) / len(rows)
            for name in rows[0][2]
        }
        return ScoreValue(
            math.fsum(value for value, _, _ in rows) / len(rows),
            math.fsum(chance for _, chance, _ in rows) / len(rows),
            mean,
        )


class LayerSimilarityScore(SimilarityScore):
    """:class:`SimilarityScore` of the layer where it is lowest."""

    name: ClassVar[str] = "layer_similarity"

    def measure(self, state: TicketState, before: TicketState | None) -> ScoreValue | None:
        found = super().measure(state, before)
        if found is None:
            return None
        return ScoreValue(min(found.layers.values()), found.chance, found.layers)


class AgreementScore(CollapseScore):
    """Share of probe images on which the ticket decides as it did at the check before."""

    name: ClassVar[str] = "agreement"

    def measure(self, state: TicketState, before: TicketState | None) -> ScoreValue | None:
        if before is None:
            return None
        now, then = state.outputs.argmax(dim=1), before.outputs.argmax(dim=1)
        classes = state.outputs.shape[1]
        shares = [torch.bincount(x, minlength=classes) / len(x) for x in (now, then)]
        chance = float((shares[0] * shares[1]).sum())
        return ScoreValue(float((now == then).float().mean()), chance)


class ConfidenceScore(CollapseScore):
    """Mean probability of the class that the ticket decides for."""

    name: ClassVar[str] = "confidence"

    def measure(self, state: TicketState, before: TicketState | None) -> ScoreValue | None:
        top = state.outputs.softmax(dim=1).amax(dim=1)
        return ScoreValue(float(top.mean()), 1 / state.outputs.shape[1])


class LookaheadScore(CollapseScore):
    """What the ticket with half of its weights thinks of the decisions of the ticket as it is.

    Mean probability that the outputs at half the kept weights, not trained at that sparsity, give
    to the class that the outputs decide for now. It falls while the decisions themselves still
    stand.
    """

    name: ClassVar[str] = "lookahead"

    def measure(self, state: TicketState, before: TicketState | None) -> ScoreValue | None:
        if state.ahead is None:
            return None
        decided = state.outputs.argmax(dim=1, keepdim=True)
        kept = state.ahead.softmax(dim=1).gather(1, decided)
        return ScoreValue(float(kept.mean()), 1 / state.outputs.shape[1])


class RankScore(CollapseScore):
    """Effective rank of the features, as a share of their number (Roy and Vetterli, 2007).

    The exponential of the entropy of the normalised singular values of the centred features.
    """

    name: ClassVar[str] = "rank"

    def measure(self, state: TicketState, before: TicketState | None) -> ScoreValue | None:
        centred = (state.features - state.features.mean(dim=0)).double()
        values = torch.linalg.svdvals(centred)
        share = values / values.sum().clamp_min(1e-12)
        entropy = -(share * share.clamp_min(1e-12).log()).sum()
        full = min(centred.shape)
        return ScoreValue(float(entropy.exp()) / full, 1 / full)


COLLAPSE_SCORES: Mapping[str, CollapseScore] = {
    score.name: score
    for score in (
        AgreementScore(),
        ConfidenceScore(),
        LayerSimilarityScore(),
        LookaheadScore(),
        RankScore(),
        SimilarityScore(),
    )
}
"""Every score, by the name that ``tickets.collapse.score`` gives."""
