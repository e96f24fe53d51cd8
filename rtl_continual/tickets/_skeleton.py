"""A module's structure, called with tensors that are put in for the call."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from rtl_continual.errors import RTLError

__all__ = ["CompiledSkeleton", "Pool", "Skeleton"]

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


class CompiledSkeleton(Skeleton):
    """A skeleton whose calls go through ``torch.compile``; equal up to rounding.

    The first call compiles, for a minute or more, and so does the first one of another mode.

    Args:
        module: stays as it is.

    Raises:
        RTLError: if there is no C++ compiler.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        _check_compiler()

        def run(values: dict[str, torch.Tensor], args: tuple[Any, ...]) -> Any:
            return torch.func.functional_call(self.module, values, args)

        self._run = torch.compile(run)

    def __call__(self, values: Mapping[str, torch.Tensor], *args: Any) -> Any:
        """See :meth:`Skeleton.__call__`."""
        return self._run(dict(values), args)


def _check_compiler() -> None:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise RTLError(
            "torch.compile needs a C++ compiler, and none is here: install g++ or clang, or set "
            "tickets.compile to false"
        ) from error


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
