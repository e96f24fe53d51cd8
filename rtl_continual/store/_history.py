"""Going through a bank's versions: what changed, going back, taking one elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rtl_continual.errors import BankError
from rtl_continual.store._files import FOLDERS, BankFiles
from rtl_continual.store._manifest import Manifest, TicketEntry
from rtl_continual.store._storage import LocalStorage

__all__ = ["diff", "export", "history", "rollback"]


def history(files: BankFiles) -> list[dict[str, Any]]:
    """See :meth:`BankStore.history`."""
    tags: dict[int, list[str]] = {}
    for tag, version in files.tags().items():
        tags.setdefault(version, []).append(tag)
    retired = set(files.read().retired)
    rows: list[dict[str, Any]] = []
    before: Manifest | None = None
    for version in files.versions():
        manifest = files.read(version)
        old = before.tickets if before else ()
        common = _common(old, manifest.tickets)
        rows.append(
            {
                "version": version,
                "created": manifest.created,
                "operation": manifest.operation,
                "source": manifest.source.version if manifest.source else None,
                "message": manifest.message,
                "tickets": len(manifest.tickets),
                "added": [entry.name for entry in manifest.tickets[common:]],
                "removed": [entry.name for entry in old[common:]],
                "router_changed": before is None or before.router != manifest.router,
                "bytes": sum(manifest.blobs().values()),
                "sha256": manifest.sha256,
                "tags": sorted(tags.get(version, [])),
                "retired": version in retired,
                "writer": manifest.writer,
            }
        )
        before = manifest
    return rows


def diff(files: BankFiles, old: int, new: int) -> dict[str, Any]:
    """See :meth:`BankStore.diff`."""
    a, b = files.read(old), files.read(new)
    common = _common(a.tickets, b.tickets)
    blobs_a, blobs_b = a.blobs(), b.blobs()
    fresh = {blob: size for blob, size in blobs_b.items() if blob not in blobs_a}
    return {
        "from": {"version": old, "sha256": a.sha256, "created": a.created},
        "to": {"version": new, "sha256": b.sha256, "created": b.created},
        "tickets": {
            "unchanged": common,
            "added": [_row(i, b.tickets[i]) for i in range(common, len(b.tickets))],
            "removed": [_row(i, a.tickets[i]) for i in range(common, len(a.tickets))],
        },
        "router": {
            "changed": a.router != b.router,
            "from": a.router.name if a.router else None,
            "to": b.router.name if b.router else None,
        },
        "bytes": {
            "from": sum(blobs_a.values()),
            "to": sum(blobs_b.values()),
            "new": sum(fresh.values()),
        },
    }


def _common(a: tuple[TicketEntry, ...], b: tuple[TicketEntry, ...]) -> int:
    """Length of the common prefix."""
    pairs = zip(a, b, strict=False)
    return next((i for i, (x, y) in enumerate(pairs) if x != y), min(len(a), len(b)))


def _row(ticket_id: int, entry: TicketEntry) -> dict[str, Any]:
    return {
        "id": ticket_id,
        "name": entry.name,
        "bytes": entry.bytes,
        "kept": entry.kept,
        "fingerprint": entry.fingerprint,
    }


def rollback(files: BankFiles, to: int, message: str) -> Manifest:
    """See :meth:`BankStore.rollback`."""
    target = files.kept(to)
    missing = [blob for blob in target.blobs() if not files.has_blob(blob)]
    if missing:
        raise BankError(f"cannot go back to version {to}: blob {missing[0]} is missing")
    with files.storage.lock():
        while True:
            head = files.read()
            if head.version == to:
                raise BankError(
                    f"version {to} is the newest already: there is nothing to roll back"
                )
            manifest = head.following(
                "rollback",
                message,
                source=target.link,
                tickets=target.tickets,
                router=target.router,
            )
            if files.append(manifest):
                return manifest


def export(files: BankFiles, manifest: Manifest, target: BankFiles) -> Manifest:
    """See :meth:`BankStore.export_version`."""
    if target.versions():
        raise BankError(f"there is a bank in '{target}' already: export to a new folder")
    if isinstance(target.storage, LocalStorage):
        folder = target.storage.root
        # What an export that was cut off has left is a bank's own.
        own = {*(Path(name).parts[0] for name in FOLDERS), "lock"}
        if folder.is_dir() and any(entry.name not in own for entry in folder.iterdir()):
            raise BankError(f"'{target}' is not empty: export to a new folder")
    target.storage.make(FOLDERS)
    for blob, size in manifest.blobs().items():
        target.put(files.blob(blob, size, f"blob {blob}"))
    exported = Manifest(
        version=1,
        parent=None,
        operation="export",
        source=manifest.link,
        message=manifest.message,
        backbone=manifest.backbone,
        task=manifest.task,
        router=manifest.router,
        tickets=manifest.tickets,
    )
    if not target.append(exported):
        raise BankError(f"another process has just created a bank in '{target}'")
    return exported
