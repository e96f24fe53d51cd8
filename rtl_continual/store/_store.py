"""The bank on disk: immutable blobs, numbered manifests, and nothing that is ever overwritten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from pydantic import BaseModel

from rtl_continual.backbones import Backbone
from rtl_continual.errors import BankError
from rtl_continual.routing import FeatureMixture, Router, build_router
from rtl_continual.store._codec import encode_ticket
from rtl_continual.store._collect import collect
from rtl_continual.store._files import FOLDERS, BankFiles
from rtl_continual.store._history import diff, export, history, rollback
from rtl_continual.store._load import load_backbone, load_ticket, load_version
from rtl_continual.store._manifest import (
    BackboneEntry,
    Manifest,
    RouterEntry,
    TaskEntry,
    TicketEntry,
)
from rtl_continual.store._parts import (
    backbone_config,
    encode_backbone,
    encode_router,
    is_reference,
    task_config,
)
from rtl_continual.store._sizes import sizes
from rtl_continual.store._storage import open_storage
from rtl_continual.store._stored import Opened, StoredBank
from rtl_continual.store._verify import VerifyReport, verify
from rtl_continual.tickets import Ticket, TicketBank

__all__ = ["BankStore"]

_ATTEMPTS = 1000


class BankStore(BankFiles):
    """A bank in a folder, with all its versions.

    Writers may be many: a commit that finds another's tickets in front of its own goes behind
    them. Readers need no lock and see whole versions only.

    Args:
        storage: the bank's files; see :meth:`open` and :meth:`create`.

    Example:
        >>> import tempfile
        >>> from rtl_continual.backbones import build_backbone
        >>> from rtl_continual.tasks import Classification
        >>> bank = TicketBank(build_backbone("glyphnet", weights="random:0"), Classification(10))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = BankStore.create(folder, bank, message="empty")
        ...     store.tag("production"), store.tags(), store.read().message
        (1, {'production': 1}, 'empty')
    """

    @classmethod
    def open(cls, path: str | Path) -> BankStore:
        """Open the bank in a folder.

        Raises:
            BankError: if there is none.
        """
        store = cls(open_storage(path))
        if not store.versions():
            raise BankError(f"there is no bank in '{path}'")
        return store

    @classmethod
    def create(
        cls,
        path: str | Path,
        bank: TicketBank,
        *,
        message: str = "",
        embed_backbone: bool | None = None,
    ) -> BankStore:
        """Begin a bank in a new or empty folder, with version 1.

        Args:
            path: the folder, or an address such as ``s3://bucket/folder``.
            bank: what version 1 holds; may be without tickets.
            message: kept with the version.
            embed_backbone: store the backbone's weights too; ``None`` does so for weights that
                cannot be had again from their name.

        Raises:
            BankError: if there is a bank already, or the folder cannot be written.
        """
        store = cls(open_storage(path))
        if store.versions():
            raise BankError(
                f"there is a bank in '{path}' already: open it, or choose another folder"
            )
        store.storage.make(FOLDERS)
        task_name, config = task_config(bank.task)
        manifest = Manifest(
            version=1,
            parent=None,
            operation="create",
            message=message,
            backbone=store._backbone_entry(bank, embed_backbone),
            task=TaskEntry(name=task_name, config=config),
            router=store._router_entry(bank.router),
            tickets=tuple(store._ticket_entry(ticket, bank) for ticket in bank),
        )
        if not store.append(manifest):
            raise BankError(f"another process has just created a bank in '{path}'")
        bank.version, bank.manifest = 1, manifest.sha256
        return store

    def load(
        self,
        version: int | None = None,
        *,
        tag: str | None = None,
        backbone: Backbone | None = None,
        router: BaseModel | None = None,
        cache_bytes: int = 256 * 2**20,
        device: str | torch.device | None = None,
    ) -> StoredBank:
        """One version as a :class:`~rtl_continual.TicketBank`; tickets are read when used.

        Args:
            version: HEAD by default.
            tag: the version that this tag names.
            backbone: use this one, if it is the right one; by default it is built from the
                bank's reference or embedded weights.
            router: options of another router than the stored one; it is fitted to the tickets.
            cache_bytes: memory for tickets: their materialised weights (seven eighths) and packed
                forms, least recently used out first.
            device: where to predict; by default where the backbone is.

        Raises:
            BankError: if the version is missing or damaged, or the backbone is another one.
        """
        if tag is not None and version is not None:
            raise BankError(f"give a version or a tag, not both (got {version} and '{tag}')")
        opened = Opened(self, version, tag, router, cache_bytes, device)
        manifest = self.kept(opened.number() if tag is not None else version)
        return load_version(self, manifest, opened, backbone)

    def verify(self) -> VerifyReport:
        """Hash everything again, and prove that no stored ticket has ever changed."""
        return verify(self)

    def history(self) -> list[dict[str, Any]]:
        """What each version brought, oldest first."""
        return history(self)

    def diff(self, old: int, new: int) -> dict[str, Any]:
        """What differs between two versions: tickets, router, sizes."""
        return diff(self, old, new)

    def sizes(self, version: int | None = None) -> dict[str, Any]:
        """Bytes of each ticket, against the entropy of its mask and a dense copy of the model."""
        return sizes(self, self.read(version))

    def rollback(self, to: int, *, message: str = "") -> Manifest:
        """Append a version whose content is that of version ``to``. Nothing is removed.

        Raises:
            BankError: if there is no such version, or its content has been collected.
        """
        return rollback(self, to, message)

    def gc(
        self, *, grace: float = 7 * 86400.0, keep: int | None = None, dry_run: bool = False
    ) -> dict[str, Any]:
        """Remove the blobs that no kept version refers to, and what killed writers left.

        Args:
            grace: seconds that a file must have been there, and a version retired, before
                anything is removed; longer than any commit takes or reader holds a version.
            keep: retire all versions but so many of the newest, and tagged ones: they can no
                longer be opened, but stay in the history. ``None`` retires none.
            dry_run: only say what would go.

        Returns:
            What was retired and removed.

        Raises:
            BankError: if a manifest or a tag is damaged: then nothing is removed.
        """
        return collect(self, grace=grace, keep=keep, dry_run=dry_run)

    def export_version(self, path: str | Path, version: int | None = None) -> BankStore:
        """Copy one version (HEAD by default) to a new bank in another folder, as its version 1.

        Raises:
            BankError: if there is something in that folder already, or a blob is damaged.
        """
        target = BankStore(open_storage(path))
        export(self, self.read(version), target)
        return target

    def load_backbone(self, version: int | None = None) -> Backbone:
        """A version's backbone alone, its identity checked.

        Raises:
            BankError: if it cannot be built here, or is not the right one.
        """
        return load_backbone(self, self.read(version))

    def commit(self, bank: TicketBank, *, message: str = "") -> Manifest:
        """Append the bank's new tickets and its router as a new version.

        If others have committed since ``bank`` was loaded, its new tickets go behind theirs and
        the router is fitted anew to all; load the bank again to see them. Nothing is written when
        nothing is new.

        Args:
            bank: holds the tickets of the version it came from, and more.
            message: kept with the version.

        Returns:
            The new version's manifest, or HEAD's if nothing is new.

        Raises:
            BankError: if the stored tickets are not an exact prefix, a name is taken, the
                backbone or task is another one, or the folder cannot be written.
        """
        with self.storage.lock():
            for _ in range(_ATTEMPTS):
                head = self.read()
                manifest = self._next(head, bank, message)
                if manifest is head or self.append(manifest):
                    if manifest.tickets[: len(bank)] == manifest.tickets:
                        bank.version, bank.manifest = manifest.version, manifest.sha256
                    return manifest
        raise BankError(f"bank '{self}' changes faster than this process can write; try again")

    def try_commit(self, bank: TicketBank, *, message: str = "") -> Manifest | None:
        """:meth:`commit`, but only on top of the version that ``bank`` was loaded from.

        Returns:
            The new version's manifest, or ``None`` if others have committed since; then nothing
            was.

        Raises:
            BankError: as :meth:`commit`.
        """
        with self.storage.lock():
            head = self.read()
            if head.sha256 != bank.manifest:
                return None
            manifest = self._next(head, bank, message)
            if manifest is not head and not self.append(manifest):
                return None
        bank.version, bank.manifest = manifest.version, manifest.sha256
        return manifest

    def _next(self, head: Manifest, bank: TicketBank, message: str) -> Manifest:
        self._same_kind(head, bank)
        base = self._base(head, bank)
        if head.tickets[: len(base)] != base:
            raise BankError(
                f"bank '{self}' has been rolled back since it was loaded "
                f"(version {bank.version}): load it again, then add"
            )
        shift = len(head.tickets) - len(base)
        fresh = [bank[index] for index in range(len(base), len(bank))]
        if shift:
            fresh = [_moved(ticket, len(base), shift) for ticket in fresh]
        taken = {entry.name for entry in head.tickets}.intersection(t.name for t in fresh)
        if taken:
            raise BankError(
                f"bank '{self}' has got a ticket named '{min(taken)}' since it was loaded"
            )
        tickets = head.tickets + tuple(self._ticket_entry(ticket, bank) for ticket in fresh)
        router = bank.router
        if shift and not fresh:
            if router is None or self._router_entry(router) == self._router_of(bank.version):
                return head
            raise BankError(
                f"bank '{self}' has got {shift} tickets since it was loaded, which this "
                "router does not know: load it again"
            )
        if shift and router is not None:
            router = self._refitted(cast(Router, router), head, fresh)
        entry = self._router_entry(router)
        if entry == head.router and tickets == head.tickets:
            return head
        return head.following("commit", message, router=entry, tickets=tickets)

    def _router_of(self, version: int) -> RouterEntry | None:
        return self.read(version).router

    def _same_kind(self, head: Manifest, bank: TicketBank) -> None:
        identity = bank.backbone.identity
        if identity != head.backbone.identity:
            raise BankError(
                f"bank '{self}' masks backbone {head.backbone.identity[:16]}..., "
                f"the tickets mask {identity[:16]}..."
            )
        if task_config(bank.task) != (head.task.name, head.task.config):
            raise BankError(
                f"bank '{self}' is for {head.task.name} {head.task.config}, "
                f"the tickets are for {task_config(bank.task)}"
            )

    def _base(self, head: Manifest, bank: TicketBank) -> tuple[TicketEntry, ...]:
        """The stored tickets that ``bank`` begins with."""
        if bank.version:
            base = head if head.version == bank.version else self.read(bank.version)
            if base.sha256 != bank.manifest:
                raise BankError(f"the bank to commit was loaded from another bank than '{self}'")
            return base.tickets
        for index, entry in enumerate(head.tickets):
            if index >= len(bank) or bank[index].fingerprint != entry.fingerprint:
                raise BankError(
                    f"bank '{self}' holds {len(head.tickets)} tickets, and ticket {index} "
                    f"('{entry.name}') is not that of the bank to save: a stored ticket never "
                    "changes; load the bank and append to it, or save to another folder"
                )
        return head.tickets

    def _refitted(self, router: Router, head: Manifest, fresh: Sequence[Ticket]) -> Router:
        stored = [load_ticket(self, head, index) for index in range(len(head.tickets))]
        grown = build_router(router.config)
        grown.fit([FeatureMixture(ticket.statistics) for ticket in [*stored, *fresh]])
        return grown

    def _ticket_entry(self, ticket: Ticket, bank: TicketBank) -> TicketEntry:
        sha256, size = self.put(encode_ticket(ticket, bank.backbone.identity))
        return TicketEntry(
            name=ticket.name,
            blob=sha256,
            bytes=size,
            fingerprint=ticket.fingerprint,
            kept=ticket.mask.kept,
        )

    def _router_entry(self, router: Any) -> RouterEntry | None:
        if router is None:
            return None
        sha256, size = self.put(encode_router(router))
        return RouterEntry(name=router.name, blob=sha256, bytes=size)

    def _backbone_entry(self, bank: TicketBank, embed: bool | None) -> BackboneEntry:
        backbone = bank.backbone
        if backbone.compute_identity() != backbone.identity:
            raise BankError(
                f"the weights of backbone '{backbone.name}' have changed since it was made"
            )
        config = backbone_config(backbone)
        if embed is None:
            embed = config is not None and not is_reference(backbone.weights)
        if embed and config is None:
            raise BankError(
                f"backbone '{backbone.name}' is not one that can be built by name, so its weights "
                "cannot be embedded; give backbone= when the bank is loaded"
            )
        blob, size = self.put(encode_backbone(backbone)) if embed else (None, 0)
        return BackboneEntry(
            identity=backbone.identity,
            name=backbone.name,
            config=config,
            blob=blob,
            bytes=size,
            maskable=bank.layout.total,
        )


def _moved(ticket: Ticket, base: int, shift: int) -> Ticket:
    """A ticket with a higher id; a parent among the tickets that move with it moves too."""
    parent = ticket.info.parent
    if parent is not None and parent >= base:
        parent += shift
    info = replace(ticket.info, parent=parent)
    return replace(ticket, id=ticket.id + shift, info=info)
