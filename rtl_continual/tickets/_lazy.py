"""Tickets that are read when first looked at, and a cache with a byte budget."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import torch

from rtl_continual.tickets._ticket import Ticket

__all__ = ["ByteCache", "LazyTickets"]

V = TypeVar("V")


class ByteCache(Generic[V]):
    """Keeps the values used last, up to a number of bytes; threads may share it.

    The newest value is kept even if it alone exceeds the budget. A copy starts empty.

    Args:
        budget: bytes.
        size: bytes of a value.
    """

    def __init__(self, budget: int, size: Callable[[V], int]) -> None:
        self.budget = budget
        self._size = size
        self._values: OrderedDict[int, V] = OrderedDict()
        self._used = 0
        self._lock = threading.RLock()
        self._making: dict[int, threading.RLock] = {}

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: int) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[int]:
        """The keys, least recently used first."""
        return iter(tuple(self._values))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.budget, self._size)

    @property
    def used(self) -> int:
        """Bytes of all values kept."""
        return self._used

    def get(self, key: int, make: Callable[[], V]) -> V:
        """The value of a key; made on a miss, once even if several threads ask.

        While one value is being made, others can be had.
        """
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
            making = self._making.setdefault(key, threading.RLock())
        with making:
            with self._lock:
                if key in self._values:
                    return self._values[key]
            try:
                value = make()
                with self._lock:
                    self._keep(key, value)
            finally:
                with self._lock:
                    self._making.pop(key, None)
        return value

    def _keep(self, key: int, value: V) -> None:
        if key in self._values:
            self._used -= self._size(self._values.pop(key))
        self._values[key] = value
        self._used += self._size(value)
        while len(self._values) > 1 and self._used > self.budget:
            self._used -= self._size(self._values.popitem(last=False)[1])


class LazyTickets:
    """A fixed number of tickets of known names, each read when it is asked for.

    Args:
        names: the tickets' names, in the order of their ids.
        read: reads one ticket.
        cache_bytes: keep so many bytes of tickets in memory, least recently used out first.
    """

    def __init__(
        self,
        names: Sequence[str] = (),
        read: Callable[[int], Ticket] | None = None,
        *,
        cache_bytes: int = 0,
    ) -> None:
        self.names = tuple(names)
        self._read = read
        self._cache: ByteCache[Ticket] = ByteCache(cache_bytes, ticket_bytes)

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Ticket]:
        return (self.get(ticket_id) for ticket_id in range(len(self)))

    def get(self, ticket_id: int) -> Ticket:
        """The ticket with an id in ``0 .. len - 1``."""
        return self._cache.get(ticket_id, lambda: self._load(ticket_id))

    def _load(self, ticket_id: int) -> Ticket:
        assert self._read is not None, "tickets without a reader have no names"
        # A ticket first looked at while predicting may be learned from later.
        with torch.inference_mode(False):
            return self._read(ticket_id)


def ticket_bytes(ticket: Ticket) -> int:
    """Bytes of a ticket in memory: packed mask and tensors."""
    return ticket.mask.bits.nbytes + sum(
        t.numel() * t.element_size() for t in ticket.tensors().values()
    )
