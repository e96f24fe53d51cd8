"""A bank's files in an object store, through fsspec."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import import_module
from typing import Any

from rtl_continual.errors import BankError
from rtl_continual.store._storage import check_name, too_long

__all__ = ["RemoteStorage"]


class RemoteStorage:
    """An object store: an object appears whole or not at all, and there are no locks.

    Writers agree by creating a version's manifest only if it is absent, so the store must be able
    to do that (S3 by a conditional write). It is asked to prove it before anything is written.

    Args:
        address: such as ``s3://bucket/folder``; what stands before ``://`` names the fsspec
            implementation.

    Raises:
        BankError: if fsspec or its implementation is not installed.
    """

    def __init__(self, address: str) -> None:
        try:
            # Without type information; through import_module it is Any.
            system, root = import_module("fsspec").url_to_fs(address, skip_instance_cache=True)
        except (ImportError, ValueError) as error:
            raise BankError(
                f"cannot open '{address}': {error}; install rtl-continual[remote] and fsspec's "
                "package for this kind of address"
            ) from error
        self._address = address
        self._system: Any = system
        self._root = root.rstrip("/")
        self._creates = False

    def __str__(self) -> str:
        return self._address

    def _path(self, name: str) -> str:
        return f"{self._root}/{check_name(name)}"

    def make(self, folders: tuple[str, ...]) -> None:
        """Object stores have no folders; others get them with their first file."""

    def probe(self) -> None:
        """See that files can be written; see :meth:`LocalStorage.probe`."""
        self._prove()

    def read(self, name: str, limit: int) -> bytes:
        """The bytes of a file; see :meth:`LocalStorage.read`."""
        path = self._path(name)
        with self._explained("read", name):
            size = int(self._system.size(path) or 0)
            if size > limit:
                raise BankError(too_long(f"{self}/{name}", size, limit))
            return bytes(self._system.cat_file(path))

    def list(self, folder: str) -> list[str]:
        """Names of the files in a folder, sorted; empty if there is no such folder."""
        path = self._path(folder)
        with self._explained("list", folder):
            # Listings may be cached, and another writer's version would not be seen.
            self._system.invalidate_cache()
            try:
                found = self._system.ls(path, detail=False)
            except FileNotFoundError:
                return []
            return sorted(str(name).rstrip("/").rpartition("/")[2] for name in found)

    def has(self, name: str) -> bool:
        """Whether the file is there."""
        path = self._path(name)
        with self._explained("read", name):
            self._system.invalidate_cache()
            return bool(self._system.isfile(path))

    def age(self, name: str) -> float:
        """Seconds since a file was written; 0 if it has gone, or the store does not say."""
        path = self._path(name)
        with self._explained("read", name):
            try:
                modified = self._system.modified(path)
            except (FileNotFoundError, NotImplementedError):
                return 0.0
        if isinstance(modified, datetime):
            modified = (modified if modified.tzinfo else modified.replace(tzinfo=UTC)).timestamp()
        return max(0.0, time.time() - float(modified))

    def size(self, name: str) -> int:
        """Bytes of a file; 0 if it has gone."""
        path = self._path(name)
        with self._explained("read", name):
            try:
                return int(self._system.size(path) or 0)
            except FileNotFoundError:
                return 0

    def touch(self, name: str) -> None:
        """Set a file's age to 0, by writing what is in it again."""
        path = self._path(name)
        with self._explained("write", name):
            self._system.pipe_file(path, self._system.cat_file(path))

    def remove(self, name: str) -> None:
        """Delete a file, if it is still there."""
        path = self._path(name)
        with self._explained("remove", name):
            try:
                self._system.rm_file(path)
            except FileNotFoundError:
                return

    def create(self, name: str, data: bytes) -> bool:
        """Write a file unless one of that name is there; False if there is one."""
        path = self._path(name)
        self._prove()
        with self._explained("write", name):
            return self._create(path, data)

    def _create(self, path: str, data: bytes) -> bool:
        try:
            self._system.pipe_file(path, data, mode="create")
        except FileExistsError:
            return False
        return True

    def _prove(self) -> None:
        """See that the store refuses to create what is there: some silently overwrite."""
        if self._creates:
            return
        path = self._path(f"tmp/{os.getpid()}-{os.urandom(8).hex()}")
        with self._explained("write", "tmp"):
            first, second = self._create(path, b"1"), self._create(path, b"2")
            content = self._system.cat_file(path)
            self._system.rm_file(path)
        if (first, second, content) != (True, False, b"1"):
            raise BankError(
                f"'{self}' overwrites files that it should only create, so that writers could "
                "lose each other's versions; use a newer fsspec implementation, or another store"
            )
        self._creates = True

    def replace(self, name: str, data: bytes) -> None:
        """Write a file in place of the one of that name."""
        path = self._path(name)
        with self._explained("write", name):
            self._system.pipe_file(path, data)

    @contextmanager
    def lock(self, *, required: bool = False) -> Iterator[None]:
        """There are no locks here; commits do without."""
        yield

    @contextmanager
    def _explained(self, action: str, name: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise BankError(f"cannot {action} '{self}/{name}': it does not exist") from error
        except BankError:
            raise
        except Exception as error:
            # Of what an implementation's own libraries raise, little is an OSError.
            raise BankError(f"cannot {action} '{self}/{name}': {error}") from error
