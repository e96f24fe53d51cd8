"""From manifests and blobs to a bank in memory."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from rtl_continual.backbones import Backbone
from rtl_continual.errors import BankError
from rtl_continual.routing import FeatureMixture, Router, build_router
from rtl_continual.store._codec import decode_ticket
from rtl_continual.store._files import BankFiles
from rtl_continual.store._manifest import Manifest
from rtl_continual.store._parts import (
    build_referenced,
    build_task,
    decode_backbone,
    decode_router,
)
from rtl_continual.store._stored import Opened, StoredBank
from rtl_continual.tickets import LazyTickets, MaskLayout, Ticket

__all__ = ["load_backbone", "load_router", "load_ticket", "load_version"]


def load_version(
    files: BankFiles,
    manifest: Manifest,
    opened: Opened,
    backbone: Backbone | None,
) -> StoredBank:
    """See :meth:`BankStore.load`."""
    router, cache_bytes, device = opened.router, opened.cache_bytes, opened.device
    backbone = load_backbone(files, manifest, backbone)
    if device is not None:
        backbone.to(device)
    layout = MaskLayout.of(backbone.body)
    if layout.total != manifest.backbone.maskable:
        raise BankError(
            f"bank '{files}' masks {manifest.backbone.maskable} weights, "
            f"the backbone has {layout.total}"
        )
    owner: list[weakref.ref[StoredBank]] = []

    def checked(index: int) -> Ticket:
        ticket = load_ticket(files, manifest, index, layout)
        bank = owner[0]() if owner else None
        if bank is not None:
            bank.check(ticket)
        return ticket

    tickets = LazyTickets(
        [entry.name for entry in manifest.tickets], checked, cache_bytes=cache_bytes // 8
    )
    bank = StoredBank(
        backbone,
        build_task(manifest.task.name, manifest.task.config),
        load_router(files, manifest, tickets) if router is None else _fresh(router, tickets),
        tickets=tickets,
        cache_bytes=cache_bytes - cache_bytes // 8,
    )
    owner.append(weakref.ref(bank))
    bank.opened = opened
    bank.version, bank.manifest = manifest.version, manifest.sha256
    return bank


def load_ticket(
    files: BankFiles, manifest: Manifest, index: int, layout: MaskLayout | None = None
) -> Ticket:
    """One ticket, checked against its hash, the bank's backbone identity, and a layout."""
    entry = manifest.tickets[index]
    what = f"ticket {index} '{entry.name}'"
    data = files.blob(entry.blob, entry.bytes, what)
    ticket = decode_ticket(data, index, what, layout=layout, identity=manifest.backbone.identity)
    if ticket.name != entry.name:
        raise BankError(f"{what} is named '{ticket.name}' in its blob")
    return ticket


def load_router(files: BankFiles, manifest: Manifest, tickets: LazyTickets) -> Router | None:
    """The router, with its tickets' mixtures at hand should it grow."""
    entry = manifest.router
    if entry is None:
        return None
    router = decode_router(files.blob(entry.blob, entry.bytes, "the router"), "the router")
    if router.num_tickets > len(manifest.tickets):
        raise BankError(
            f"the router of bank '{files}' knows {router.num_tickets} tickets, "
            f"the bank has {len(manifest.tickets)}"
        )
    if hasattr(router, "attach") and router.num_tickets == len(manifest.tickets):
        router.attach(_Mixtures(tickets))
    return router


def _fresh(config: BaseModel, tickets: LazyTickets) -> Router:
    """Another router than the stored one, fitted to the stored tickets."""
    router = build_router(config)
    router.fit(list(_Mixtures(tickets)))
    return router


def load_backbone(files: BankFiles, manifest: Manifest, given: Backbone | None = None) -> Backbone:
    """The bank's backbone: the one given, the embedded one, or the one referred to.

    Raises:
        BankError: if its identity is not the one that the tickets were trained over.
    """
    entry = manifest.backbone
    backbone, origin = given, "the backbone given"
    if backbone is None and entry.config is None:
        raise BankError(
            f"bank '{files}' masks a network of its owner's ('{entry.name}'): give it as backbone="
        )
    if backbone is None and entry.blob is not None:
        assert entry.config is not None
        data = files.blob(entry.blob, entry.bytes, "the backbone")
        backbone, origin = decode_backbone(data, entry.config, "the backbone"), "its own blob"
    if backbone is None:
        assert entry.config is not None
        backbone = build_referenced(entry.config)
        origin = f"'{entry.name}' with weights '{entry.config['weights']}'"
    if backbone.identity != entry.identity:
        raise BankError(
            f"bank '{files}' needs the backbone {entry.identity[:16]}... ('{entry.name}'), "
            f"but {origin} is {backbone.identity[:16]}...: weights, split or taps differ"
        )
    return backbone


class _Mixtures(Sequence[FeatureMixture]):
    """The feature mixtures of tickets, made when they are looked at."""

    def __init__(self, tickets: LazyTickets) -> None:
        self._tickets = tickets

    def __len__(self) -> int:
        return len(self._tickets)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        return FeatureMixture(self._tickets.get(index).statistics)
