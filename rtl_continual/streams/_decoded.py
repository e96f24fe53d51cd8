"""Decoded images kept on disk, so that the next epoch and the next run need not decode again."""

from __future__ import annotations

import hashlib
import os
import weakref
import zlib
from pathlib import Path

import numpy as np

from rtl_continual.errors import DataError

__all__ = ["DecodedCache"]

CHECKSUM_BYTES = 4


class DecodedCache:
    """One file of fixed-size records, one per image: a checksum and the pixels.

    Records are written as images are first read, by any number of threads and processes. The file
    is sparse: what was never read takes no space. A record that was cut off does not match its
    checksum and is made again.

    Args:
        path: the file; made if missing.
        shape: of an image ``(channels, height, width)``.

    Raises:
        DataError: if the file cannot be made or written.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int]) -> None:
        self.path = path
        self.shape = shape
        self.record = CHECKSUM_BYTES + int(np.prod(shape))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise self._refused(error) from error
        weakref.finalize(self, os.close, self._file)

    @staticmethod
    def key(*parts: bytes | str) -> str:
        """A short name for everything that decides what the records hold."""
        digest = hashlib.sha256()
        for part in parts:
            data = part.encode() if isinstance(part, str) else part
            digest.update(len(data).to_bytes(8, "little"))
            digest.update(data)
        return digest.hexdigest()[:16]

    def get(self, row: int) -> np.ndarray | None:
        """The image ``uint8 [channels, height, width]``, or ``None`` if it is not there."""
        data = os.pread(self._file, self.record, row * self.record)
        if len(data) < self.record:
            return None
        pixels = data[CHECKSUM_BYTES:]
        if data[:CHECKSUM_BYTES] != _checksum(pixels):
            return None
        return np.frombuffer(pixels, dtype=np.uint8).reshape(self.shape)

    def put(self, row: int, image: np.ndarray) -> None:
        """Keep an image.

        Raises:
            DataError: if the disk is full or the file cannot be written.
        """
        pixels = image.tobytes()
        try:
            os.pwrite(self._file, _checksum(pixels) + pixels, row * self.record)
        except OSError as error:
            raise self._refused(error) from error

    def _refused(self, error: OSError) -> DataError:
        return DataError(
            f"cannot write the cache file {self.path}: {error.strerror or error}; "
            "set RTL_CACHE to a folder with room, or cache to false"
        )


def _checksum(pixels: bytes) -> bytes:
    """Never zero, which is what a hole in the file reads as."""
    return (zlib.crc32(pixels) or 1).to_bytes(CHECKSUM_BYTES, "little")
