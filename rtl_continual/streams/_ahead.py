"""Reading ahead: the next batches are decoded while this one is worked on."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from rtl_continual.streams._stream import ArraySet, ImageSet

__all__ = ["read_ahead"]

Batch = tuple[torch.Tensor, torch.Tensor]


def read_ahead(
    images: ImageSet, batches: Iterable[Sequence[int] | np.ndarray], *, depth: int = 2
) -> Iterator[Batch]:
    """Images and targets of each batch, in order.

    Sets that lie in memory are read when asked for; all others by a thread of their own, which
    itself decodes with as many threads as the set has.

    Args:
        images: the set.
        batches: indices of each batch.
        depth: how many batches may wait, decoded.

    Example:
        >>> part = ArraySet(np.zeros((4, 3, 8, 8), np.uint8), [0, 1, 2, 3], 0)
        >>> [targets.tolist() for _, targets in read_ahead(part, [[3, 0], [1]])]
        [[3, 0], [1]]
    """
    if isinstance(images, ArraySet):
        for batch in batches:
            yield images.batch(batch)
        return
    waiting: deque[Future[Batch]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as reader:
        try:
            for batch in batches:
                waiting.append(reader.submit(images.batch, batch))
                if len(waiting) > depth:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
