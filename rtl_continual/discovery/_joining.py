"""Pieces of a distribution joined until only separate groups are left."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rtl_continual.discovery._gap import Gap, find_gap
from rtl_continual.discovery._space import principal_space

__all__ = ["COMPARED", "class_gap", "join_pieces"]

BRIDGE = 1e-4
"""A valley that is deeper than this holds nothing between the groups.

One sample in a thousand that lies there leaves about 1e-3, a kernel's tail a fifth of that; between
pieces that do not touch it is below 1e-40 (pieces of one digit domain, two seeds).
"""

SEEN = 3
"""A class with fewer samples in a group is not compared."""

COMPARED = 20
"""With fewer samples of common classes nothing speaks for two domains."""


def join_pieces(
    labels: np.ndarray,
    valley: Callable[[np.ndarray, np.ndarray], float],
    *,
    max_valley: float,
    min_share: float = 0.0,
    max_clusters: int | None = None,
) -> np.ndarray:
    """Join the two pieces with the shallowest valley between them, again and again.

    Until every valley is deeper than ``max_valley``; then a group smaller than ``min_share`` of
    the largest joins the one it is least apart from, if samples lie between the two; last, groups
    are joined until ``max_clusters`` are left.

    Args:
        labels: the pieces, ``int64 [samples]``.
        valley: of the gap between two pieces, given as rows.
        max_valley: of pieces that stay apart.
        min_share: of a group's size over the largest one's.
        max_clusters: at most so many groups.

    Returns:
        Groups ``int64 [samples]``, from 0.
    """
    rows = {int(i): np.flatnonzero(labels == i) for i in np.unique(labels)}
    depths = {(a, b): valley(rows[a], rows[b]) for a in rows for b in rows if a < b}
    while depths:
        (a, b), depth = max(depths.items(), key=lambda item: item[1])
        if depth < max_valley and len(rows) <= (max_clusters or len(rows)):
            small = _small_and_bridged(rows, depths, min_share)
            if small is None:
                break
            a, b = small
        rows[a] = np.concatenate([rows[a], rows.pop(b)])
        depths = {pair: d for pair, d in depths.items() if not {a, b} & set(pair)}
        for other in rows:
            if other != a:
                pair = (min(a, other), max(a, other))
                depths[pair] = valley(rows[pair[0]], rows[pair[1]])
    joined = np.empty(len(labels), dtype=np.int64)
    for number, members in enumerate(rows.values()):
        joined[members] = number
    return joined


def _small_and_bridged(
    rows: dict[int, np.ndarray], depths: dict[tuple[int, int], float], min_share: float
) -> tuple[int, int] | None:
    """The smallest group that is a look of another one, and that one."""
    least = min_share * max(len(members) for members in rows.values())
    for small in sorted(rows, key=lambda i: len(rows[i])):
        if len(rows[small]) >= least:
            break
        beside = {pair: depth for pair, depth in depths.items() if small in pair}
        pair, depth = max(beside.items(), key=lambda item: item[1])
        if depth > BRIDGE:
            return pair
    return None


def class_gap(
    x: np.ndarray, targets: np.ndarray, first: np.ndarray, second: np.ndarray, *, axes: int
) -> Gap:
    """The gap between two groups, looked for within classes alone.

    Two groups are different domains only if samples of the same class differ between them. So
    classes that are in one group alone are left out, and each other class is moved to the middle
    between its means in both. Groups without a common class are not told apart: valley and leak are
    1. A few samples show no gap and stay apart: both are 0.

    Args:
        x: features ``[samples, features]``.
        targets: classes ``[samples]``, from 0.
        first: rows of a group.
        second: rows of another group.
        axes: leading principal axes of both groups together in which to look.
    """
    count = int(targets.max()) + 1
    if min(len(first), len(second)) < COMPARED:
        return Gap(0.0, 0.0)
    seen = [np.bincount(targets[rows], minlength=count) for rows in (first, second)]
    common = np.flatnonzero((seen[0] >= SEEN) & (seen[1] >= SEEN))
    if np.minimum(*seen)[common].sum() < COMPARED:
        return Gap(1.0, 1.0)
    parts = [rows[np.isin(targets[rows], common)] for rows in (first, second)]
    moved = [x[rows] for rows in parts]
    for target in common:
        here = [targets[rows] == target for rows in parts]
        middle = sum(m[h].mean(axis=0) for m, h in zip(moved, here, strict=True)) / 2
        for m, h in zip(moved, here, strict=True):
            m[h] -= middle
    z = principal_space(np.concatenate(moved), axes=axes)
    return find_gap(z[: len(moved[0])], z[len(moved[0]) :])
