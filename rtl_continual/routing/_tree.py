"""A balanced tree over points that grows like a B-tree."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch

__all__ = ["PointTree"]

_ENTRY = 20
"""A search begins at the lowest level with at most so many times the root of the points' number."""

_ROUNDS = 4
"""Of Lloyd's algorithm when a tree is built at once."""

_ROWS_AT_ONCE = 256
"""Inputs searched together; their blocks stay in the processor's cache."""


class _Level:
    """The nodes of one level: each holds up to ``capacity`` children, side by side in memory.

    Attributes:
        count: nodes in use; arrays have room for more.
        points: the children's points, lifted (see :func:`_lift`): ``[nodes, capacity, axes + 1]``;
            the last coordinate is minus infinity where there is no child.
        child: the children's numbers ``[nodes, capacity]``, -1 where there is none.
        size: children of each node.
        weight: leaves' points below each node.
        parent: of each node, a number in the level above; -1 at the root.
        center: mean of the points below each node, lifted: ``[nodes, axes + 1]``.
    """

    def __init__(self, capacity: int, axes: int, room: int = 4) -> None:
        self.count = 0
        self.points = np.zeros((room, capacity, axes + 1), np.float32)
        self.child = np.full((room, capacity), -1, np.int64)
        self.size = np.zeros(room, np.int64)
        self.weight = np.zeros(room, np.int64)
        self.parent = np.full(room, -1, np.int64)
        self.center = np.zeros((room, axes + 1), np.float32)

    def new_node(self) -> int:
        """The number of one more, empty node."""
        if self.count == len(self.size):
            for name, array in vars(self).items():
                if name != "count":
                    spare = np.empty((2 * len(array), *array.shape[1:]), array.dtype)
                    spare[: len(array)] = array
                    setattr(self, name, spare)
        node = self.count
        self.count += 1
        self.fill(node, self.points[:0, 0], self.child[:0, 0])
        self.parent[node] = -1
        return node

    def fill(self, node: int, points: np.ndarray, children: np.ndarray) -> None:
        """Give a node these children, lifted, and no others."""
        n = len(children)
        self.points[node] = 0
        self.points[node, :, -1] = -np.inf
        self.points[node, :n] = points
        self.child[node] = -1
        self.child[node, :n] = children
        self.size[node] = n

    def put(self, node: int, slot: int, point: np.ndarray, child: int) -> None:
        """Set one child, lifted; a slot at the end makes the node longer."""
        self.points[node, slot] = point
        self.child[node, slot] = child
        self.size[node] = max(int(self.size[node]), slot + 1)


class PointTree:
    """Finds points near an input, coarse to fine, without looking at all of them.

    Every leaf has the same depth. A point joins the leaf whose centre is nearest; a node that
    overflows is halved between its two clusters, and so is its parent if that overflows in turn:
    adding a point touches one path and no other node. Only the root's split makes the tree deeper.

    Args:
        axes: coordinates of a point.
        capacity: children of a node at most.
    """

    def __init__(self, axes: int, capacity: int) -> None:
        self.axes = axes
        self.capacity = capacity
        self.count = 0
        self.levels = [_Level(capacity, axes)]
        self.levels[0].new_node()

    @classmethod
    def build(cls, points: np.ndarray, capacity: int) -> PointTree:
        """A tree over points ``[points, axes]``, numbered in their order."""
        tree = cls(points.shape[1], capacity)
        tree.count = len(points)
        tree.levels = []
        numbers, values = np.arange(len(points)), _lift(points)
        weights = np.ones(len(points), np.int64)
        while not tree.levels or tree.levels[-1].count > 1:
            level = _Level(capacity, tree.axes)
            full = capacity if len(values) <= capacity else max(2, 3 * capacity // 4)
            for group in _groups(values[:, :-1], full):
                node = level.new_node()
                level.fill(node, values[group], numbers[group])
                level.weight[node] = weights[group].sum()
                share = weights[group] / level.weight[node]
                level.center[node] = _lift(share @ values[group, :-1])
                if tree.levels:
                    tree.levels[-1].parent[numbers[group]] = node
            tree.levels.append(level)
            values = level.center[: level.count].copy()
            numbers, weights = np.arange(level.count), level.weight[: level.count].copy()
        return tree

    @property
    def entry(self) -> int:
        """The level at which a search begins, with all its nodes."""
        most = max(self.capacity, _ENTRY * math.sqrt(self.count))
        return next(i for i, level in enumerate(self.levels) if level.count <= most)

    def search(self, y: np.ndarray, beam: int, found: int) -> np.ndarray:
        """The numbers of points near each input, in no particular order.

        Args:
            y: inputs ``[batch, axes]``.
            beam: nodes followed on each level.
            found: how many points for each input, at most.

        Returns:
            ``int64 [batch, found]``; -1 where the nodes on the way held fewer.
        """
        found = min(found, self.count)
        if len(y) == 1:
            return self._search_one(y[0], beam, found)[None]
        if len(y) <= _ROWS_AT_ONCE:
            return self._search(y, beam, found)
        return np.concatenate(
            [self._search(part, beam, found) for part in _chunks(y, _ROWS_AT_ONCE)]
        )

    def _search(self, y: np.ndarray, beam: int, found: int) -> np.ndarray:
        start = self.entry
        top = self.levels[start]
        rows = np.arange(len(y))[:, None]
        lifted = np.ones((len(y), self.axes + 1), np.float32)
        lifted[:, :-1] = y
        nodes = _largest(lifted @ top.center[: top.count].T, beam)
        column = lifted[:, :, None]
        for depth in range(start, -1, -1):
            level = self.levels[depth]
            block = level.points.take(nodes, axis=0)
            near = (block.reshape(len(y), -1, self.axes + 1) @ column)[:, :, 0]
            if depth < start:
                near.reshape(*nodes.shape, self.capacity)[nodes < 0] = -np.inf
            chosen = _largest(near, beam if depth else found)
            nodes = level.child.take(nodes, axis=0).reshape(len(y), -1)[rows, chosen]
            if depth < start or not depth:
                # A slot without a child, or of a node that is none, is no find.
                nodes[near[rows, chosen] == -np.inf] = -1
        return nodes

    def _search_one(self, y: np.ndarray, beam: int, found: int) -> np.ndarray:
        """:meth:`_search` of one input at half the overhead; what is no find is left out."""
        start = self.entry
        top = self.levels[start]
        lifted = np.ones(self.axes + 1, np.float32)
        lifted[:-1] = y
        near = top.center[: top.count] @ lifted
        nodes = near.argpartition(-beam)[-beam:] if beam < len(near) else np.arange(len(near))
        for depth in range(start, -1, -1):
            level = self.levels[depth]
            near = level.points.take(nodes, axis=0).reshape(-1, self.axes + 1) @ lifted
            nodes = level.child.take(nodes, axis=0).ravel()
            held = nodes >= 0
            near, nodes = near[held], nodes[held]
            most = beam if depth else found
            if most < len(near):
                nodes = nodes.take(near.argpartition(-most)[-most:])
        return nodes

    def flops(self, beam: int) -> int:
        """Of one input's search."""
        start = self.entry
        nodes = self.levels[start].count
        scanned = nodes + (start + 1) * min(beam, nodes) * self.capacity
        return scanned * (2 * self.axes + 2)

    def add(self, point: np.ndarray) -> None:
        """One more point ``[axes]``; its number is the next one."""
        depth = self.entry
        top = self.levels[depth]
        near = np.append(point, 1).astype(np.float32)
        node = int((top.center[: top.count] @ near).argmax())
        for level in self.levels[depth:0:-1]:
            node = int(level.child[node, (level.points[node] @ near).argmax()])
        self._insert(0, node, _lift(point), self.count)
        self.count += 1

    def _insert(self, depth: int, node: int, point: np.ndarray, child: int) -> None:
        """Put a child into a node that may be full, and set right what lies above."""
        level = self.levels[depth]
        size = int(level.size[node])
        if size < self.capacity:
            level.put(node, size, point, child)
            self._adopt(depth, node)
            self._recentre(depth, node)
            return
        points = np.concatenate([level.points[node], point[None]])
        children = np.append(level.child[node], child)
        right = _halve(points[:, :-1])
        other = level.new_node()
        level.fill(node, points[~right], children[~right])
        level.fill(other, points[right], children[right])
        self._adopt(depth, node)
        self._adopt(depth, other)
        self._measure(depth, other)
        if depth + 1 == len(self.levels):
            self._measure(depth, node)
            root = _Level(self.capacity, self.axes)
            self.levels.append(root)
            root.new_node()
            root.put(0, 0, level.center[node], node)
            level.parent[node] = 0
        else:
            self._recentre(depth, node)
        self._insert(depth + 1, int(level.parent[node]), level.center[other], other)

    def _adopt(self, depth: int, node: int) -> None:
        if depth:
            children = self.levels[depth].child[node, : self.levels[depth].size[node]]
            self.levels[depth - 1].parent[children] = node

    def _measure(self, depth: int, node: int) -> None:
        """A node's weight and centre from its children's."""
        level = self.levels[depth]
        size = level.size[node]
        children = level.child[node, :size]
        below = self.levels[depth - 1].weight[children] if depth else np.ones(size, np.int64)
        level.weight[node] = below.sum()
        share = below / level.weight[node]
        level.center[node] = _lift(share @ level.points[node, :size, :-1])

    def _recentre(self, depth: int, node: int) -> None:
        """Measure a node and those above it anew."""
        self._measure(depth, node)
        level = self.levels[depth]
        parent = int(level.parent[node])
        if parent >= 0:
            above = self.levels[depth + 1]
            slot = int(np.flatnonzero(above.child[parent] == node)[0])
            above.put(parent, slot, level.center[node], node)
            self._recentre(depth + 1, parent)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Each level's children; :meth:`load` finds the rest from the points."""
        return {
            f"level{depth}": torch.from_numpy(level.child[: level.count].astype(np.int32))
            for depth, level in enumerate(self.levels)
        }

    @classmethod
    def load(cls, state: Mapping[str, torch.Tensor], points: np.ndarray) -> PointTree:
        """The tree whose :meth:`state_dict` this is, over the same points."""
        first = state["level0"]
        tree = cls(points.shape[1], first.shape[1])
        tree.count = len(points)
        tree.levels = []
        values = _lift(points)
        for depth in range(len(state)):
            children = state[f"level{depth}"].numpy().astype(np.int64)
            level = _Level(tree.capacity, tree.axes, room=max(4, len(children)))
            tree.levels.append(level)
            for row in children:
                node = level.new_node()
                held = row[row >= 0]
                level.fill(node, values[held], held)
                tree._adopt(depth, node)
                tree._measure(depth, node)
            values = level.center[: level.count]
        return tree


def _lift(points: np.ndarray) -> np.ndarray:
    """Points ``[..., axes]`` with one coordinate more, minus half their squared norm, float32.

    The product of a lifted point and ``(y, 1)`` is the larger, the nearer the point is to ``y``.
    """
    half = 0.5 * np.einsum("...i,...i->...", points, points)
    return np.concatenate([points, -half[..., None]], axis=-1).astype(np.float32, copy=False)


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    """The columns of each row's largest values, unordered."""
    count = min(count, values.shape[1])
    # numpy's argpartition is slow where many values are equal, as those of empty slots are.
    return torch.from_numpy(values).topk(count, dim=1, sorted=False).indices.numpy()


def _groups(points: np.ndarray, most: int) -> list[np.ndarray]:
    """Halve again and again until no group has more than ``most`` points; each nearest its own.

    Cuts alone leave points on the wrong side of earlier ones. A few rounds of Lloyd's algorithm
    mend that; what grows too large on the way is halved again.
    """
    groups = _halved(points, np.arange(len(points)), most)
    for _ in range(_ROUNDS if len(groups) > 1 else 0):
        centers = np.stack([points[group].mean(axis=0) for group in groups])
        half = 0.5 * np.einsum("ij,ij->i", centers, centers)
        nearest = np.concatenate(
            [(part @ centers.T - half).argmax(axis=1) for part in _chunks(points, 4096)]
        )
        order = np.argsort(nearest, kind="stable")
        ends = np.cumsum(np.bincount(nearest, minlength=len(centers)))[:-1]
        groups = [group for group in np.split(order, ends) if len(group)]
    limit = -(-4 * most // 3)
    return [part for group in groups for part in _halved(points, group, limit, most)]


def _chunks(points: np.ndarray, rows: int) -> list[np.ndarray]:
    return np.split(points, range(rows, len(points), rows))


def _halved(
    points: np.ndarray, group: np.ndarray, limit: int, most: int | None = None
) -> list[np.ndarray]:
    """Parts of a group of more than ``limit`` points, each of at most ``most``."""
    if len(group) <= limit:
        return [group]
    most = limit if most is None else most
    done, open_ = [], [group]
    while open_:
        group = open_.pop()
        if len(group) <= most:
            done.append(group)
        else:
            right = _halve(points[group])
            open_ += [group[right], group[~right]]
    return done


def _halve(points: np.ndarray, *, rounds: int = 4, least: float = 0.3) -> np.ndarray:
    """Two clusters of nearly equal size: which points belong to the second.

    Two-means from a cut across the longest axis; the smaller one gets ``least`` of the points or
    more, so that nodes stay filled and the tree stays balanced.
    """
    centred = points - points.mean(axis=0)
    axis = centred[np.einsum("ij,ij->i", centred, centred).argmax()]
    for _ in range(3):
        axis = (centred @ axis) @ centred
        length = float(np.sqrt(axis @ axis))
        if length == 0:
            break
        axis = axis / length
    side = centred @ axis
    cut = _cut(side, least)
    for _ in range(rounds):
        right = side > cut if cut is not None else _second_half(side)
        apart = centred[right].mean(axis=0) - centred[~right].mean(axis=0)
        middle = centred[right].mean(axis=0) + centred[~right].mean(axis=0)
        side = centred @ apart - 0.5 * float(middle @ apart)
        cut = _cut(side, least)
    return side > cut if cut is not None else _second_half(side)


def _cut(side: np.ndarray, least: float) -> float | None:
    """Zero, moved as far as it takes to leave enough on either side; ``None`` if ties forbid."""
    low, high = int(least * len(side)), len(side) - 1 - int(least * len(side))
    ordered = np.partition(side, (low, high))
    cut = min(max(0.0, float(ordered[low])), float(ordered[max(low, high - 1)]))
    right = int((side > cut).sum())
    return cut if low <= right <= len(side) - low and 0 < right < len(side) else None


def _second_half(side: np.ndarray) -> np.ndarray:
    right = np.zeros(len(side), bool)
    right[np.argsort(side, kind="stable")[len(side) // 2 :]] = True
    return right
