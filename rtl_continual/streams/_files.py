"""Image sets that lie in files: compact lists of paths, decoded when a batch is asked for."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from rtl_continual.streams._decode import ImageForm, decode_image
from rtl_continual.streams._decoded import DecodedCache
from rtl_continual.streams._stream import ImageSet

__all__ = ["FileNames", "FileSet", "Listing", "join_listings"]


class FileNames:
    """Many relative paths in one block of memory.

    600,000 names as Python strings take 60 MB and more; here they take their own length.

    Args:
        buffer: all names, one after the other.
        ends: where each name ends ``int64 [n]``.

    Example:
        >>> names = FileNames.pack([b"photo/cat/1.jpg", b"photo/dog/2.jpg"])
        >>> names[1], len(names), names.take([1])[0]
        ('photo/dog/2.jpg', 2, 'photo/dog/2.jpg')
    """

    def __init__(self, buffer: bytes, ends: np.ndarray) -> None:
        self.buffer = buffer
        self.ends = ends

    @classmethod
    def pack(cls, names: Sequence[bytes]) -> FileNames:
        """Join the names."""
        lengths = np.fromiter((len(name) for name in names), dtype=np.int64, count=len(names))
        return cls(b"".join(names), np.cumsum(lengths))

    def __len__(self) -> int:
        return len(self.ends)

    def raw(self, row: int) -> bytes:
        """One name as the file system's bytes."""
        start = int(self.ends[row - 1]) if row > 0 else 0
        return self.buffer[start : int(self.ends[row])]

    def __getitem__(self, row: int) -> str:
        return os.fsdecode(self.raw(row))

    def take(self, rows: Sequence[int] | np.ndarray) -> FileNames:
        """The names of ``rows``, in that order."""
        return FileNames.pack([self.raw(int(row)) for row in rows])


@dataclass(frozen=True)
class Listing:
    """Which images there are, and where that is written.

    Args:
        names: paths relative to the root.
        targets: class indices ``int64 [n]``.
        sources: the list files the rows come from; empty where a folder was scanned.
        source: index into ``sources`` ``int16 [n]``; -1 without one.
        lines: line numbers from 1 ``int32 [n]``.
    """

    names: FileNames
    targets: np.ndarray
    sources: tuple[str, ...]
    source: np.ndarray
    lines: np.ndarray

    def __len__(self) -> int:
        return len(self.targets)

    def place(self, row: int) -> str:
        """Where a row was read, for messages: ``" (list.txt:12)"``, or nothing."""
        number = int(self.source[row])
        return f" ({self.sources[number]}:{int(self.lines[row])})" if number >= 0 else ""

    def take(self, rows: np.ndarray) -> Listing:
        """The listing restricted to ``rows``, in that order."""
        return Listing(
            self.names.take(rows),
            self.targets[rows],
            self.sources,
            self.source[rows],
            self.lines[rows],
        )


def join_listings(first: Listing, second: Listing) -> Listing:
    """Both listings, one after the other."""
    shift = len(first.sources)
    moved = np.where(second.source >= 0, second.source + shift, second.source)
    return Listing(
        FileNames(
            first.names.buffer + second.names.buffer,
            np.concatenate([first.names.ends, second.names.ends + len(first.names.buffer)]),
        ),
        np.concatenate([first.targets, second.targets]),
        first.sources + second.sources,
        np.concatenate([first.source, moved]).astype(np.int16),
        np.concatenate([first.lines, second.lines]),
    )


class FileSet(ImageSet):
    """Images in files, decoded in parallel when a batch is asked for.

    Args:
        root: the folder that the listing's names are relative to.
        listing: the files.
        domain: domain index of all of them.
        form: size and rules of decoding.
        workers: threads that decode; one decodes in the calling thread.
        cache: keeps decoded images, or ``None``.
        rows: rows of the listing; ``None`` means all.
        targets: class indices that replace the listing's ``int64 [rows]``.

    Raises:
        DataError: when a batch holds a file that is missing, empty, no image or too large; the
            message names the file, and its list and line.
    """

    def __init__(
        self,
        root: Path,
        listing: Listing,
        domain: int,
        form: ImageForm,
        *,
        workers: int = 1,
        cache: DecodedCache | None = None,
        rows: np.ndarray | None = None,
        targets: np.ndarray | None = None,
    ) -> None:
        self.root = root
        self.listing = listing
        self.form = form
        self.workers = workers
        self.cache = cache
        self.rows = np.arange(len(listing)) if rows is None else rows
        self.targets = listing.targets[self.rows] if targets is None else targets
        self.domains = np.full(len(self.rows), domain, dtype=np.int64)

    def path(self, index: int) -> Path:
        """The file of one image."""
        return self.root / self.listing.names[int(self.rows[index])]

    def batch(self, indices: Sequence[int] | np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        index = np.asarray(indices, dtype=np.int64)
        rows = self.rows[index].tolist()
        side = self.form.size
        images = np.empty((len(rows), 3, side, side), dtype=np.uint8)
        if self.workers > 1 and len(rows) > 1:
            for place, picture in enumerate(_pool(self.workers, os.getpid()).map(self._read, rows)):
                images[place] = picture
        else:
            for place, row in enumerate(rows):
                images[place] = self._read(row)
        return torch.from_numpy(images), torch.from_numpy(self.targets[index])

    def _read(self, row: int) -> np.ndarray:
        """``uint8 [3, size, size]``."""
        if self.cache is not None:
            kept = self.cache.get(row)
            if kept is not None:
                return kept
        place = self.listing.place(row)
        picture = decode_image(self.root / self.listing.names[row], self.form, place)
        picture = np.ascontiguousarray(picture.transpose(2, 0, 1))
        if self.cache is not None:
            self.cache.put(row, picture)
        return picture

    def stamp(self) -> str:
        """A hash of where the files are, how large they are and when they were written."""
        digest = hashlib.sha256()
        for index in range(len(self)):
            path = self.path(index)
            try:
                facts = path.stat()
                written = f"{facts.st_size} {facts.st_mtime_ns}"
            except OSError:
                written = "missing"  # which is told when the image is asked for
            digest.update(os.fsencode(path.absolute()) + f"|{written}\n".encode())
        return digest.hexdigest()

    def subset(self, indices: Sequence[int] | np.ndarray) -> FileSet:
        index = np.asarray(indices, dtype=np.int64)
        part = FileSet(
            self.root,
            self.listing,
            0,
            self.form,
            workers=self.workers,
            cache=self.cache,
            rows=self.rows[index],
            targets=self.targets[index],
        )
        part.domains = self.domains[index]
        return part


@lru_cache(maxsize=8)
def _pool(workers: int, process: int) -> ThreadPoolExecutor:
    """One pool for all sets; a forked process gets its own, threads do not survive a fork."""
    return ThreadPoolExecutor(workers, thread_name_prefix=f"decode-{process}")
