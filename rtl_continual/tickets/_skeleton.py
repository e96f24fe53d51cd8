"""A module's structure, called with tensors that are put in for the call."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any, Generic, TypeVar

import torch
from torch import nn

__all__ = ["Pool", "Skeleton"]

T = TypeVar("T")

_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_always_called",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)


class Skeleton:
    """A twin of a module: same structure, same tensors, same hooks, but places of its own.

    ``torch.func.functional_call`` puts tensors into the module it is given, so two threads must
    not use one module at a time. Each user of a twin may do so, and may set the twin's batch norm
    to training mode, without anybody else noticing. No tensor is copied.

    A call costs one dictionary entry for each tensor given: less than ``functional_call``, which
    looks every name up in the module again.

    Args:
        module: stays as it is. Tensors that a call does not give are its own.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> layer = nn.Linear(2, 2)
        >>> twin = Skeleton(layer)
        >>> values = {"weight": torch.eye(2), "bias": torch.ones(2)}
        >>> twin(values, torch.tensor([[1.0, 2.0]])).tolist()
        [[2.0, 3.0]]
        >>> twin.module.weight is layer.weight
        True
    """

    def __init__(self, module: nn.Module) -> None:
        shared: dict[int, Any] = {id(t): t for t in chain(module.parameters(), module.buffers())}
        for child in module.modules():
            # Hooks set on the module later are called too.
            shared |= {id(part): part for part in (getattr(child, name) for name in _HOOKS)}
        self.module = copy.deepcopy(module, shared)
        by_tensor: dict[int, list[tuple[dict[str, Any], str]]] = {}
        for child in self.module.modules():
            for places in (child._parameters, child._buffers):
                for key, tensor in places.items():
                    if tensor is not None:
                        by_tensor.setdefault(id(tensor), []).append((places, key))
        # A tensor that the module uses in two places is replaced in both.
        names = chain(
            self.module.named_parameters(remove_duplicate=False),
            self.module.named_buffers(remove_duplicate=False),
        )
        self._places = {name: (tensor, by_tensor[id(tensor)]) for name, tensor in names}

    def __call__(self, values: Mapping[str, torch.Tensor], *args: Any) -> Any:
        """The module's output with ``values``, by name, in the place of its own tensors."""
        try:
            for name, tensor in values.items():
                for places, key in self._places[name][1]:
                    places[key] = tensor
            return self.module(*args)
        finally:
            # Nothing is kept alive, and nothing half replaced is left behind.
            for name in values.keys() & self._places.keys():
                own, everywhere = self._places[name]
                for places, key in everywhere:
                    places[key] = own


class Pool(Generic[T]):
    """Things of which each is used by one thread at a time; made when none is free.

    A copy starts empty.

    Args:
        make: makes one.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._free: list[T] = []

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._make,)

    @contextmanager
    def borrow(self) -> Iterator[T]:
        """One of them, for the ``with`` block alone."""
        try:
            # A list's pop and append need no lock.
            thing = self._free.pop()
        except IndexError:
            thing = self._make()
        try:
            yield thing
        finally:
            self._free.append(thing)
