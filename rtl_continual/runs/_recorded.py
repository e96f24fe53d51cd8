"""A stream whose images have crossed the trunk already, once for all methods of a run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch

from rtl_continual.backbones import Backbone, RecordedBackbone
from rtl_continual.streams import (
    Experience,
    FilledRows,
    ImageSet,
    Stream,
    cache_folder,
    read_ahead,
)
from rtl_continual.tickets import run_trunk

__all__ = ["RecordSet", "record_stream"]


class RecordSet(ImageSet):
    """Records of a set of images, made when the first of them is asked for, in a mapped file.

    Args:
        images: the images.
        backbone: makes and reads the records.
        key: names the images and their order; part of the cached file's name.
    """

    def __init__(self, images: ImageSet, backbone: RecordedBackbone, key: str) -> None:
        self.targets, self.domains = images.targets, images.domains
        self._images, self._backbone, self._key = images, backbone, key

    @cached_property
    def records(self) -> FilledRows:
        """``float32 [n, values]``."""
        key = f"{self._backbone.identity}|{self._key}|{self._images.stamp()}"
        name = hashlib.sha256(key.encode()).hexdigest()
        path = cache_folder() / "trunk" / f"{name[:32]}.f32"
        return FilledRows(path, (len(self), self._backbone.input_spec.channels), self._make)

    def _make(self, blocks: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        original = self._backbone.original
        with torch.no_grad():
            for images, _ in read_ahead(self._images, blocks):
                out = run_trunk(original, images.to(original.mean.device))
                yield self._backbone.as_records(out).flatten(1).cpu().numpy()

    def batch(self, indices: Sequence[int] | np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        index = np.asarray(indices, dtype=np.int64)
        records = torch.from_numpy(self.records[index])
        return records[:, :, None, None], torch.from_numpy(self.targets[index])

    def subset(self, indices: Sequence[int] | np.ndarray) -> ImageSet:
        return _Part(self, np.asarray(indices, dtype=np.int64))


class _Part(ImageSet):
    """Some rows of a set."""

    def __init__(self, whole: ImageSet, rows: np.ndarray) -> None:
        self._whole, self._rows = whole, rows
        self.targets, self.domains = whole.targets[rows], whole.domains[rows]

    def batch(self, indices: Sequence[int] | np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        return self._whole.batch(self._rows[np.asarray(indices, dtype=np.int64)])

    def subset(self, indices: Sequence[int] | np.ndarray) -> ImageSet:
        return _Part(self._whole, self._rows[np.asarray(indices, dtype=np.int64)])


def record_stream(stream: Stream, backbone: Backbone) -> tuple[Stream, RecordedBackbone]:
    """The stream with every image replaced by its record, and the backbone that takes records.

    Nothing can be trained or augmented before the split; in return the trunk runs once for each
    image instead of once for each pass of each method. Records are kept in the cache folder, under
    the hash of the backbone's weights, the stream's fingerprint and, where images are files, their
    places, sizes and times (:meth:`ImageSet.stamp`).

    Args:
        stream: of images.
        backbone: whose trunk makes the records.
    """
    first, _ = stream.experiences[0].train.batch([0])
    recorded = RecordedBackbone(backbone, first)

    def of(part: ImageSet, name: str) -> ImageSet:
        return RecordSet(part, recorded, f"{stream.fingerprint}|{name}")

    experiences = tuple(
        Experience(e.name, of(e.train, f"train {i}"), of(e.validation, f"validation {i}"))
        for i, e in enumerate(stream.experiences)
    )
    tests = {name: of(part, f"test {name}") for name, part in stream.tests.items()}
    return replace(stream, experiences=experiences, tests=tests), recorded
