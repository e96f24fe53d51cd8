"""Tensors that grow row by row."""

from __future__ import annotations

import copy

import torch

__all__ = ["Rows"]

_MOVES = 5
"""Rows copied to a larger store with each new one, so that no single append copies them all."""


class _Store:
    """Memory for rows, and a larger one that fills up before this one is full."""

    def __init__(self, values: torch.Tensor, used: int) -> None:
        self.values = values
        self.used = used
        self.next: _Store | None = None

    def move(self, count: int) -> _Store:
        """Copy so many more rows to the larger memory."""
        if self.next is None:
            size = (max(16, 2 * len(self.values)), *self.values.shape[1:])
            self.next = _Store(self.values.new_empty(size), 0)
        start, stop = self.next.used, min(self.used, self.next.used + count)
        if start < stop:
            self.next.values[start:stop] = self.values[start:stop]
            self.next.used = stop
        return self.next


class Rows:
    """A tensor whose first dimension grows, at constant cost per row.

    Adding a row to a plain tensor copies it; a bank that grows to a hundred thousand tickets would
    copy them all a hundred thousand times. Rows once written never change, so a deep copy shares
    them: either of the two may grow, and the other does not see it.

    Args:
        values: the first rows ``[rows, ...]``; copied.
    """

    def __init__(self, values: torch.Tensor) -> None:
        self._count = len(values)
        self._store = _own(values)

    def __len__(self) -> int:
        return self._count

    def __deepcopy__(self, memo: object) -> Rows:
        return copy.copy(self)

    @property
    def values(self) -> torch.Tensor:
        """All rows; a view, which later rows leave as it is."""
        return self._store.values[: self._count]

    def append(self, row: torch.Tensor) -> None:
        """One more row ``[...]``."""
        if self._store.used != self._count:
            self._store = _own(self.values)
        store = self._store
        full = self._count == len(store.values)
        if 4 * self._count >= 3 * len(store.values):
            spare = store.move(self._count if full else _MOVES)
            if full:
                store = spare if spare.used == self._count else _own(self.values)
        store.values[self._count] = row
        self._count += 1
        self._store, store.used = store, self._count


def _own(values: torch.Tensor) -> _Store:
    """A copy of these rows with room for as many more."""
    room = values.new_empty(max(16, 2 * len(values)), *values.shape[1:])
    room[: len(values)] = values
    return _Store(room, len(values))
