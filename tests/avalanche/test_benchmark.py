"""Streams as Avalanche benchmarks: names, streams, and batches fetched at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from avalanche.benchmarks.utils import DataAttribute
from torch.utils.data import DataLoader

from rtl_continual.avalanche import RoutedTickets, domain_benchmark
from rtl_continual.streams import Experience, ImageSet, Stream


class Counting(ImageSet):
    """Says which samples were asked for, and in how many requests."""

    def __init__(self, images: torch.Tensor, targets: np.ndarray) -> None:
        self.images, self.targets = images, targets
        self.domains = np.zeros(len(targets), dtype=np.int64)
        self.requests: list[list[int]] = []

    def batch(self, indices: Any) -> tuple[torch.Tensor, torch.Tensor]:
        index = list(indices)
        self.requests.append(index)
        return self.images[index], torch.from_numpy(self.targets[index])


@pytest.fixture
def counting() -> Counting:
    images = torch.arange(20 * 3 * 64).reshape(20, 3, 8, 8).remainder(256).to(torch.uint8)
    return Counting(images, np.arange(20) % 4)


@pytest.fixture
def benchmark_(counting: Counting) -> Any:
    stream = Stream(
        "toy", tuple("abcd"), ("a",), (Experience("mix", counting, counting),), {"a": counting}
    )
    return domain_benchmark(stream)


def test_streams_and_names(stream: Stream) -> None:
    benchmark = domain_benchmark(stream)
    streams: dict[str, Sequence[Any]] = {
        "train": benchmark.train_stream,
        "valid": benchmark.valid_stream,
        "test": benchmark.test_stream,
    }
    for name, sizes in {"train": 37, "valid": 12, "test": 20}.items():
        assert [e.domain for e in streams[name]] == ["red", "green"]
        assert [len(e.dataset) for e in streams[name]] == [sizes, sizes]
        assert [e.current_experience for e in streams[name]] == [0, 1]
        assert {e.origin_stream.name for e in streams[name]} == {name}
    # EvaluationPlugin(strict_checks=True) goes this way.
    assert streams["test"][0].origin_stream.benchmark.streams["test"][1].domain == "green"
    assert [e.domain for e in benchmark.test_stream[1:]] == ["green"]
    assert benchmark.train_stream[0].logging().domain == "red"


def test_nothing_is_loaded_before_it_is_asked_for(benchmark_: Any, counting: Counting) -> None:
    assert counting.requests == []
    dataset = benchmark_.train_stream[0].dataset
    assert list(dataset.targets) == counting.targets.tolist()
    assert dataset.subset([3, 4]).targets[1] == 0
    assert counting.requests == []


def test_batches_are_fetched_at_once(benchmark_: Any, counting: Counting) -> None:
    dataset = benchmark_.train_stream[0].dataset.train()
    images, targets = next(iter(DataLoader(dataset, batch_size=7)))
    assert counting.requests == [list(range(7))]
    slow = [dataset[i] for i in range(7)]
    assert torch.equal(images, torch.stack([image for image, _ in slow]))
    assert targets.tolist() == [target for _, target in slow]
    counting.requests.clear()
    part = dataset.subset([5, 3, 11]).eval()
    images, targets = next(iter(DataLoader(part, batch_size=3)))
    assert counting.requests == [[5, 3, 11]]
    assert torch.equal(images, counting.images[[5, 3, 11]])
    assert targets.tolist() == [1, 3, 3]


def test_a_strategy_fetches_batches(
    make: Callable[..., RoutedTickets], benchmark_: Any, counting: Counting
) -> None:
    strategy = make(train_epochs=1, train_mb_size=10)
    strategy.train(benchmark_.train_stream)
    # The first sample alone to see what it is, all for the router, two batches, and all again for
    # the running statistics of the final mask.
    assert [len(r) for r in counting.requests] == [1, 20, 10, 10, 20]


def test_transforms_columns_and_concatenations_fall_back(
    benchmark_: Any, counting: Counting
) -> None:
    dataset = benchmark_.train_stream[0].dataset
    darker = dataset.replace_current_transform_group(lambda image: image // 2)
    images, _ = next(iter(DataLoader(darker, batch_size=5)))
    assert torch.equal(images, counting.images[:5] // 2)
    column = DataAttribute(list(range(20)), "row", use_in_getitem=True)
    numbered = dataset.update_data_attribute("row", column)
    _, _, rows = next(iter(DataLoader(numbered, batch_size=5)))
    assert rows.tolist() == [0, 1, 2, 3, 4]
    both = dataset.subset([1]).concat(benchmark_.test_stream[0].dataset.subset([7]))
    images, _ = next(iter(DataLoader(both, batch_size=2)))
    assert torch.equal(images, counting.images[[1, 7]])
