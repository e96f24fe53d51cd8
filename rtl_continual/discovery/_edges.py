"""Pieces of a neighbouring domain at the ends of an experience."""

from __future__ import annotations

import numpy as np

from rtl_continual.discovery._class_mixture import fit_newcomer
from rtl_continual.discovery._joining import COMPARED, class_gap
from rtl_continual.discovery._space import principal_space

__all__ = ["find_edge"]

AXES = 24
"""Principal axes in which a piece is looked for."""

COMPONENTS = (4, 6)
"""Domains, or looks of one, that describe what came before: of the first fit and of the second.

The second is made only if the first one finds a piece, and has to confirm it.
"""

MAX_VALLEY = 0.67
"""A piece is apart from the rest if the valley between them is deeper.

Between a domain and the first tenth of the next one, or the last of the one before, it is 0.00 to
0.58; between a domain and what looks newest at its end 0.78 to 1.00 (96 ends of experiences with a
neighbour's piece, 30 without, two streams, seeds 10 to 15).
"""

MAX_LEAK = 0.15
"""And if at most this share of the rest lies on its side: 0.00 to 0.11, once 0.18; 0.21 to 0.69."""

MIN_AGREEMENT = 0.6
"""And if the second fit finds the same: rows in both over rows in either.

0.71 and more for neighbours' pieces; at most 0.49 for the four among 240 ends without one that the
first fit takes for one, all of several domains shuffled together (seeds 10 to 15).
"""


def find_edge(x: np.ndarray, targets: np.ndarray, count: int) -> np.ndarray:
    """The samples of another domain that occurs at the end of a data set alone.

    One domain more is fitted to the last ``count`` samples, beside those of the samples before
    (:func:`fit_newcomer`). It is an edge if a gap within classes separates its samples from all
    others, hardly any of those lie on its side, and another fit confirms it. So a look of a domain
    that was there before is none. Nor is a class that comes last: of a class with less than half as
    many samples before as at the end, nobody knows in which domains it occurs, so it is left out.

    Args:
        x: features in the order of arrival, ``[samples, features]``.
        targets: class of each sample, ``int64 [samples]``.
        count: samples at the end that can belong to an edge.

    Returns:
        Their rows, in order; none if nothing stands apart.
    """
    nothing = np.empty(0, dtype=np.int64)
    if min(count, len(x) - count) < COMPARED:
        return nothing
    _, classes = np.unique(targets, return_inverse=True)
    z = principal_space(x, axes=AXES)
    late = np.arange(len(x)) >= len(x) - count
    before, at_end = (
        np.bincount(classes[part], minlength=classes.max() + 1) for part in (~late, late)
    )
    late &= (2 * before >= at_end)[classes]
    if late.sum() < COMPARED:
        return nothing
    found = fit_newcomer(z, classes, late, components=COMPONENTS[0])
    if found.sum() < COMPARED:
        return nothing
    gap = class_gap(x, classes, np.flatnonzero(found), np.flatnonzero(~found), axes=AXES)
    if gap.valley >= MAX_VALLEY or gap.leak > MAX_LEAK:
        return nothing
    again = fit_newcomer(z, classes, late, components=COMPONENTS[1])
    agreed = (found & again).sum() >= MIN_AGREEMENT * (found | again).sum()
    return np.flatnonzero(found) if agreed else nothing
