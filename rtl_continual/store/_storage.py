"""Where a bank's files live: atomic, durable, create-if-absent writes."""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout

from rtl_continual.errors import BankError

__all__ = ["LocalStorage", "Storage", "check_name", "open_storage", "too_long"]

_NAME = re.compile(r"[a-z]+(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}
_NO_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF}


def check_name(name: str) -> str:
    """The name of a file or folder in a bank, if it is one.

    Raises:
        BankError: if it could lead elsewhere.
    """
    if not _NAME.fullmatch(name):
        raise BankError(f"'{name}' is no name of a file in a bank")
    return name


class Storage(Protocol):
    """What a bank needs of the place where its files lie; see :class:`LocalStorage`."""

    def make(self, folders: tuple[str, ...]) -> None: ...

    def probe(self) -> None: ...

    def read(self, name: str, limit: int) -> bytes: ...

    def list(self, folder: str) -> list[str]: ...

    def has(self, name: str) -> bool: ...

    def age(self, name: str) -> float: ...

    def size(self, name: str) -> int: ...

    def touch(self, name: str) -> None: ...

    def remove(self, name: str) -> None: ...

    def create(self, name: str, data: bytes) -> bool: ...

    def replace(self, name: str, data: bytes) -> None: ...

    def lock(self, *, required: bool = False) -> AbstractContextManager[None]: ...


def open_storage(path: str | Path) -> Storage:
    """The storage for a folder, or for an address such as ``s3://bucket/folder``.

    Raises:
        BankError: if it is a file.
    """
    text = str(path)
    kind, separator, rest = text.partition("://")
    if not separator or kind in ("file", "local"):
        root = Path(rest if separator else text)
        if root.is_file():
            raise BankError(f"'{root}' is a file; a bank is a folder")
        return LocalStorage(root)
    from rtl_continual.store._remote import RemoteStorage

    return RemoteStorage(text)


def too_long(file: object, size: int, limit: int) -> str:
    """Says that a file has more bytes than it may have."""
    return (
        f"'{file}' is damaged, or no file of a bank: it has {size} bytes, at most {limit} expected"
    )


class LocalStorage:
    """A folder of small files that appear whole or not at all.

    Every file is written under ``tmp/``, flushed to the disk, and only then given its name. A
    crash at any moment leaves either nothing, or a file under ``tmp/`` that nothing refers to.

    Args:
        root: the bank's folder.
        lock_seconds: wait so long for another writer before giving up.
    """

    def __init__(self, root: Path, *, lock_seconds: float = 60.0) -> None:
        self.root = root
        self._lock = FileLock(root / "lock", timeout=lock_seconds)

    def __str__(self) -> str:
        return str(self.root)

    def _path(self, name: str) -> Path:
        return self.root / check_name(name)

    def make(self, folders: tuple[str, ...]) -> None:
        """Create the bank's folder and those in it, where missing."""
        with self._explained("create", self.root):
            # Each folder that gets a new name in it must survive a power cut, up to the first
            # that was there.
            changed = [self.root]
            while not changed[-1].exists() and changed[-1] != changed[-1].parent:
                changed.append(changed[-1].parent)
            for folder in folders:
                (self.root / folder).mkdir(parents=True, exist_ok=True)
            for path in (*changed, self.root.parent):
                _sync_folder(path)

    def probe(self) -> None:
        """See that files can be written, and leave none.

        Raises:
            BankError: if not.
        """
        with self._explained("write", self.root / "tmp"), self._temporary(b"\0"):
            pass

    def read(self, name: str, limit: int) -> bytes:
        """The bytes of a file.

        Args:
            name: path below the root.
            limit: refuse files with more bytes.

        Raises:
            BankError: if it is missing, no plain file, too long, or cannot be read.
        """
        path = self._path(name)
        with self._explained("read", path), path.open("rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise BankError(f"'{path}' is no plain file")
            if status.st_size > limit:
                raise BankError(too_long(path, status.st_size, limit))
            return file.read(limit + 1)

    def list(self, folder: str) -> list[str]:
        """Names of the files in a folder, sorted; empty if there is no such folder."""
        path = self._path(folder)
        with self._explained("list", path):
            try:
                return sorted(os.listdir(path))
            except FileNotFoundError:
                return []

    def has(self, name: str) -> bool:
        """Whether the file is there."""
        return self._path(name).is_file()

    def age(self, name: str) -> float:
        """Seconds since a file was written; 0 if it has gone."""
        try:
            return max(0.0, time.time() - self._path(name).stat().st_mtime)
        except FileNotFoundError:
            return 0.0

    def size(self, name: str) -> int:
        """Bytes of a file; 0 if it has gone."""
        try:
            return self._path(name).stat().st_size
        except FileNotFoundError:
            return 0

    def touch(self, name: str) -> None:
        """Set a file's age to 0, so that no collection takes it away."""
        path = self._path(name)
        with self._explained("write", path):
            os.utime(path)
            # The writer that made it may not have come so far yet, and may be killed before.
            _sync_folder(path.parent)

    def remove(self, name: str) -> None:
        """Delete a file, if it is still there."""
        path = self._path(name)
        with self._explained("remove", path):
            path.unlink(missing_ok=True)

    def create(self, name: str, data: bytes) -> bool:
        """Write a file unless one of that name is there.

        Returns:
            False if there is one; it is left as it is.
        """
        path = self._path(name)
        with self._explained("write", path), self._temporary(data) as temporary:
            try:
                os.link(temporary, path)
                created = True
            except FileExistsError:
                created = False
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                created = self._create_under_lock(temporary, path)
            self._sync(path)
            return created

    def _create_under_lock(self, temporary: Path, path: Path) -> bool:
        """Without hard links there is no atomic create-if-absent: writers take turns instead."""
        with self.lock(required=True):
            if path.exists():
                return False
            os.replace(temporary, path)
            return True

    def replace(self, name: str, data: bytes) -> None:
        """Write a file in place of the one of that name; readers see the old or the new one."""
        path = self._path(name)
        with self._explained("write", path), self._temporary(data) as temporary:
            os.replace(temporary, path)
            self._sync(path)

    def _sync(self, path: Path) -> None:
        """Make a new name survive a power cut, too."""
        try:
            _sync_folder(path.parent)
        except OSError as error:
            if path.parent.name not in ("manifests", "tags"):
                raise
            raise BankError(
                f"'{path}' has been written, but the disk does not confirm it: {_reason(error)}; "
                "run 'rtl bank verify' before relying on it"
            ) from error

    @contextmanager
    def _temporary(self, data: bytes) -> Iterator[Path]:
        path = self.root / "tmp" / f"{os.getpid()}-{os.urandom(8).hex()}"
        path.parent.mkdir(exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(descriptor, view) :]
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            yield path
        finally:
            path.unlink(missing_ok=True)

    @contextmanager
    def lock(self, *, required: bool = False) -> Iterator[None]:
        """Keep other writers and collections out. Readers never wait.

        Commits are safe without it as long as files can be created if absent; it spares writers
        lost races. It vanishes with its process.

        Args:
            required: fail where the file system has no locks, instead of going on without.
        """
        try:
            with self._explained("write", self.root / "lock"):
                self._lock.acquire()
        except Timeout as error:
            raise BankError(
                f"another process has been writing to bank '{self.root}' for more than "
                f"{self._lock.timeout:.0f} s; try again when it is done"
            ) from error
        except NotImplementedError as error:
            if required:
                raise BankError(
                    f"the file system of '{self.root}' has neither hard links nor locks, so "
                    "writing there is not safe; put the bank elsewhere and copy it"
                ) from error
            yield
            return
        try:
            yield
        finally:
            self._lock.release()

    @contextmanager
    def _explained(self, action: str, path: Path) -> Iterator[None]:
        try:
            yield
        except Timeout:
            raise
        except FileNotFoundError as error:
            raise BankError(f"cannot {action} '{path}': it does not exist") from error
        except OSError as error:
            kept = "; the bank is as it was before" if action == "write" else ""
            raise BankError(f"cannot {action} '{path}': {_reason(error)}{kept}") from error


def _reason(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"no space left there ({error.strerror})"
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"no permission ({error.strerror})"
    return error.strerror or str(error)


def _sync_folder(path: Path) -> None:
    """Make renames and links in a folder survive a power cut, where the file system can."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(descriptor)
