"""Saving and loading banks in one call."""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import BaseModel

from rtl_continual.backbones import Backbone
from rtl_continual.store._manifest import Manifest
from rtl_continual.store._storage import open_storage
from rtl_continual.store._store import BankStore
from rtl_continual.store._stored import StoredBank
from rtl_continual.tickets import TicketBank

__all__ = ["load_bank", "save_bank"]


def save_bank(
    bank: TicketBank,
    path: str | Path,
    *,
    message: str = "",
    embed_backbone: bool | None = None,
) -> Manifest:
    """Store a bank: a new one in a new or empty folder, or what is new of it in its own.

    Args:
        bank: the bank.
        path: its folder, or an address such as ``s3://bucket/folder``.
        message: kept with the version.
        embed_backbone: store the backbone's weights too; ``None`` does so for weights that
            cannot be had again from their name. For a new bank alone.

    Returns:
        The manifest of the version that now holds the bank.

    Raises:
        BankError: if the folder holds other tickets, or cannot be written.

    Example:
        >>> import tempfile
        >>> from rtl_continual.backbones import build_backbone
        >>> from rtl_continual.tasks import Classification
        >>> bank = TicketBank(build_backbone("glyphnet", weights="random:0"), Classification(10))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     version = save_bank(bank, folder).version
        ...     len(load_bank(folder)), version
        (0, 1)
    """
    if BankStore(open_storage(path)).versions():
        return BankStore.open(path).commit(bank, message=message)
    return BankStore.create(path, bank, message=message, embed_backbone=embed_backbone).read()


def load_bank(
    path: str | Path,
    version: int | None = None,
    tag: str | None = None,
    *,
    backbone: Backbone | None = None,
    router: BaseModel | None = None,
    cache_bytes: int = 256 * 2**20,
    device: str | torch.device | None = None,
) -> StoredBank:
    """Open a stored bank, ready to predict. Tickets are read when they are first used.

    Args:
        path: the bank's folder, or an address such as ``s3://bucket/folder``.
        version: the version's number; by default the newest, which ``reload()`` then follows.
        tag: the version that this tag names; ``reload()`` follows the tag.
        backbone: use this one, if it is the right one; by default it is built from the bank's
            reference or embedded weights.
        router: options of another router than the stored one, such as ``FlatRouterConfig()``; it
            is fitted to the stored tickets.
        cache_bytes: memory for tickets, least recently used out first.
        device: where to predict.

    Raises:
        BankError: if there is no such bank, version or tag, or something in it is damaged.
    """
    return BankStore.open(path).load(
        version,
        tag=tag,
        backbone=backbone,
        router=router,
        cache_bytes=cache_bytes,
        device=device,
    )
