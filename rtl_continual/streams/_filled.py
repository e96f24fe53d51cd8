"""Rows in a file that is filled once, goes on where it was stopped, and is mapped from then on."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from filelock import FileLock

from rtl_continual.errors import DataError

__all__ = ["FilledRows"]

logger = logging.getLogger(__name__)

BLOCK = 128
"""Rows that are made, and checked, together."""


class FilledRows:
    """``float32 [rows, width]`` on disk, larger than memory if need be.

    Rows are written in blocks. The checksum of a finished block goes to a file of its own, so that
    filling, stopped at any time, goes on after the last whole block. A block is checked when its
    first row is read; one that is damaged is made again, and the log says so. Several processes may
    ask for the same file: one fills it, the others wait.

    Args:
        path: the file; its name must say everything that the rows depend on.
        shape: rows and width.
        make: the rows of each given block, in order; blocks are arrays of row numbers.

    Raises:
        DataError: if the folder cannot be written.
    """

    def __init__(
        self,
        path: Path,
        shape: tuple[int, int],
        make: Callable[[Sequence[np.ndarray]], Iterator[np.ndarray]],
    ) -> None:
        self.path = path
        self.shape = shape
        self._make = make
        self._blocks = [np.arange(n, min(n + BLOCK, shape[0])) for n in range(0, shape[0], BLOCK)]
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_suffix(".lock")):
                self._fill()
            # An empty file cannot be mapped.
            self._rows = np.memmap(path, "<f4", "r", shape=shape) if all(shape) else np.empty(shape)
        except OSError as error:
            raise DataError(
                f"cannot write the cache file {path}: {error.strerror or error}; "
                "set RTL_CACHE to a folder with room"
            ) from error
        self._checked = np.zeros(len(self._blocks), dtype=bool)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        """Rows ``[len(index), width]`` in memory, of an ``int64`` index."""
        blocks = np.unique(index // BLOCK)
        for block in blocks[~self._checked[blocks]].tolist():
            self._check(block)
        return np.asarray(self._rows[index])

    @property
    def _sums(self) -> Path:
        return self.path.with_suffix(".sums")

    def _fill(self) -> None:
        size = 4 * self.shape[0] * self.shape[1]
        if not self.path.is_file() or self.path.stat().st_size != size:
            self._sums.unlink(missing_ok=True)
            with self.path.open("wb") as file:
                file.truncate(size)
        done = self._sums.stat().st_size // 4 if self._sums.is_file() else 0
        waiting = self._blocks[done:]
        if not waiting:
            return
        self._sums.touch()
        for number, rows in enumerate(self._make(waiting), start=done):
            self._write(number, rows)

    def _write(self, number: int, rows: np.ndarray) -> None:
        data = np.ascontiguousarray(rows, dtype="<f4").data
        with self.path.open("r+b") as file:
            file.seek(4 * number * BLOCK * self.shape[1])
            file.write(data)
        with self._sums.open("r+b") as sums:
            sums.seek(4 * number)
            sums.write(_checksum(data))

    def _check(self, number: int) -> None:
        with self._sums.open("rb") as sums:
            sums.seek(4 * number)
            expected = sums.read(4)
        rows = self._rows[number * BLOCK : (number + 1) * BLOCK]
        if _checksum(rows.data) != expected:
            logger.warning("cached file %s is damaged; making its rows again", self.path)
            (made,) = self._make([self._blocks[number]])
            self._write(number, made)
        self._checked[number] = True


def _checksum(data: memoryview) -> bytes:
    return zlib.crc32(data).to_bytes(4, "little")
