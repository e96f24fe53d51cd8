"""What a stream is: named domains, experiences in order, and one test set per domain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.utils.data import Dataset

from rtl_continual.errors import DataError

__all__ = [
    "ArraySet",
    "Experience",
    "ImageSet",
    "Stream",
    "UntrainedClassesError",
    "concatenate",
]


class UntrainedClassesError(DataError):
    """A test set has classes that nothing is learned of.

    Args:
        message: for people.
        classes: the names of these classes.
    """

    def __init__(self, message: str, classes: Sequence[str] = ()) -> None:
        self.classes = tuple(classes)
        super().__init__(message)


class ImageSet(Dataset[tuple[torch.Tensor, int]]):
    """A data set of images with class targets and, for evaluation only, domain indices.

    Subclasses set ``targets`` and ``domains`` (both ``int64 [n]``) and implement ``__getitem__``;
    ``domains`` index :attr:`Stream.domains`. Nothing that learns may read ``domains``.
    """

    targets: np.ndarray
    domains: np.ndarray

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        images, targets = self.batch([index])
        return images[0], int(targets[0])

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[torch.Tensor, int]]:
        images, targets = self.batch(indices)
        return [(image, int(target)) for image, target in zip(images, targets, strict=True)]

    def batch(self, indices: Sequence[int] | np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Images ``uint8 [batch, 3, height, width]`` and targets ``int64 [batch]``."""
        raise NotImplementedError

    def subset(self, indices: Sequence[int] | np.ndarray) -> ImageSet:
        """The same set restricted to ``indices``, in that order."""
        raise NotImplementedError

    def stamp(self) -> str:
        """Tells whether the images may have changed although the stream's fingerprint has not.

        What is computed from images and kept (see ``record_trunk``) is found again only under the
        same stamp. The default, nothing, is for images that the fingerprint settles.
        """
        return ""


class ArraySet(ImageSet):
    """An :class:`ImageSet` that lies in memory.

    Args:
        images: ``uint8 [n, channels, height, width]``.
        targets: class indices ``[n]``.
        domains: domain indices ``[n]``, or one index for all.

    Raises:
        DataError: if lengths, shapes or types do not fit.

    Example:
        >>> import numpy as np
        >>> part = ArraySet(np.zeros((3, 3, 8, 8), np.uint8), [0, 1, 1], 0)
        >>> part.subset([2, 0]).targets.tolist()
        [1, 0]
    """

    def __init__(
        self,
        images: np.ndarray | torch.Tensor,
        targets: Sequence[int] | np.ndarray,
        domains: Sequence[int] | np.ndarray | int,
    ) -> None:
        self.images = torch.as_tensor(images)
        self.targets = np.asarray(targets, dtype=np.int64)
        count = len(self.targets)
        self.domains = (
            np.full(count, domains, dtype=np.int64)
            if isinstance(domains, int)
            else np.asarray(domains, dtype=np.int64)
        )
        if self.images.ndim != 4 or self.images.dtype != torch.uint8:
            raise DataError(
                "images must be uint8 [n, channels, height, width], got "
                f"{self.images.dtype} {list(self.images.shape)}"
            )
        if not len(self.images) == count == len(self.domains):
            raise DataError(
                f"{len(self.images)} images, {count} targets and {len(self.domains)} domains differ"
            )

    def batch(self, indices: Sequence[int] | np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        index = torch.as_tensor(np.asarray(indices, dtype=np.int64))
        return self.images[index], torch.from_numpy(self.targets[index.numpy()])

    def subset(self, indices: Sequence[int] | np.ndarray) -> ArraySet:
        index = np.asarray(indices, dtype=np.int64)
        return ArraySet(
            self.images[torch.from_numpy(index)], self.targets[index], self.domains[index]
        )


class _ConcatenatedSet(ImageSet):
    """Several sets, one after the other, each still read lazily by its own ``batch``."""

    def __init__(self, parts: Sequence[ImageSet], rows: np.ndarray | None = None) -> None:
        self._parts = list(parts)
        owner = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        local = np.concatenate([np.arange(len(part)) for part in parts])
        targets = np.concatenate([part.targets for part in parts])
        domains = np.concatenate([part.domains for part in parts])
        rows = np.arange(len(owner)) if rows is None else rows
        self._rows = rows
        self._owner, self._local = owner[rows], local[rows]
        self.targets, self.domains = targets[rows], domains[rows]

    def batch(self, indices: Sequence[int] | np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        index = np.asarray(indices, dtype=np.int64)
        owner, local = self._owner[index], self._local[index]
        order = np.argsort(owner, kind="stable")
        images = [
            self._parts[part].batch(local[order[owner[order] == part]])[0]
            for part in np.unique(owner).tolist()
        ]
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return torch.cat(images)[torch.from_numpy(back)], torch.from_numpy(self.targets[index])

    def subset(self, indices: Sequence[int] | np.ndarray) -> _ConcatenatedSet:
        return _ConcatenatedSet(self._parts, self._rows[np.asarray(indices, dtype=np.int64)])

    def stamp(self) -> str:
        return "|".join(part.stamp() for part in self._parts)


def concatenate(parts: Sequence[ImageSet]) -> ImageSet:
    """One set out of several, in their order; nothing is copied or decoded.

    Raises:
        DataError: without any part.

    Example:
        >>> a = ArraySet(np.zeros((2, 3, 8, 8), np.uint8), [0, 1], 0)
        >>> concatenate([a, a.subset([1])]).targets.tolist()
        [0, 1, 1]
    """
    if not parts:
        raise DataError("there is nothing to concatenate")
    return parts[0] if len(parts) == 1 else _ConcatenatedSet(parts)


@dataclass(frozen=True)
class Experience:
    """One step of a stream.

    Args:
        name: for people; learning never reads it.
        train: what is learned from.
        validation: held out of ``train`` for every decision that is not the final result.
    """

    name: str
    train: ImageSet
    validation: ImageSet


@dataclass(frozen=True)
class Stream:
    """Experiences in order, and the test set of each domain.

    Args:
        name: the stream's name.
        classes: class names; targets index them.
        domains: domain names in the stream's order; ``ImageSet.domains`` index them.
        experiences: in the order they arrive.
        tests: one test set per domain, by name, in the order of ``domains``.
        fingerprint: a hash of the content, so that results name exactly what they came from.
        source: free facts about origin and options.
    """

    name: str
    classes: tuple[str, ...]
    domains: tuple[str, ...]
    experiences: tuple[Experience, ...]
    tests: dict[str, ImageSet]
    fingerprint: str = ""
    source: dict[str, object] = field(default_factory=dict)

    @property
    def learned_domains(self) -> int:
        """How many domains have training images: others may be there to be tested on alone."""
        return len(np.unique(np.concatenate([e.train.domains for e in self.experiences])))

    def __post_init__(self) -> None:
        if list(self.tests) != list(self.domains):
            raise DataError(
                f"test sets {list(self.tests)} do not match domains {list(self.domains)}"
            )
        seen: set[int] = set()
        for experience in self.experiences:
            if len(experience.train) == 0:
                raise DataError(f"experience '{experience.name}' of stream '{self.name}' is empty")
            seen |= set(np.unique(experience.train.targets).tolist())
        for domain, part in self.tests.items():
            late = sorted(set(np.unique(part.targets).tolist()) - seen)
            if late:
                names = ", ".join(
                    self.classes[i] if i < len(self.classes) else str(i) for i in late
                )
                raise UntrainedClassesError(
                    f"test set '{domain}' of stream '{self.name}' has classes that no training "
                    f"experience has: {names}",
                    [self.classes[i] for i in late if i < len(self.classes)],
                )
