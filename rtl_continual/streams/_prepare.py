"""Getting a data set from its publisher: downloads that resume, archives unpacked with care."""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import stat
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from rtl_continual.errors import DataError

__all__ = ["Progress", "download", "sha256_of", "unpack_zip"]

Progress = Callable[[str, int, int | None], None]
"""Called with a file's name, the bytes done, and the bytes in total if they are known."""

CHUNK = 1 << 20
TIMEOUT_SECONDS = 30.0
MAX_ENTRIES = 1_000_000
MAX_TOTAL_BYTES = 200 * 2**30
MAX_RATIO = 200
"""Photographs hardly shrink in an archive; what shrinks a thousandfold is made to fill the disk."""


def sha256_of(path: Path, progress: Progress | None = None) -> str:
    """SHA-256 of a file's content."""
    digest, done, total = hashlib.sha256(), 0, path.stat().st_size
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            done += len(chunk)
            if progress is not None:
                progress(f"checking {path.name}", done, total)
    return digest.hexdigest()


def download(
    url: str,
    target: Path,
    *,
    size: int | None = None,
    sha256: str | None = None,
    progress: Progress | None = None,
) -> None:
    """Fetch a file, going on where an earlier attempt was cut off.

    What has arrived lies beside the target under the ending ``.part`` until it is whole.

    Args:
        url: where it is.
        target: where to put it.
        size: of the whole file in bytes, if known.
        sha256: of the whole file, if known.
        progress: hears how far it is.

    Raises:
        DataError: if the disk has no room, the server cannot be reached, the connection breaks
            (the message says how to go on), or what arrived is not what was published.
    """
    part = target.with_name(f"{target.name}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    # Without a known size nobody can say whether what is there is the beginning or all of it.
    have = part.stat().st_size if part.exists() and size is not None else 0
    if size is not None and shutil.disk_usage(target.parent).free < size - have:
        raise DataError(f"{target}: needs {(size - have) / 1e9:.1f} GB, the disk has less")
    if size is None or have < size:
        try:
            _fetch(url, part, have, size, progress)
        except urllib.error.HTTPError as error:
            error.close()
            raise DataError(f"{url}: cannot be downloaded: {error}") from error
        except urllib.error.URLError as error:
            raise DataError(f"{url}: cannot be downloaded: {error.reason}") from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise DataError(f"{url}: cannot be downloaded: {error}") from error
    have = part.stat().st_size
    if size is not None and have < size:
        raise DataError(f"{url}: the connection ended after {have} of {size} bytes; run it again")
    if (size is not None and have != size) or (
        sha256 is not None and sha256_of(part, progress) != sha256
    ):
        part.unlink()
        raise DataError(f"{url}: what arrived is not the published file; it was deleted")
    os.replace(part, target)


def _fetch(url: str, part: Path, have: int, size: int | None, progress: Progress | None) -> None:
    if not url.startswith(("http://", "https://")):
        raise ValueError("only http and https are allowed")
    headers = {"Range": f"bytes={have}-"} if have else {}
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
        # A server that does not know ranges sends the file from its beginning.
        resumed = have > 0 and answer.status == 206
        done = have if resumed else 0
        with part.open("ab" if resumed else "wb") as file:
            while chunk := answer.read(CHUNK):
                done += len(chunk)
                if size is not None and done > size:
                    raise ValueError(f"more than the published {size} bytes")
                file.write(chunk)
                if progress is not None:
                    progress(part.name.removesuffix(".part"), done, size)


def unpack_zip(archive: Path, target: Path, *, only: str, progress: Progress | None = None) -> int:
    """Unpack the files of one folder of an archive; files that are there already stay.

    Args:
        archive: the file.
        target: the folder to unpack into.
        only: the top folder in the archive to unpack; all else is left out.
        progress: hears how far it is.

    Returns:
        How many files were written.

    Raises:
        DataError: if the archive is damaged, or an entry is a link, is encrypted, points out of
            the folder, or unpacks to unreasonably much.
    """
    written, done = 0, 0
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = [
                entry
                for entry in opened.infolist()
                if not entry.is_dir() and _checked(archive, entry).parts[0] == only
            ]
            total = sum(entry.file_size for entry in entries)
            if len(entries) > MAX_ENTRIES or total > MAX_TOTAL_BYTES:
                raise DataError(
                    f"{archive}: would unpack to {len(entries)} files and {total / 1e9:.0f} GB, "
                    "which is more than any data set known here; nothing was unpacked"
                )
            if shutil.disk_usage(target).free < total - _present(target, entries):
                raise DataError(f"{archive}: unpacks to {total / 1e9:.1f} GB, the disk has less")
            for entry in entries:
                path = target / entry.filename
                if not (path.is_file() and path.stat().st_size == entry.file_size):
                    _write(opened, entry, path)
                    written += 1
                done += entry.file_size
                if progress is not None:
                    progress(f"unpacking {archive.name}", done, total)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise DataError(f"{archive}: is damaged: {error}; delete it and get it again") from error
    except OSError as error:
        raise DataError(f"{archive}: cannot be unpacked: {error}") from error
    return written


def _checked(archive: Path, entry: zipfile.ZipInfo) -> PurePosixPath:
    path = PurePosixPath(entry.filename)
    mode = entry.external_attr >> 16
    if path.is_absolute() or ".." in path.parts or "\\" in entry.filename or ":" in entry.filename:
        raise DataError(f"{archive}: '{entry.filename}' points out of the folder; nothing unpacked")
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        raise DataError(f"{archive}: '{entry.filename}' is a link or a device; nothing unpacked")
    if entry.flag_bits & 1:
        raise DataError(f"{archive}: '{entry.filename}' is encrypted; nothing unpacked")
    if entry.file_size > CHUNK and entry.file_size > MAX_RATIO * max(entry.compress_size, 1):
        raise DataError(
            f"{archive}: '{entry.filename}' unpacks from {entry.compress_size} to "
            f"{entry.file_size} bytes; nothing unpacked"
        )
    return path


def _present(target: Path, entries: list[zipfile.ZipInfo]) -> int:
    """Bytes of the entries that are unpacked already."""
    return sum(e.file_size for e in entries if (target / e.filename).is_file())


def _write(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path) -> None:
    """Write beside the target, then rename: a file is whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part")
    try:
        with opened.open(entry) as source, partial.open("wb") as file:
            shutil.copyfileobj(source, file, CHUNK)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
