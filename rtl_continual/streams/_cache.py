"""Arrays kept in the user's cache folder, with a content hash that every load checks."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from rtl_continual.errors import DataError

__all__ = ["cache_folder", "cached_arrays", "content_hash"]

logger = logging.getLogger(__name__)

HASH_KEY = "content_hash"


def cache_folder() -> Path:
    """``$RTL_CACHE``, else ``$XDG_CACHE_HOME/rtl_continual``, else ``~/.cache/rtl_continual``."""
    if own := os.environ.get("RTL_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "rtl_continual"


def content_hash(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over each array's name, type, shape and bytes, in the order of names."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}|{array.dtype.str}|{list(array.shape)}|".encode())
        digest.update(array.data)
    return digest.hexdigest()


def cached_arrays(
    file_name: str, make: Callable[[], dict[str, np.ndarray]]
) -> tuple[dict[str, np.ndarray], str]:
    """Load arrays from the cache folder, or make and keep them.

    A file that cannot be read, or whose content does not match its hash, is reported in the log
    and made again.

    Args:
        file_name: name inside the cache folder; it must name everything the content depends on.
        make: makes the arrays.

    Returns:
        The arrays and their content hash.

    Raises:
        DataError: if the cache folder cannot be written.
    """
    path = cache_folder() / file_name
    if path.exists():
        try:
            return _load(path)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            logger.warning("cached file %s is damaged (%s); making it again", path, error)
    arrays = make()
    digest = content_hash(arrays)
    _save(path, arrays, digest)
    return arrays, digest


def _load(path: Path) -> tuple[dict[str, np.ndarray], str]:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    expected = str(arrays.pop(HASH_KEY))
    found = content_hash(arrays)
    if found != expected:
        raise ValueError(f"content hash is {found[:12]}, expected {expected[:12]}")
    return arrays, found


def _save(path: Path, arrays: dict[str, np.ndarray], digest: str) -> None:
    """Write beside the target, then rename: a reader never sees half a file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                np.savez(file, **arrays, **{HASH_KEY: np.array(digest)})  # type: ignore[arg-type]
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise DataError(
            f"cannot write the cache file {path}: {error.strerror or error}; "
            "set RTL_CACHE to a folder that can be written"
        ) from error
