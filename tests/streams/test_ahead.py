"""Batches decoded ahead come in order, and mistakes come through."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from rtl_continual.errors import DataError
from rtl_continual.streams import ArraySet, ImageSet, read_ahead


class Slow(ImageSet):
    """Remembers which thread read what."""

    def __init__(self, count: int, broken: int | None = None) -> None:
        self.targets = np.arange(count)
        self.domains = np.zeros(count, dtype=np.int64)
        self.broken = broken
        self.read: list[tuple[list[int], str]] = []

    def batch(self, indices: Sequence[int] | np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        index = [int(i) for i in indices]
        self.read.append((index, threading.current_thread().name))
        if self.broken in index:
            raise DataError(f"image {self.broken} is broken")
        return torch.zeros(len(index), 3, 2, 2, dtype=torch.uint8), torch.tensor(index)


def test_order_and_content() -> None:
    images = Slow(7)
    batches = [[3, 1], [0], [6, 5], [2, 4]]
    assert [t.tolist() for _, t in read_ahead(images, batches)] == batches
    assert [index for index, _ in images.read] == batches
    assert all(name.startswith("read-ahead") for _, name in images.read)


def test_it_reads_no_further_than_its_depth() -> None:
    images = Slow(100)
    batches = read_ahead(images, ([i] for i in range(100)), depth=3)
    for _ in range(2):
        next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert len(images.read) <= 5


def test_a_broken_file_is_reported_at_its_batch() -> None:
    batches = read_ahead(Slow(6, broken=4), [[0, 1], [2, 3], [4, 5]])
    assert [next(batches)[1].tolist() for _ in range(2)] == [[0, 1], [2, 3]]
    with pytest.raises(DataError, match="image 4 is broken"):
        next(batches)


def test_what_lies_in_memory_needs_no_thread() -> None:
    part = ArraySet(np.zeros((3, 3, 2, 2), np.uint8), [0, 1, 2], 0)
    before = threading.active_count()
    batches = read_ahead(part, [[2], [0, 1]])
    assert next(batches)[1].tolist() == [2]
    assert threading.active_count() == before
