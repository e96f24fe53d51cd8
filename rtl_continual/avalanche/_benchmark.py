"""Streams of named domains as Avalanche benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from avalanche.benchmarks import DatasetExperience
from avalanche.benchmarks.scenarios import CLScenario, EagerCLStream
from avalanche.benchmarks.utils import AvalancheDataset, DataAttribute

from rtl_continual.streams import ImageSet, Stream

__all__ = ["DomainDataset", "domain_benchmark"]


class DomainDataset(AvalancheDataset[Any]):
    """An Avalanche data set that fetches a batch of an :class:`ImageSet` at once.

    ``DataLoader`` calls ``__getitems__`` where there is one; Avalanche's own data sets have none
    and fetch sample by sample. Transforms and further columns fall back to that.
    """

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        flat = self._flat_data
        source = flat._datasets[0] if len(flat._datasets) == 1 else None
        groups = flat._transform_groups, flat._frozen_transform_groups
        if (
            not isinstance(source, ImageSet)
            or any(group[group.current_group] is not None for group in groups)
            or any(column.use_in_getitem for column in self._data_attributes.values())
        ):
            return [self[int(i)] for i in indices]
        return source.__getitems__([flat._get_idx(int(i))[1] for i in indices])


def domain_benchmark(stream: Stream) -> CLScenario[Any]:
    """A benchmark with ``train``, ``valid`` and ``test`` streams of named domains.

    Each experience has its name as ``.domain``. Training and validation experiences are the
    stream's, in order and under their names; the test stream has one experience per domain.

    Args:
        stream: named domains and experiences in order.

    Returns:
        A scenario with ``train_stream``, ``valid_stream`` and ``test_stream``. Images stay
        ``uint8``; nothing is loaded before it is asked for.

    Example:
        >>> import numpy as np
        >>> from rtl_continual.streams import ArraySet, Experience, Stream
        >>> part = ArraySet(np.zeros((4, 3, 8, 8), np.uint8), [0, 1, 0, 1], 0)
        >>> stream = Stream("toy", ("a", "b"), ("photo",), (Experience("photo", part, part),),
        ...                 {"photo": part})
        >>> [experience.domain for experience in domain_benchmark(stream).test_stream]
        ['photo']
    """
    parts: dict[str, list[tuple[str, ImageSet]]] = {
        "train": [(e.name, e.train) for e in stream.experiences],
        "valid": [(e.name, e.validation) for e in stream.experiences],
        "test": list(stream.tests.items()),
    }
    benchmark = CLScenario(
        [
            EagerCLStream(name, [_experience(*part) for part in part_list])
            for name, part_list in parts.items()
        ]
    )
    for part in benchmark.streams.values():
        # CLScenario leaves this unset, and EvaluationPlugin(strict_checks=True) needs it.
        part.benchmark = benchmark
    return benchmark


def _experience(domain: str, images: ImageSet) -> DatasetExperience[Any]:
    targets = DataAttribute(images.targets.tolist(), "targets")
    experience = DatasetExperience(dataset=DomainDataset([images], data_attributes=[targets]))
    experience.domain = domain
    return experience
