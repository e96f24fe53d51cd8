"""Similarity between tickets: Jaccard overlap of masks, and what chance alone would give."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rtl_continual.tickets._mask import Mask

__all__ = [
    "chance_jaccard",
    "corrected_jaccard",
    "layer_similarity",
    "similarity_matrix",
    "similarity_scores",
]


def chance_jaccard(density_a: float, density_b: float) -> float:
    """Expected Jaccard overlap of two independent random masks.

    ``ab / (a + b - ab)``; for equal densities ``d / (2 - d)``.

    Example:
        >>> round(chance_jaccard(0.1, 0.1), 4)
        0.0526
    """
    both = density_a * density_b
    either = density_a + density_b - both
    return both / either if either else 1.0


def corrected_jaccard(a: Mask, b: Mask) -> float:
    """Overlap beyond chance, ``(J - chance) / (1 - chance)``.

    About 0 for independent random masks, 1 for equal ones, negative below chance.
    """
    chance = chance_jaccard(1 - a.sparsity, 1 - b.sparsity)
    return (a.jaccard(b) - chance) / (1 - chance) if chance < 1 else 1.0


def similarity_matrix(masks: Sequence[Mask], *, corrected: bool = False) -> np.ndarray:
    """Pairwise overlap ``[tickets, tickets]``, ones on the diagonal."""
    matrix = np.eye(len(masks))
    for i, a in enumerate(masks):
        for j in range(i):
            matrix[i, j] = matrix[j, i] = (
                corrected_jaccard(a, masks[j]) if corrected else a.jaccard(masks[j])
            )
    return matrix


def similarity_scores(masks: Sequence[Mask], *, corrected: bool = False) -> list[float | None]:
    """Each ticket's mean overlap with all others (arXiv 2601.22141); ``None`` for a lone one."""
    if len(masks) < 2:
        return [None] * len(masks)
    matrix = similarity_matrix(masks, corrected=corrected)
    return ((matrix.sum(axis=1) - 1) / (len(masks) - 1)).tolist()


def layer_similarity(mask: Mask, others: Sequence[Mask]) -> dict[str, float]:
    """Mean overlap of ``mask`` with ``others``, layer by layer; empty without others."""
    if not others:
        return {}
    rows = [mask.layer_jaccard(other) for other in others]
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
