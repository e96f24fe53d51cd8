"""How the sparsity of a ticket rises while it learns."""

from __future__ import annotations

__all__ = ["cubic_sparsity"]


def cubic_sparsity(step: int, total_steps: int, start: float, target: float, ramp: float) -> float:
    """Sparsity after ``step`` of ``total_steps`` updates (Zhu and Gupta, 2017, equation 1).

    Rises from ``start`` to ``target`` during the first ``ramp`` fraction of the steps, fast at
    first and slowly at the end, and stays there.

    Args:
        step: updates done so far.
        total_steps: updates planned in all.
        start: sparsity before the first update.
        target: sparsity at the end of the ramp.
        ramp: fraction of the updates during which sparsity rises, above 0 and at most 1.

    Example:
        >>> [round(cubic_sparsity(s, 10, 0.0, 0.9, 0.5), 3) for s in (0, 1, 5, 10)]
        [0.0, 0.439, 0.9, 0.9]
    """
    progress = min(1.0, step / max(1.0, ramp * total_steps))
    return target + (start - target) * (1.0 - progress) ** 3
