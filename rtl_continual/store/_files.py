"""A bank's files by what they are: manifests, blobs, tags."""

from __future__ import annotations

import hashlib
import re

from rtl_continual.errors import BankError
from rtl_continual.store._manifest import Manifest, Pointer
from rtl_continual.store._storage import Storage

__all__ = ["FOLDERS", "BankFiles"]

FOLDERS = ("blobs", "manifests", "tags", "tmp")
_MANIFEST = re.compile(r"([0-9]{8,15})\.json")
_TAG = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_BLOB = re.compile(r"([0-9a-f]{64})\.safetensors")
_JSON_LIMIT = 2**28


class BankFiles:
    """Reads and writes single files of a bank; knows nothing of what is in blobs.

    Args:
        storage: where the files lie.
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def __str__(self) -> str:
        return str(self.storage)

    def versions(self) -> list[int]:
        """The numbers of all versions; the last one is HEAD."""
        matches = (_MANIFEST.fullmatch(name) for name in self.storage.list("manifests"))
        return sorted(int(match[1]) for match in matches if match)

    def head(self) -> int:
        """The number of the newest version.

        Raises:
            BankError: if there is no bank.
        """
        known = self.versions()
        if not known:
            raise BankError(f"there is no bank in '{self}'")
        return known[-1]

    def read(self, version: int | None = None) -> Manifest:
        """One version's manifest; HEAD's by default.

        Raises:
            BankError: if there is no such version, or its manifest is damaged.
        """
        number = self.head() if version is None else version
        name = manifest_name(number)
        if number < 1 or not self.storage.has(name):
            known = self.versions()
            if known and 1 <= number < known[-1] and number not in known:
                raise BankError(
                    f"the manifest of version {number} of bank '{self}' is missing: '{name}' does "
                    "not exist, though later versions do"
                )
            if number not in known:
                has = f"it has 1 to {known[-1]}" if known else "it has none"
                raise BankError(f"bank '{self}' has no version {number}; {has}")
        source = f"manifest of version {number} ('{self}/{name}')"
        try:
            manifest = Manifest.decode(self.storage.read(name, _JSON_LIMIT), source)
            if manifest.version != number:
                raise BankError(f"{source} is that of version {manifest.version}")
        except BankError as error:
            if version is None and number > 1 and "damaged" in str(error):
                raise BankError(
                    f"{error}; version {number - 1} can still be opened by its number"
                ) from error
            raise
        return manifest

    def kept(self, version: int | None = None) -> Manifest:
        """The manifest of a version whose content is still there; HEAD's by default.

        Raises:
            BankError: as :meth:`read`, or if a collection has retired it.
        """
        manifest = self.read(version)
        try:
            newest = self.read()
        except BankError:
            # A damaged newest version is no reason not to open an older one.
            return manifest
        if manifest.version in newest.retired:
            raise BankError(
                f"version {manifest.version} of bank '{self}' has been retired: its content may "
                "have been removed by a collection"
            )
        return manifest

    def append(self, manifest: Manifest) -> bool:
        """Write a version's manifest; False if another writer has taken its number."""
        return self.storage.create(manifest_name(manifest.version), manifest.encoded()[0])

    def blobs(self) -> dict[str, int]:
        """Hash and size of every blob that is there, referred to or not."""
        matches = (_BLOB.fullmatch(name) for name in self.storage.list("blobs"))
        return {m[1]: self.storage.size(blob_name(m[1])) for m in matches if m}

    def has_blob(self, sha256: str) -> bool:
        """Whether a blob is there; its content is not looked at."""
        return self.storage.has(blob_name(sha256))

    def blob(self, sha256: str, size: int, what: str) -> bytes:
        """A blob's bytes, checked against its hash.

        Args:
            sha256: its name.
            size: the bytes it must have.
            what: it is, for messages.

        Raises:
            BankError: if it is missing or damaged.
        """
        name = blob_name(sha256)
        if not self.storage.has(name):
            raise BankError(f"{what} of bank '{self}' is missing: '{name}' does not exist")
        data = self.storage.read(name, size)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise BankError(
                f"{what} of bank '{self}' is damaged: '{name}' does not match its SHA-256"
            )
        return data

    def put(self, data: bytes) -> tuple[str, int]:
        """Store a blob; returns its hash and size. A damaged one of that name is mended."""
        sha256 = hashlib.sha256(data).hexdigest()
        name = blob_name(sha256)
        if not self.storage.has(name):
            self.storage.create(name, data)
        elif self.storage.size(name) != len(data) or self.storage.read(name, len(data)) != data:
            self.storage.replace(name, data)
        else:
            # A collection must not take a blob away that is about to be referred to again.
            self.storage.touch(name)
        return sha256, len(data)

    def tags(self) -> dict[str, int]:
        """All tags and the versions they name.

        Raises:
            BankError: if a tag's file is damaged.
        """
        return {name: self.tagged(name) for name in self.tag_names()}

    def tag_names(self) -> list[str]:
        """The names of all tags, sorted."""
        names = (name.removesuffix(".json") for name in self.storage.list("tags"))
        return [name for name in names if _TAG.fullmatch(name)]

    def tagged(self, tag: str) -> int:
        """The version that a tag names.

        Raises:
            BankError: if there is no such tag, or its file is damaged.
        """
        name = tag_name(tag)
        if not self.storage.has(name):
            known = ", ".join(self.tag_names()) or "none"
            raise BankError(f"bank '{self}' has no tag '{tag}'; it has: {known}")
        pointer = Pointer.decode(self.storage.read(name, 4096), f"tag '{tag}' ('{self}/{name}')")
        if pointer.name != tag or self.read(pointer.version).sha256 != pointer.manifest:
            raise BankError(f"tag '{tag}' of bank '{self}' names another bank's version")
        return pointer.version

    def tag(self, tag: str, version: int | None = None) -> int:
        """Let a tag name a version (HEAD by default); readers see the old one or the new one.

        Returns:
            The version.

        Raises:
            BankError: if the name is not lowercase letters, digits, dots, dashes and underscores,
                or there is no such version, or a collection has retired it.
        """
        name = tag_name(tag)
        # A collection at the same time must not retire it.
        with self.storage.lock():
            manifest = self.kept(version)
            pointer = Pointer(name=tag, version=manifest.version, manifest=manifest.sha256)
            self.storage.replace(name, pointer.encoded())
        return manifest.version

    def untag(self, tag: str) -> None:
        """Remove a tag; the version stays.

        Raises:
            BankError: if there is no such tag.
        """
        self.tagged(tag)
        self.storage.remove(tag_name(tag))


def manifest_name(version: int) -> str:
    """Where a version's manifest lies."""
    return f"manifests/{version:08d}.json"


def blob_name(sha256: str) -> str:
    """Where a blob lies."""
    return f"blobs/{sha256}.safetensors"


def tag_name(tag: str) -> str:
    """Where a tag lies.

    Raises:
        BankError: if it is no name for a tag.
    """
    if not _TAG.fullmatch(tag):
        raise BankError(
            f"'{tag}' is no name for a tag: use up to 64 lowercase letters, digits, '.', '-' and "
            "'_', a letter or digit first"
        )
    return f"tags/{tag}.json"
