"""Statistics of activations: what routers read."""

from __future__ import annotations

import torch

__all__ = ["activation_statistics"]

_CACHED_VALUES = 2**19
"""Values worked on at once on a processor, so that they stay in its cache (2 MB in float32)."""


def activation_statistics(activation: torch.Tensor) -> torch.Tensor:
    """Per-channel mean and standard deviation of one activation.

    Sums are taken pairwise by element-wise additions alone, so a row has the same bits whatever
    the rest of the batch, the number of threads, and the memory layout. torch's own reductions
    change their order with all three.

    Args:
        activation: ``[batch, channels, height, width]``, or ``[batch, tokens, channels]``, or
            ``[batch, features]`` (returned as it is).

    Returns:
        ``[batch, 2 * channels]`` in float32; means first. Deviations have no correction.
    """
    x = activation.float()
    if x.ndim == 2:
        return x
    # A traced graph must not depend on the batch size, and other devices gain nothing.
    if x.device.type != "cpu" or torch.compiler.is_compiling() or x.numel() <= _CACHED_VALUES:
        return _mean_and_deviation(x)
    rows = max(1, _CACHED_VALUES // x[0].numel())
    return torch.cat([_mean_and_deviation(part) for part in x.split(rows)])


def _mean_and_deviation(x: torch.Tensor) -> torch.Tensor:
    values = x.flatten(2).permute(2, 0, 1) if x.ndim == 4 else x.transpose(0, 1)
    mean = _pairwise_sum(values) / len(values)
    deviation = (_pairwise_sum((values - mean).square()) / len(values)).sqrt()
    return torch.cat([mean, deviation], dim=1)


def _pairwise_sum(values: torch.Tensor) -> torch.Tensor:
    """``[n, batch, channels]`` to ``[batch, channels]``, halving ``n`` until one is left."""
    while (count := len(values)) > 1:
        half = count // 2
        total = values[:half] + values[half : 2 * half]
        if count % 2:
            total[:1] += values[2 * half :]
        values = total
    return values[0]
