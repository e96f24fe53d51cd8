"""The order in which an epoch visits samples, and groups of samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

__all__ = ["epoch_batches", "steps_per_epoch", "take_turns"]


def epoch_batches(count: int, batch_size: int, seed: int, epoch: int) -> Iterator[torch.Tensor]:
    """Shuffled batches of indices; a last batch of one sample joins the one before it.

    Batch norm cannot learn from a single sample, and dropping samples would make results depend
    on the batch size.
    """
    generator = torch.Generator().manual_seed(seed * 100_003 + epoch)
    order = torch.randperm(count, generator=generator)
    batches = list(order.split(batch_size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    yield from batches


def steps_per_epoch(count: int, batch_size: int) -> int:
    """How many batches :func:`epoch_batches` gives."""
    batches = -(-count // batch_size)
    return batches - 1 if batches > 1 and count % batch_size == 1 else batches


def take_turns(steps: Sequence[int]) -> list[int]:
    """Which group's batch comes next, so that all groups get through theirs together.

    Args:
        steps: each group's number of batches.

    Example:
        >>> take_turns([4, 2])
        [0, 0, 1, 0, 0, 1]
    """
    order = [((i + 1) / count, g) for g, count in enumerate(steps) for i in range(count)]
    return [group for _, group in sorted(order)]
