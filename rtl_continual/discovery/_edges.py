"""Pieces of a neighbouring domain at the ends of an experience."""

from __future__ import annotations

import numpy as np

from rtl_continual.discovery._class_mixture import fit_newcomer
from rtl_continual.discovery._joining import COMPARED, class_gap
from rtl_continual.discovery._space import principal_space

__all__ = ["find_edge"]

AXES = 24
"""Principal axes in which a piece is looked for."""

COMPONENTS = 4
"""Domains, or looks of one, that describe what came before."""

MAX_VALLEY = 0.67
"""A piece is apart from the rest if the valley between them is deeper.

Between a domain and the first tenth of the next one, or the last of the one before, it is 0.00 to
0.56; between a domain and what looks newest at its end 0.78 to 1.00 (48 and 30 ends of experiences,
two streams, seeds 10 to 12).
"""

MAX_LEAK = 0.15
"""And if at most this share of the rest lies on its side: 0.00 to 0.11 and 0.21 to 0.69 there."""


def find_edge(x: np.ndarray, targets: np.ndarray, count: int) -> np.ndarray:
    """The samples of another domain that occurs at the end of a data set alone.

    One domain more is fitted to the last ``count`` samples, beside those of the samples before
    (:func:`fit_newcomer`). It is an edge if a gap within classes separates its samples from all
    others and hardly any of those lie on its side. So neither a class that comes last nor a look of
    a domain that was there before is one.

    Args:
        x: features in the order of arrival, ``[samples, features]``.
        targets: class of each sample, ``int64 [samples]``.
        count: samples at the end that can belong to an edge.

    Returns:
        Their rows, in order; none if nothing stands apart.
    """
    nothing = np.empty(0, dtype=np.int64)
    if count < COMPARED or len(x) - count < COMPARED:
        return nothing
    z = principal_space(x, axes=AXES)
    components = min(COMPONENTS, len(np.unique(z[: len(x) - count], axis=0)) // COMPARED)
    if components < 1:
        return nothing
    late = np.arange(len(x)) >= len(x) - count
    found = fit_newcomer(z, targets, late, components=components)
    if found.sum() < COMPARED:
        return nothing
    _, classes = np.unique(targets, return_inverse=True)
    rows = np.flatnonzero(found)
    gap = class_gap(x, classes, rows, np.flatnonzero(~found), axes=AXES)
    return rows if gap.valley < MAX_VALLEY and gap.leak <= MAX_LEAK else nothing
