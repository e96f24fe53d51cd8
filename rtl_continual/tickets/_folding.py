"""What follows a layer and can be done by it: seen in one watched run of a twin."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rtl_continual.backbones import DepthwiseConv2d
from rtl_continual.tickets._skeleton import Skeleton

__all__ = [
    "Bounds",
    "Run",
    "agree",
    "bounds_of",
    "convolutions_of",
    "find_followers",
    "fold_norms",
    "is_plain_attention",
    "products_of",
]

Bounds = tuple[float, float | None]
"""The least and the greatest value an activation gives."""

Run = Callable[[nn.Module, torch.Tensor], Any]
"""Runs a module on what it takes, and reads all that anybody reads of it."""


def bounds_of(module: nn.Module) -> Bounds | None:
    """What an activation clamps to; ``None`` for modules of other kinds."""
    if type(module) is nn.ReLU:
        return 0.0, None
    if type(module) in (nn.ReLU6, nn.Hardtanh):
        return float(module.min_val), float(module.max_val)  # type: ignore[arg-type]
    return None


def convolutions_of(body: nn.Module) -> dict[str, Any]:
    """Convolutions whose weight is theirs alone, by name."""
    owners = _owners(body)
    return {
        name: module
        for name, module in body.named_modules()
        if type(module) in (nn.Conv2d, DepthwiseConv2d)
        and module.padding_mode == "zeros"
        and isinstance(module.padding, tuple)
        and module.weight.dtype == torch.float32
        and owners[id(module.weight)] == 1
    }


def products_of(body: nn.Module) -> dict[str, Any]:
    """Linear layers and attention whose weights are theirs alone, by name."""
    owners = _owners(body)
    return {
        name: module
        for name, module in body.named_modules()
        if (_has_own_weight(module) or _has_one_projection(module))
        and all(
            owners[id(weight)] == 1 and weight.dtype == torch.float32
            for weight in module.parameters()
        )
    }


def _has_own_weight(module: nn.Module) -> bool:
    """Whether this is a linear layer whose weight is a parameter, not made of others by a hook."""
    return type(module) is nn.Linear and "weight" in module._parameters


def _has_one_projection(module: nn.Module) -> bool:
    """Whether this is attention that projects queries, keys and values at once."""
    return (
        type(module) is nn.MultiheadAttention
        and module._parameters.get("in_proj_weight") is not None
        and "weight" in module.out_proj._parameters
        and module.bias_k is None
        and not module.add_zero_attn
    )


def _owners(body: nn.Module) -> Counter[int]:
    """How many places of a body hold each parameter, by its id."""
    return Counter(id(p) for _, p in body.named_parameters(remove_duplicate=False))


@dataclass
class _Seen:
    """What a module was given and gave, call by call."""

    inputs: list[torch.Tensor] = field(default_factory=list)
    outputs: list[torch.Tensor] = field(default_factory=list)
    earlier: list[int] = field(default_factory=list)
    """How many operations had read each input before."""

    plain: bool = True
    """Whether it was given one tensor alone; attention, that tensor three times."""

    def watch(self, forward: Any, readers: _Readers) -> Any:
        def run(*args: Any, **options: Any) -> Any:
            x = [*args, *options.values()][0]
            self.earlier.append(readers.counts[id(x)])
            self.inputs.append(x)
            self.outputs.append(forward(*args, **options))
            if options or len(args) > 1:
                self.plain &= is_plain_attention(*args, **options)
            return self.outputs[-1]

        return run


def is_plain_attention(*args: Any, **options: Any) -> bool:
    """Whether attention was asked of one tensor with itself, without masks, for outputs alone."""
    # Weights are given unless they are refused.
    refused = options.get("need_weights") is False
    off = all(option is None or option is False for option in options.values())
    return len(args) == 3 and all(one is args[0] for one in args) and refused and off


class _Readers(TorchDispatchMode):
    """Counts by how many operations each tensor is read, by its id; in this thread alone."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[int] = Counter()
        self._alive: list[torch.Tensor] = []  # so that no id is given twice

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Torch would import its compiler, a second of work, to keep that out of here.
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        read = {id(x): x for x in tree_leaves((args, kwargs)) if torch.is_tensor(x)}
        self.counts.update(read.keys())
        self._alive += read.values()
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def find_followers(
    body: nn.Module, layers: Mapping[str, Any], activation: torch.Tensor, run: Run
) -> tuple[dict[str, list[int]], dict[str, tuple[str, nn.BatchNorm2d]], dict[str, str]]:
    """What layers are given, and the modules after them that can be folded into them.

    Returns:
        By a layer's name: the size of its input (of those that see one size alone); the
        name and module of the batch norm that reads its output, if nothing else does; the name of
        the activation that alone reads the output of both.
    """
    twin, owners, readers = Skeleton(body).module.eval(), _owners(body), _Readers()
    seen: dict[str, _Seen] = {}
    norms: dict[str, nn.BatchNorm2d] = {}
    activations: dict[str, bool] = {}
    for name, module in twin.named_modules():
        if _can_be_folded(module, owners):
            norms[name] = body.get_submodule(name)  # type: ignore[assignment]
        elif bounds_of(module) is not None:
            activations[name] = bool(module.inplace)
        elif name not in layers:
            continue
        seen[name] = _Seen()
        module.forward = seen[name].watch(module.forward, readers)
    with readers:
        run(twin, activation)
    once = {name: one for name, one in seen.items() if len(one.inputs) == 1}
    read_by = {id(once[name].inputs[0]): name for name in norms if name in once}
    clamped_by = {id(once[name].inputs[0]): name for name in activations if name in once}
    sizes: dict[str, list[int]] = {}
    pairs: dict[str, tuple[str, nn.BatchNorm2d]] = {}
    followers: dict[str, str] = {}
    for name in layers:
        shapes = {tuple(x.shape) for x in seen[name].inputs}
        if len(shapes) != 1 or not seen[name].plain:
            continue
        sizes[name] = list(*shapes)
        if name not in once:
            continue
        out = id(once[name].outputs[0])
        if out in read_by and readers.counts[out] == 1:
            norm = read_by[out]
            pairs[name] = norm, norms[norm]
            out = id(once[norm].outputs[0])
        follower = clamped_by.get(out)
        if follower is not None:
            # In place, whoever reads it later reads what is clamped.
            count = once[follower].earlier[0] + 1 if activations[follower] else readers.counts[out]
            if count == 1:
                followers[name] = follower
    return sizes, pairs, followers


@torch.no_grad()
def fold_norms(body: nn.Module, activation: torch.Tensor) -> None:
    """Fold each batch norm that alone reads a convolution into it, in place, for predicting.

    Args:
        body: whose outputs stay the same up to rounding.
        activation: of one image, as the body takes it; it says who reads what.
    """
    convolutions = convolutions_of(body)
    if not convolutions:
        return
    _, norms, _ = find_followers(body, convolutions, activation, nn.Module.__call__)
    for name, (norm_name, norm) in norms.items():
        conv = convolutions[name]
        conv.__class__ = nn.Conv2d  # ours of one kernel per channel knows no bias
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight,
            conv.bias,
            norm.running_mean,  # type: ignore[arg-type]
            norm.running_var,  # type: ignore[arg-type]
            norm.eps,
            norm.weight,
            norm.bias,
        )
        body.set_submodule(norm_name, nn.Identity())


def agree(
    changed: Callable[[torch.Tensor], torch.Tensor],
    plain: Callable[[torch.Tensor], torch.Tensor],
    x: torch.Tensor,
) -> bool:
    """Whether a changed twin gives what the plain module gives.

    A module that reads another one's weights cannot do with packed or folded ones.
    """
    try:
        expected = plain(x.clone())
        error = (changed(x.clone()) - expected).abs().max()
    except Exception:  # whatever a module does with a weight that is none
        return False
    return bool(error <= 1e-3 * expected.abs().max())


def _can_be_folded(module: nn.Module, owners: Mapping[int, int]) -> bool:
    return (
        type(module) is nn.BatchNorm2d
        and module.affine
        and module.track_running_stats
        and owners[id(module.weight)] == owners[id(module.bias)] == 1
    )
