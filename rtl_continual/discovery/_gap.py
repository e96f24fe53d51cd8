"""Whether two groups of samples lie apart or are one cloud that was cut."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["Gap", "find_gap"]

GRID = 256
"""Points at which densities are compared."""


class Gap(NamedTuple):
    """What lies between two groups on the line that separates them best.

    ``valley`` is the lowest density between the peaks over the lower peak: 0 for a clear gap,
    1 for none. ``leak`` is the share of the second group that lies on the first one's side.
    """

    valley: float
    leak: float


def find_gap(first: np.ndarray, second: np.ndarray) -> Gap:
    """Measure the gap between two groups.

    The groups are projected on Fisher's discriminant. The valley there is the ridgeline ratio of
    Hennig (2010), "Methods for merging Gaussian mixture components", measured on smoothed samples
    instead of fitted Gaussians. Both groups weigh the same, whatever their sizes. A cloud cut in
    two has its highest density at the cut, so overlap at the boundary, which is nil there too,
    would not tell.

    The line is found on one half of the samples and looked at on the other, and the reverse: in
    many dimensions, a line that separates the samples it was found on always exists.

    Args:
        first: ``[samples, axes]``.
        second: ``[samples, axes]``.
    """
    found = []
    for half in (0, 1):
        line = _discriminant(first[half::2], second[half::2])
        a, b = first[1 - half :: 2] @ line, second[1 - half :: 2] @ line
        if len(a) == 0 or len(b) == 0:
            return Gap(1.0, 1.0)
        found.append(_look(a, b))
    return Gap(*np.mean(found, axis=0).tolist())


def _discriminant(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Fisher's direction with a pooled covariance shrunk by a tenth towards its diagonal."""
    axes = a.shape[1]
    pooled = (_scatter(a) + _scatter(b)) / 2
    shrunk = 0.9 * pooled + 0.1 * np.diag(np.diag(pooled))
    shrunk += np.eye(axes) * (1e-9 + 1e-6 * np.trace(shrunk) / axes)
    line = np.linalg.solve(shrunk, b.mean(axis=0) - a.mean(axis=0))
    return np.asarray(line / max(float(np.linalg.norm(line)), 1e-12))


def _scatter(x: np.ndarray) -> np.ndarray:
    z = x - x.mean(axis=0)
    return np.asarray(z.T @ z / len(x))


def _look(a: np.ndarray, b: np.ndarray) -> Gap:
    """The gap between two groups on a line on which ``b`` lies above ``a``."""
    low, high = min(a.min(), b.min()), max(a.max(), b.max())
    if high - low < 1e-12:
        return Gap(1.0, 1.0)
    grid = np.linspace(low, high, GRID)
    densities = [_smooth(part, grid) for part in (a, b)]
    total = densities[0] + densities[1]
    start, end = sorted(int(density.argmax()) for density in densities)
    lowest = start + int(total[start : end + 1].argmin())
    valley = float(total[lowest] / min(total[start], total[end]))
    return Gap(valley, float((b < grid[lowest]).mean()))


def _smooth(values: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Gaussian kernel density with Silverman's (1986) width, robust to outliers.

    Each value is shared out between the two grid points beside it, and the kernel is laid over
    these: the error is of the order of the step squared, and no value meets every grid point.
    """
    step = grid[1] - grid[0]
    quartiles = np.subtract(*np.percentile(values, [75, 25])) / 1.349
    spread = min(values.std(), quartiles) or values.std()
    width = max(0.9 * spread * len(values) ** -0.2, step / 2)
    place = (values - grid[0]) / step
    below = np.clip(place.astype(int), 0, GRID - 2)
    share = place - below
    counts = np.bincount(below, 1 - share, GRID) + np.bincount(below + 1, share, GRID)
    reach = np.arange(1 - GRID, GRID) * (step / width)
    kernel = np.exp(-0.5 * reach**2) / (len(values) * width)
    return np.convolve(counts, kernel, mode="valid")
