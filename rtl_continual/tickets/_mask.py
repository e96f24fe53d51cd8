"""Binary masks over a body's weights: layout, packed bits, sets and overlaps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import nn

from rtl_continual.errors import BankError

__all__ = ["NORM_LAYERS", "Mask", "MaskLayout", "norm_state_names"]

NORM_LAYERS = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)
"""Layers whose affine parameters and running statistics each ticket owns."""


def norm_state_names(body: nn.Module) -> tuple[str, ...]:
    """Names of the parameters and buffers of every normalisation layer of ``body``."""
    names = []
    for prefix, module in body.named_modules():
        if isinstance(module, NORM_LAYERS):
            names += [f"{prefix}.{key}" if prefix else key for key in module.state_dict()]
    return tuple(names)


@dataclass(frozen=True)
class MaskLayout:
    """Which weights of a body are masked, and where each one's bits lie.

    Weights keep the body's own order. Bits are packed little-endian, eight to a byte, and each
    layer starts on a byte of its own, so that a layer can be read alone.

    Args:
        shapes: weight name to shape.

    Example:
        >>> from torch import nn
        >>> MaskLayout.of(nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.Linear(5, 2))).shapes
        {'0.weight': (5, 3), '2.weight': (2, 5)}
    """

    shapes: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, body: nn.Module) -> MaskLayout:
        """Every parameter of rank 2 or more that is a weight of a layer (not of a norm)."""
        norm = set(norm_state_names(body))
        shapes = {
            name: tuple(parameter.shape)
            for name, parameter in body.named_parameters()
            if parameter.ndim >= 2 and name.endswith("weight") and name not in norm
        }
        if not shapes:
            raise BankError("the body has no weight of rank 2 or more, so there is nothing to mask")
        return cls(shapes)

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Weights per layer."""
        return {name: math.prod(shape) for name, shape in self.shapes.items()}

    @cached_property
    def total(self) -> int:
        """All maskable weights of the body."""
        return sum(self.sizes.values())

    @cached_property
    def byte_ranges(self) -> dict[str, tuple[int, int]]:
        """First and last-plus-one byte of each layer's bits."""
        ranges, start = {}, 0
        for name, size in self.sizes.items():
            stop = start + (size + 7) // 8
            ranges[name] = (start, stop)
            start = stop
        return ranges

    @cached_property
    def num_bytes(self) -> int:
        """Bytes of a packed mask."""
        return max(stop for _, stop in self.byte_ranges.values())

    def flatten(self, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """One vector ``[total]`` of all maskable weights, in the layout's order."""
        return torch.cat([weights[name].reshape(-1) for name in self.shapes])

    def unflatten(self, flat: torch.Tensor) -> dict[str, torch.Tensor]:
        """Views of ``flat`` in each weight's shape."""
        parts = torch.split(flat, list(self.sizes.values()))
        return {
            name: part.view(shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }


class Mask:
    """One bit per maskable weight; immutable.

    Args:
        layout: the body's mask layout.
        bits: packed bits, ``uint8 [layout.num_bytes]``; those that only fill up a layer's last
            byte are zero.

    Raises:
        BankError: if the bits do not fit the layout.
    """

    __slots__ = ("_counts", "bits", "layout")

    def __init__(self, layout: MaskLayout, bits: np.ndarray) -> None:
        if bits.dtype != np.uint8 or bits.shape != (layout.num_bytes,):
            raise BankError(
                f"mask bits must be uint8 [{layout.num_bytes}], got {bits.dtype} {list(bits.shape)}"
            )
        for name, (_, stop) in layout.byte_ranges.items():
            used = layout.sizes[name] % 8
            if used and bits[stop - 1] >> used:
                raise BankError(f"mask bits of '{name}' are set beyond its last weight")
        self.layout = layout
        self.bits = bits.copy()
        self.bits.setflags(write=False)
        self._counts: dict[str, int] | None = None

    @classmethod
    def from_flat(cls, layout: MaskLayout, keep: torch.Tensor) -> Mask:
        """Pack a boolean vector ``[layout.total]``."""
        values = keep.detach().to("cpu", torch.bool).numpy()
        parts = np.split(values, np.cumsum(list(layout.sizes.values()))[:-1])
        return cls(layout, np.concatenate([np.packbits(p, bitorder="little") for p in parts]))

    def to_flat(self) -> torch.Tensor:
        """The mask as a boolean vector ``[layout.total]``."""
        return torch.cat([self.layer(name).reshape(-1) for name in self.layout.shapes])

    def layer(self, name: str) -> torch.Tensor:
        """One layer's mask, boolean, in the weight's shape."""
        start, stop = self.layout.byte_ranges[name]
        size = self.layout.sizes[name]
        values = np.unpackbits(self.bits[start:stop], count=size, bitorder="little")
        return torch.from_numpy(values.view(np.bool_)).view(self.layout.shapes[name])

    @property
    def counts(self) -> dict[str, int]:
        """Kept weights per layer."""
        if self._counts is None:
            self._counts = _layer_counts(self.layout, self.bits)
        return self._counts

    @property
    def kept(self) -> int:
        """Kept weights in all."""
        return sum(self.counts.values())

    @property
    def sparsity(self) -> float:
        """Fraction of maskable weights that the mask drops."""
        return 1.0 - self.kept / self.layout.total

    def layer_density(self) -> dict[str, float]:
        """Kept fraction of each layer."""
        return {name: kept / self.layout.sizes[name] for name, kept in self.counts.items()}

    def jaccard(self, other: Mask) -> float:
        """Overlap ``|a and b| / |a or b|`` over all maskable weights (arXiv 2601.22141)."""
        self._check_layout(other)
        both, either = _overlap(self.bits, other.bits)
        return both / either if either else 1.0

    def layer_jaccard(self, other: Mask) -> dict[str, float]:
        """:meth:`jaccard` of each layer alone."""
        self._check_layout(other)
        both = _layer_counts(self.layout, self.bits & other.bits)
        either = _layer_counts(self.layout, self.bits | other.bits)
        return {name: both[name] / either[name] if either[name] else 1.0 for name in both}

    def _check_layout(self, other: Mask) -> None:
        if self.layout is not other.layout and self.layout != other.layout:
            raise BankError("masks over different bodies cannot be compared")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mask) and np.array_equal(self.bits, other.bits)

    def __hash__(self) -> int:
        return hash(self.bits.tobytes())


def union(masks: Sequence[Mask]) -> Mask:
    """The weights that at least one of ``masks`` keeps."""
    if not masks:
        raise BankError("the union of no masks is undefined")
    for mask in masks[1:]:
        masks[0]._check_layout(mask)
    bits = np.bitwise_or.reduce([mask.bits for mask in masks])
    return Mask(masks[0].layout, bits)


def _overlap(a: np.ndarray, b: np.ndarray) -> tuple[int, int]:
    both = int(np.bitwise_count(a & b).sum(dtype=np.int64))
    either = int(np.bitwise_count(a | b).sum(dtype=np.int64))
    return both, either


def _layer_counts(layout: MaskLayout, bits: np.ndarray) -> dict[str, int]:
    counts = np.bitwise_count(bits)
    return {
        name: int(counts[start:stop].sum(dtype=np.int64))
        for name, (start, stop) in layout.byte_ranges.items()
    }
