"""Units: channels and hidden features that can be taken out of a network whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from rtl_continual.errors import BankError
from rtl_continual.tickets._mask import MaskLayout

__all__ = ["UnitGroup", "find_units", "unit_mask"]

_ELEMENTWISE = (
    nn.Identity,
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.GELU,
    nn.SiLU,
    nn.Hardswish,
    nn.Sigmoid,
    nn.Tanh,
    nn.Dropout,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
)
"""Layers that work on each channel alone and hold nothing for it."""
_FUNCTIONS = {torch.relu, F.relu, F.relu6, F.gelu, F.silu, torch.tanh, torch.sigmoid}
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


@dataclass(frozen=True)
class UnitGroup:
    """The outputs of one layer, if only one other layer of its kind reads them.

    Such an output can be dropped without touching the rest of the network: its row of the layer
    that makes it, and its column of the layer that reads it. In a residual network these are the
    channels inside a block, in a vision transformer the hidden features of a block's perceptron.

    Args:
        producer: name of the layer that makes the units.
        through: names of layers in between that treat each unit alone: batch norms, and
            convolutions with one kernel per channel.
        consumer: name of the layer that reads them.
        size: number of units.
    """

    producer: str
    through: tuple[str, ...]
    consumer: str
    size: int


def find_units(body: nn.Module) -> tuple[UnitGroup, ...]:
    """The groups of units of a body, in its order.

    Args:
        body: is traced by ``torch.fx``; it is not run.

    Raises:
        BankError: if it cannot be traced, or has no units.

    Example:
        >>> from torch import nn
        >>> find_units(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)))
        (UnitGroup(producer='0', through=(), consumer='2', size=8),)
    """
    try:
        graph = fx.Tracer().trace(body)
    # Tracing runs the network's own code on stand-ins, which may fail in any way.
    except Exception as error:
        raise BankError(
            f"tickets of kind 'units' need a body that torch.fx can trace: {error}"
        ) from error
    modules = dict(body.named_modules())
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    groups = [
        group for node in graph.nodes if (group := _group_of(node, modules, calls)) is not None
    ]
    if not groups:
        raise BankError(
            "tickets of kind 'units' need layers whose outputs one other layer alone reads; "
            "this body has none"
        )
    return tuple(groups)


def _group_of(
    node: fx.Node, modules: Mapping[str, nn.Module], calls: Mapping[Any, int]
) -> UnitGroup | None:
    first = _module(node, modules)
    if not _mixes(first) or calls[node.target] != 1:
        return None
    assert isinstance(first, (nn.Conv2d, nn.Linear))
    producer, size = str(node.target), len(first.weight)
    through: list[str] = []
    while len(node.users) == 1:
        node = next(iter(node.users))
        module = _module(node, modules)
        if module is None:
            if node.op == "call_function" and node.target in _FUNCTIONS:
                continue
            return None
        if calls[node.target] != 1 and not isinstance(module, _ELEMENTWISE):
            return None
        if type(module) is type(first) and _mixes(module):
            return UnitGroup(producer, tuple(through), str(node.target), size)
        if isinstance(module, _NORMS) or _one_kernel_each(module):
            through.append(str(node.target))
        elif not isinstance(module, _ELEMENTWISE):
            return None
    return None


def _module(node: fx.Node, modules: Mapping[str, nn.Module]) -> nn.Module | None:
    return modules.get(str(node.target)) if node.op == "call_module" else None


def _mixes(module: nn.Module | None) -> bool:
    """Whether every output of the layer reads every input."""
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)


def _one_kernel_each(module: nn.Module | None) -> bool:
    return (
        isinstance(module, nn.Conv2d) and module.groups == module.in_channels == module.out_channels
    )


def unit_mask(
    layout: MaskLayout, groups: tuple[UnitGroup, ...], kept: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    """The mask that drops whole units, flat ``[layout.total]`` and boolean.

    Args:
        layout: the body's mask layout.
        groups: its units.
        kept: boolean ``[size]`` for each group, by its producer.
    """
    device = next(iter(kept.values())).device
    flat = torch.ones(layout.total, dtype=torch.bool, device=device)
    layers = layout.unflatten(flat)
    for group in groups:
        keep = kept[group.producer]
        for name in (group.producer, *group.through):
            if f"{name}.weight" in layers:
                layers[f"{name}.weight"][~keep] = False
        layers[f"{group.consumer}.weight"][:, ~keep] = False
    return flat
