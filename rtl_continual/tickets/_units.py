"""Units: channels, hidden features and attention heads that can be taken out of a network whole."""

from __future__ import annotations

import inspect
import operator
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import fx, nn
from torch.nn import functional as F

from rtl_continual.backbones import DepthwiseConv2d
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
    nn.ZeroPad2d,
)
"""Layers that work on each channel alone and hold nothing for it."""
_FUNCTIONS = {torch.relu, F.relu, F.relu6, F.gelu, F.silu, torch.tanh, torch.sigmoid}
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_ATTENTION_CALL = inspect.signature(nn.MultiheadAttention.forward)


@dataclass(frozen=True)
class UnitGroup:
    """The outputs of one layer, if only one other layer of its kind reads them.

    Such an output can be dropped without touching the rest of the network: its row of the layer
    that makes it, and its column of the layer that reads it. In a residual network these are the
    channels inside a block, in a vision transformer the hidden features of a block's perceptron
    and its attention heads. A head has many rows, some in each of the projections to queries, keys
    and values, and as many columns of the projection after it.

    Args:
        producer: name of the layer that makes the units.
        through: names of layers in between that treat each unit alone: batch norms, and
            convolutions with one kernel per channel.
        consumer: name of the layer that reads them.
        size: number of units.
        heads: whether they are the heads of an ``nn.MultiheadAttention``, the producer.
    """

    producer: str
    through: tuple[str, ...]
    consumer: str
    size: int
    heads: bool = False

    @property
    def made_by(self) -> str:
        """Name of the weight whose rows make the units."""
        return f"{self.producer}.{'in_proj_weight' if self.heads else 'weight'}"

    @property
    def read_by(self) -> str:
        """Name of the weight whose columns read the units."""
        return f"{self.consumer}.weight"

    def outputs(self, tensor: torch.Tensor) -> torch.Tensor:
        """A view ``[size, blocks, rows, ...]`` of what the producer or a layer after it holds.

        There is one block, or one each for queries, keys and values.
        """
        blocks = 3 if self.heads else 1
        return tensor.unflatten(0, (blocks, self.size, -1)).transpose(0, 1)

    def inputs(self, tensor: torch.Tensor) -> torch.Tensor:
        """A view ``[size, columns, outputs, ...]`` of the consumer's weight."""
        return tensor.transpose(0, 1).unflatten(0, (self.size, -1))

    def by_unit(self, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Views ``[size, ...]`` of those weights that belong to the group, by name.

        Args:
            weights: of the body, by name.
        """
        makers = (self.made_by, *(f"{name}.weight" for name in self.through))
        views = {name: self.outputs(weights[name]) for name in makers if name in weights}
        return {**views, self.read_by: self.inputs(weights[self.read_by])}


def find_units(body: nn.Module) -> tuple[UnitGroup, ...]:
    """The groups of units of a body, in its order.

    Args:
        body: is traced by ``torch.fx``; it is not run.

    Raises:
        BankError: if it cannot be traced, or has no units.

    Example:
        >>> from torch import nn
        >>> find_units(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)))
        (UnitGroup(producer='0', through=(), consumer='2', size=8, heads=False),)
    """
    groups = units_of(body)
    if not groups:
        raise BankError(
            "tickets of kind 'units' need layers whose outputs one other layer alone reads; "
            "this body has none"
        )
    return groups


def units_of(body: nn.Module) -> tuple[UnitGroup, ...]:
    """:func:`find_units` of a body that need not have any."""
    try:
        graph = _Tracer().trace(body)
    # Tracing runs the network's own code on stand-ins, which may fail in any way.
    except Exception as error:
        raise BankError(
            f"tickets of kind 'units' need a body that torch.fx can trace: {error}"
        ) from error
    trace = _Trace(body, graph)
    return tuple(group for node in graph.nodes if (group := trace.group_of(node)) is not None)


class _Tracer(fx.Tracer):
    """Calls our own layers that are torch's in all but speed or geometry, and looks into others."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        ours = isinstance(m, (DepthwiseConv2d, nn.ZeroPad2d))
        return ours or super().is_leaf_module(m, module_qualified_name)


class _Trace:
    """A body's layers and what is done with them."""

    def __init__(self, body: nn.Module, graph: fx.Graph) -> None:
        self._modules = dict(body.named_modules())
        self._calls = Counter(str(n.target) for n in graph.nodes if n.op == "call_module")
        # Parameters that are read without calling their layer, or are those of several layers.
        read = {str(node.target) for node in graph.nodes if node.op == "get_attr"}
        names: dict[int, list[str]] = {}
        for name, parameter in body.named_parameters(remove_duplicate=False):
            names.setdefault(id(parameter), []).append(name)
        shared = {name for same in names.values() if len(same) > 1 for name in same}
        self._borrowed = {name.rpartition(".")[0] for name in read | shared}

    def group_of(self, node: fx.Node) -> UnitGroup | None:
        """What the layer called here makes, if it is units."""
        module = self._module(node)
        if module is None or not self._is_alone(str(node.target)):
            return None
        if isinstance(module, nn.MultiheadAttention):
            return self._heads(node, module)
        return self._features(node, module) if _mixes(module) else None

    def _features(self, node: fx.Node, first: nn.Module) -> UnitGroup | None:
        assert isinstance(first, (nn.Conv2d, nn.Linear))
        producer, size = str(node.target), len(first.weight)
        through: list[str] = []
        while len(node.users) == 1:
            node = next(iter(node.users))
            module = self._module(node)
            if module is None:
                if node.op == "call_function" and node.target in _FUNCTIONS:
                    continue
                return None
            if not isinstance(module, _ELEMENTWISE) and not self._is_alone(str(node.target)):
                return None
            if type(module) is type(first) and _mixes(module):
                return UnitGroup(producer, tuple(through), str(node.target), size)
            if isinstance(module, _NORMS) or _one_kernel_each(module):
                through.append(str(node.target))
            elif not isinstance(module, _ELEMENTWISE):
                return None
        return None

    def _heads(self, node: fx.Node, module: nn.MultiheadAttention) -> UnitGroup | None:
        producer, consumer = str(node.target), f"{node.target}.out_proj"
        plain = (
            type(module) is nn.MultiheadAttention
            and module._qkv_same_embed_dim
            and module.bias_k is None
            and not module.add_zero_attn
            and self._calls[consumer] == 0
            and consumer not in self._borrowed
        )
        if not plain or not _is_self_attention(node) or not _reads_no_weights(node):
            return None
        return UnitGroup(producer, (), consumer, module.num_heads, heads=True)

    def _module(self, node: fx.Node) -> nn.Module | None:
        return self._modules.get(str(node.target)) if node.op == "call_module" else None

    def _is_alone(self, name: str) -> bool:
        """Whether a layer is called once, and nothing else reads its parameters."""
        return self._calls[name] == 1 and name not in self._borrowed


def _is_self_attention(node: fx.Node) -> bool:
    """Whether a call of attention has one input, and no mask, which may differ between heads."""
    given = _ATTENTION_CALL.bind(None, *node.args, **node.kwargs).arguments
    same = given["query"] is given["key"] is given["value"]
    return same and not any(
        given.get(name) for name in ("key_padding_mask", "attn_mask", "is_causal")
    )


def _reads_no_weights(node: fx.Node) -> bool:
    """Whether the first output of attention alone is used; the second is of every head."""
    return all(
        user.op == "call_function"
        and user.target is operator.getitem
        and (user.args[1] == 0 or not user.users)
        for user in node.users
    )


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
        for view in group.by_unit(layers).values():
            view[~kept[group.producer]] = False
    return flat
