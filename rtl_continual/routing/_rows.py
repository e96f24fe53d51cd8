"""Tensors that grow row by row."""

from __future__ import annotations

import torch

__all__ = ["Rows"]


class Rows:
    """A tensor whose first dimension grows, at constant cost per row.

    Adding a row to a plain tensor copies it; a bank that grows to a hundred thousand tickets would
    copy them all a hundred thousand times.

    Args:
        values: the first rows ``[rows, ...]``; copied.
    """

    def __init__(self, values: torch.Tensor) -> None:
        self._store = values.clone()
        self._count = len(values)

    def __len__(self) -> int:
        return self._count

    @property
    def values(self) -> torch.Tensor:
        """All rows; a view that is valid until the next :meth:`append`."""
        return self._store[: self._count]

    def append(self, row: torch.Tensor) -> None:
        """One more row ``[...]``."""
        if self._count == len(self._store):
            spare = self._store.new_empty(max(16, 2 * self._count), *self._store.shape[1:])
            spare[: self._count] = self._store
            self._store = spare
        self._store[self._count] = row
        self._count += 1
