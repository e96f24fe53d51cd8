"""New data as they arrive: folders of classes, or a list of files, in the bank's own classes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from rtl_continual.backbones import Backbone, InputSpec
from rtl_continual.errors import DataError, unknown_name
from rtl_continual.store._image_files import ImageFiles
from rtl_continual.streams import IMAGE_SUFFIXES, ImageSet
from rtl_continual.tickets import run_trunk

__all__ = ["NewData", "Seen", "look_at", "read_new_data"]


@dataclass(frozen=True)
class NewData:
    """Images with the bank's labels.

    Args:
        images: the data set; its domains index ``domains``.
        domains: names of domain folders, for the record alone.
    """

    images: ImageSet
    domains: tuple[str, ...]

    def domain_counts(self, rows: np.ndarray) -> dict[str, int]:
        """Images by domain, of those that are in a domain's folder."""
        if not self.domains:
            return {}
        counts = np.bincount(self.images.domains[rows], minlength=len(self.domains))
        return {d: int(n) for d, n in zip(self.domains, counts, strict=True) if n}


def read_new_data(
    folder: Path,
    spec: InputSpec,
    *,
    num_classes: int,
    classes: Sequence[str] | None,
    labels: Path | None = None,
) -> NewData:
    """Find the images of a folder; none of them is decoded yet.

    Args:
        folder: class folders, domain folders with class folders in them, or anything, with
            ``labels``.
        spec: of the bank's backbone.
        num_classes: how many classes the bank has.
        classes: their names, if it has any; else folders are named by the classes' numbers.
        labels: a list file: lines of a path below ``folder``, a blank, and a class or its number.

    Raises:
        DataError: if there are no images, a class is none of the bank's, or the folders are
            nested in another way.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder")
    # A list often has numbers for labels; a folder called 7 is more likely a mistake.
    number = _class_numbers(num_classes, classes, by_number=classes is None or labels is not None)
    if labels is not None:
        found = [("", name, file) for name, file in _listed(labels, folder)]
    else:
        found = _in_folders(folder)
    if not found:
        raise DataError(
            f"{folder} has no images in class folders ({folder.name}/<class>/*.png, or "
            f"{folder.name}/<domain>/<class>/*.png); a list of files is given with --labels"
        )
    targets = np.array([number(name) for _, name, _ in found], dtype=np.int64)
    domains = tuple(sorted({domain for domain, _, _ in found if domain}))
    index = {domain: i for i, domain in enumerate(domains)} | {"": 0}
    owners = np.array([index[domain] for domain, _, _ in found], dtype=np.int64)
    return NewData(ImageFiles([file for _, _, file in found], targets, owners, spec), domains)


def _class_numbers(
    count: int, classes: Sequence[str] | None, *, by_number: bool
) -> Callable[[str], int]:
    numbers = {name: i for i, name in enumerate(classes or ())}
    known = classes if classes is not None else [str(i) for i in range(count)]

    def number(name: str) -> int:
        if name in numbers:
            return numbers[name]
        if by_number and name.isascii() and name.isdigit() and int(name) < count:
            return int(name)
        more = "" if classes is not None else " (the bank stores no class names, only numbers)"
        raise DataError(
            f"the data have a class that the bank has not: {unknown_name('class', name, known)}"
            f"{more}; a bank's classes never change, new ones need a new bank"
        )

    return number


def _in_folders(folder: Path) -> list[tuple[str, str, Path]]:
    """Domain (or ``""``), class and file of every image."""
    shallow: list[tuple[str, str, Path]] = []
    deep: list[tuple[str, str, Path]] = []
    for first in _below(folder):
        if not first.is_dir():
            continue
        shallow += [("", first.name, file) for file in _pictures(first)]
        for second in _below(first):
            if second.is_dir():
                deep += [(first.name, second.name, file) for file in _pictures(second)]
    if shallow and deep:
        raise DataError(
            f"{folder} has images in {shallow[0][2].parent} and in {deep[0][2].parent}: make it a "
            "folder per class, or a folder per domain with a folder per class in it"
        )
    return shallow or deep


def _below(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror}") from error


def _pictures(folder: Path) -> list[Path]:
    return [p for p in _below(folder) if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()]


def _listed(labels: Path, folder: Path) -> list[tuple[str, Path]]:
    """Class and file of each line."""
    try:
        text = labels.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{labels}: cannot be read as a list of files: {error}") from error
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.rsplit(None, 1)
        if not words:
            continue
        place = f"{labels}:{number}"
        if len(words) == 1:
            raise DataError(f"{place}: must be a path, a blank and a class, got '{line.strip()}'")
        path = PurePosixPath(words[0].strip())
        if path.is_absolute() or ".." in path.parts:
            raise DataError(f"{place}: the path must lie below {folder}, got '{path}'")
        if not (folder / path).is_file():
            raise DataError(f"{place}: there is no such file: {folder / path}")
        found.append((words[1], folder / path))
    return found


@dataclass(frozen=True)
class Seen:
    """What a first look at new data gives.

    Args:
        data: the images that can be read.
        features: their router features ``[images, features]``.
        digest: hash of their pixels and labels.
        broken: why each of the others cannot be read.
    """

    data: NewData
    features: torch.Tensor
    digest: str
    broken: tuple[str, ...]


@torch.no_grad()
def look_at(backbone: Backbone, data: NewData, *, max_broken: float = 0.0) -> Seen:
    """Read every image once.

    Args:
        backbone: whose trunk gives the features.
        data: the images.
        max_broken: leave out up to this share of them that cannot be read.

    Raises:
        DataError: if there are no images, or more than that cannot be read.
    """
    images, parts, pixels = data.images, [], hashlib.sha256()
    kept: list[int] = []
    broken: list[str] = []
    for start in range(0, len(images), 256):
        rows = list(range(start, min(start + 256, len(images))))
        try:
            batch, _ = images.batch(rows)
        except DataError:
            bad = {row: text for row in rows if (text := _problem(images, row))}
            if not bad:
                raise  # each can be read, but not together: they differ in size
            broken += bad.values()
            rows = [row for row in rows if row not in bad]
            if not rows:
                continue
            batch, _ = images.batch(rows)
        kept += rows
        pixels.update(batch.contiguous().numpy().tobytes())
        parts.append(run_trunk(backbone, batch.to(backbone.mean.device)).router_features.cpu())
    if len(broken) > max_broken * len(images):
        more = f", and {len(broken) - 5} more" if len(broken) > 5 else ""
        raise DataError(
            f"{len(broken)} of {len(images)} images cannot be read: {'; '.join(broken[:5])}{more}. "
            "Mend or remove them, or set max_broken to the share that may be left out"
        )
    if not parts:
        raise DataError("there are no images to look at")
    if broken:
        data = NewData(images.subset(kept), data.domains)
    digest = hashlib.sha256(np.ascontiguousarray(data.images.targets).tobytes())
    digest.update(pixels.digest())
    return Seen(data, torch.cat(parts), digest.hexdigest(), tuple(broken))


def _problem(images: ImageSet, row: int) -> str:
    try:
        images.batch([row])
    except DataError as error:
        return str(error)
    return ""
