"""The space in which samples are grouped."""

from __future__ import annotations

import numpy as np

__all__ = ["principal_space"]


def principal_space(x: np.ndarray, *, axes: int = 16) -> np.ndarray:
    """Features scaled to unit deviation, on their leading principal axes.

    A feature that never varies (a dead channel, constant images) adds nothing.

    Args:
        x: features ``[samples, features]``.
        axes: at most so many.

    Returns:
        ``[samples, axes]``; fewer columns for fewer features.
    """
    spread = x.std(axis=0)
    alive = spread > 1e-9 * (1 + np.abs(x.mean(axis=0)))
    z = (x[:, alive] - x[:, alive].mean(axis=0)) / spread[alive]
    if z.shape[1] == 0:
        return np.zeros((len(x), 1))
    _, vectors = np.linalg.eigh(z.T @ z)
    return np.asarray(z @ vectors[:, ::-1][:, :axes])
