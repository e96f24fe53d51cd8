"""Augmentation of images or of trunk activations."""

from __future__ import annotations

import torch

__all__ = ["random_flip", "random_shift"]

_LARGE = 2**15
"""Values of a sample from which a processor copies it row by row faster than value by value."""


def random_shift(x: torch.Tensor, limit: int, generator: torch.Generator) -> torch.Tensor:
    """Move each sample by a random whole number of pixels, edges repeated.

    On trunk activations it stands in for a shift of the image by as many pixels as the trunk's
    stride, and leaves activations cacheable.

    Args:
        x: ``[batch, channels, height, width]``.
        limit: largest shift in each direction, in pixels of ``x``.
        generator: on the processor; one draw of two numbers per sample.

    Returns:
        The same shape; small samples are channels last in memory, large ones as they were.

    Example:
        >>> x = torch.arange(9.0).view(1, 1, 3, 3)
        >>> moved = random_shift(x, 1, torch.Generator().manual_seed(0))
        >>> moved.shape
        torch.Size([1, 1, 3, 3])
    """
    batch, _, height, width = x.shape
    offsets = torch.randint(-limit, limit + 1, (2, batch), generator=generator)
    if x.device.type == "cpu" and x[:1].numel() >= _LARGE and limit < min(height, width):
        moved = torch.empty_like(x)
        for target, source, (down, right) in zip(moved, x, offsets.T.tolist(), strict=True):
            _move(target, source, down, right)
        return moved
    offsets = offsets.to(x.device)
    rows = (torch.arange(height, device=x.device) + offsets[0][:, None]).clamp_(0, height - 1)
    columns = (torch.arange(width, device=x.device) + offsets[1][:, None]).clamp_(0, width - 1)
    sample = torch.arange(batch, device=x.device)[:, None, None]
    moved = x.permute(0, 2, 3, 1)[sample, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2)


def random_flip(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Mirror about half of the samples, left to right.

    On trunk activations it stands in for mirrored images; for a convolution network it is nearly
    that, but for the parity of strides.

    Args:
        x: ``[batch, channels, height, width]``.
        generator: on the processor; one draw per sample.

    Example:
        >>> x = torch.arange(4.0).view(2, 1, 1, 2)
        >>> random_flip(x, torch.Generator().manual_seed(0)).flatten().tolist()
        [1.0, 0.0, 2.0, 3.0]
    """
    chosen = torch.rand(len(x), generator=generator) < 0.5
    if x.device.type == "cpu":
        mirrored = x.clone()
        for row in chosen.nonzero().flatten().tolist():
            mirrored[row] = x[row].flip(2)
        return mirrored
    return torch.where(chosen.to(x.device)[:, None, None, None], x.flip(3), x)


def _move(target: torch.Tensor, source: torch.Tensor, down: int, right: int) -> None:
    """``target[r, c] = source[r + down, c + right]`` in ``[channels, height, width]``.

    What lies outside is the nearest edge's value.
    """
    _, height, width = source.shape
    top, bottom = max(0, -down), height - max(0, down)
    left, end = max(0, -right), width - max(0, right)
    target[:, top:bottom, left:end] = source[
        :, top + down : bottom + down, left + right : end + right
    ]
    target[:, top:bottom, :left] = target[:, top:bottom, left : left + 1]
    target[:, top:bottom, end:] = target[:, top:bottom, end - 1 : end]
    target[:, :top] = target[:, top : top + 1]
    target[:, bottom:] = target[:, bottom - 1 : bottom]
