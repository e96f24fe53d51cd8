"""Depthwise convolutions with large kernels, trained on a processor."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_input

__all__ = ["DepthwiseConv2d", "depthwise_conv"]

LARGE_KERNEL = 5
"""From this size on the library's gradient of the weights is slow; of 3 x 3 it is fast."""

MOST_PAIRS = 128 * 128
"""Pairs of an input's and an output's place, up to which they are all multiplied."""


class DepthwiseConv2d(nn.Conv2d):
    """A convolution with one square kernel per channel and no bias; see :func:`depthwise_conv`."""

    def __init__(self, channels: int, kernel: int, stride: int, padding: int) -> None:
        super().__init__(channels, channels, kernel, stride, padding, groups=channels, bias=False)

    def _conv_forward(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        return depthwise_conv(x, weight, self.stride[0], int(self.padding[0]))


def depthwise_conv(
    x: torch.Tensor, weight: torch.Tensor, stride: int, padding: int
) -> torch.Tensor:
    """A depthwise convolution, as :func:`torch.nn.functional.conv2d`, with a faster gradient.

    On a processor the gradient of a 5 x 5 kernel's weights takes ten times as long as the
    convolution itself. On small maps it is faster to multiply every place of the input with every
    place of the output (a matrix product per channel) and to add up the pairs that a weight joins.

    Args:
        x: ``[batch, channels, height, width]``.
        weight: ``[channels, 1, kernel, kernel]``.
        stride: of both axes.
        padding: zeros on every side.
    """
    if _is_worth_it(x, weight, stride, padding):
        if torch.is_autocast_enabled("cpu"):
            x = x.to(torch.get_autocast_dtype("cpu"))
        with torch.autocast("cpu", enabled=False):
            out: torch.Tensor = _DepthwiseConv.apply(x, weight, stride, padding)
        return out
    return F.conv2d(x, weight, None, stride, padding, groups=len(weight))


def _is_worth_it(x: torch.Tensor, weight: torch.Tensor, stride: int, padding: int) -> bool:
    if x.device.type != "cpu" or not (weight.requires_grad and torch.is_grad_enabled()):
        return False
    if torch.compiler.is_compiling() or weight.shape[-1] < LARGE_KERNEL:
        return False
    places = [(size, _length(size, weight, stride, padding)) for size in x.shape[2:]]
    return math.prod(size * out for size, out in places) <= MOST_PAIRS


def _length(size: int, weight: torch.Tensor, stride: int, padding: int) -> int:
    """Of the output on one axis."""
    return (size + 2 * padding - weight.shape[-1]) // stride + 1


class _DepthwiseConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, stride: int, padding: int
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight.to(x.dtype), None, stride, padding, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[torch.Tensor | None, ...]:
        (grad,) = grads
        x, weight = ctx.saved_tensors
        stride, padding = ctx.stride, ctx.padding
        of_input = of_weight = None
        if ctx.needs_input_grad[0]:
            # With strides the library has no fast path in bfloat16.
            slow = stride > 1 and x.dtype == torch.bfloat16
            kind = torch.float32 if slow else x.dtype
            of_input = conv2d_input(
                x.shape, weight.to(kind), grad.to(kind), stride, padding, groups=len(weight)
            ).to(x.dtype)
        if ctx.needs_input_grad[1]:
            of_weight = _weight_gradient(x, grad, weight.shape[-1], stride, padding)
            of_weight = of_weight.to(weight.dtype)
        return of_input, of_weight, None, None


def _weight_gradient(
    x: torch.Tensor, grad: torch.Tensor, kernel: int, stride: int, padding: int
) -> torch.Tensor:
    """``[channels, 1, kernel, kernel]``: the pairs of places that each weight joins, added up."""
    pairs = torch.bmm(_by_channel(x).transpose(1, 2), _by_channel(grad))
    joined = _joined(tuple(x.shape[2:]), tuple(grad.shape[2:]), kernel, stride, padding)
    sums = pairs.flatten(1) @ joined.to(x.dtype)
    return sums.unflatten(1, (1, kernel, kernel))


def _by_channel(x: torch.Tensor) -> torch.Tensor:
    """``[channels, batch, places]``, in this order in memory."""
    batch, channels, height, width = x.shape
    rows = x.permute(0, 2, 3, 1).reshape(-1, channels)
    return rows.t().contiguous().view(channels, batch, height * width)


@lru_cache(maxsize=16)
def _joined(
    size: tuple[int, int], out: tuple[int, int], kernel: int, stride: int, padding: int
) -> torch.Tensor:
    """1 where a weight joins a pair of places, ``[places of x * places of out, kernel ** 2]``."""

    def axis(length: int, out_length: int) -> torch.Tensor:
        place = torch.arange(length)[:, None, None]
        reached = torch.arange(out_length)[None, :, None] * stride + torch.arange(kernel) - padding
        return (place == reached).float()

    rows, columns = axis(size[0], out[0]), axis(size[1], out[1])
    return torch.einsum("hai,wbj->hwabij", rows, columns).reshape(-1, kernel**2)
