"""The bank on disk: codec, atomic commits, proofs, history and rollback."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rtl_continual.store._manifest import FORMAT_VERSION, Manifest
    from rtl_continual.store._open import load_bank, save_bank
    from rtl_continual.store._store import BankStore

__all__ = ["FORMAT_VERSION", "BankStore", "Manifest", "load_bank", "save_bank"]

# Loaded on first use: the commands of this room are listed by `rtl --help`, without torch.
_EXPORTS = {
    "FORMAT_VERSION": "_manifest",
    "BankStore": "_store",
    "Manifest": "_manifest",
    "load_bank": "_open",
    "save_bank": "_open",
}


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
