"""Removing what no kept version refers to."""

from __future__ import annotations

from typing import Any

from rtl_continual.errors import BankError
from rtl_continual.store._files import BankFiles, blob_name
from rtl_continual.store._manifest import Manifest

__all__ = ["collect"]


def collect(files: BankFiles, *, grace: float, keep: int | None, dry_run: bool) -> dict[str, Any]:
    """See :meth:`BankStore.gc`."""
    if keep is not None and keep < 1:
        raise BankError(f"a collection keeps one version or more, got {keep}")
    if grace < 0:
        raise BankError(f"the grace period is 0 seconds or more, got {grace:g}")
    with files.storage.lock():
        # Not those that are there, but those that must be: what a lost one refers to is not known.
        manifests = {version: files.read(version) for version in range(1, files.head() + 1)}
        retired = _retire(files, manifests, keep, dry_run)
        # A version retired within the grace period may still be open somewhere.
        ages = dict.fromkeys(retired, 0.0) | _retired_since(files, manifests)
        gone = {version for version, since in ages.items() if since >= grace}
        needed = {
            blob
            for version, manifest in manifests.items()
            if version not in gone
            for blob in manifest.blobs()
        }
        names = [(blob_name(b), size) for b, size in files.blobs().items() if b not in needed]
        names += [
            (f"tmp/{name}", files.storage.size(f"tmp/{name}")) for name in files.storage.list("tmp")
        ]
        removed, young = [], 0
        for name, size in names:
            if files.storage.age(name) < grace:
                young += 1
                continue
            removed.append({"file": name, "bytes": size})
            if not dry_run:
                files.storage.remove(name)
    return {
        "retired": retired,
        "removed": removed,
        "bytes": sum(entry["bytes"] for entry in removed),
        "within_grace": young,
        "dry_run": dry_run,
        "version": max(manifests),
    }


def _retire(
    files: BankFiles, manifests: dict[int, Manifest], keep: int | None, dry_run: bool
) -> list[int]:
    """Retire old versions, by a version of its own that says so; adds it to ``manifests``."""
    if keep is None:
        return []
    while True:
        head = manifests[max(manifests)]
        spared = {*sorted(manifests)[-keep:], *files.tags().values(), *head.retired}
        fresh = sorted(set(manifests) - spared)
        if not fresh or dry_run:
            return fresh
        manifest = head.following("collect", "", retired=tuple(sorted({*head.retired, *fresh})))
        if files.append(manifest):
            manifests[manifest.version] = manifest
            return fresh
        newest = files.read()
        manifests |= {v: files.read(v) for v in range(head.version + 1, newest.version + 1)}


def _retired_since(files: BankFiles, manifests: dict[int, Manifest]) -> dict[int, float]:
    """Seconds since each retired version was retired."""
    since: dict[int, float] = {}
    for version in sorted(manifests):
        for retired in manifests[version].retired:
            if retired not in since:
                since[retired] = files.storage.age(f"manifests/{version:08d}.json")
    return since
