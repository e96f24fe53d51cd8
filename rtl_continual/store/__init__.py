"""The bank on disk: codec, atomic commits, proofs, history and rollback."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtl_continual.lazy import lazy_exports

if TYPE_CHECKING:
    from rtl_continual.store._add_config import AddConfig
    from rtl_continual.store._add_trial import Trial
    from rtl_continual.store._addition import Addition, Candidate
    from rtl_continual.store._commands import bank_app
    from rtl_continual.store._images import decode_image, image_files, read_images
    from rtl_continual.store._manifest import FORMAT_VERSION, Manifest
    from rtl_continual.store._open import load_bank, save_bank
    from rtl_continual.store._replay import Change, Replay, replay
    from rtl_continual.store._store import BankStore
    from rtl_continual.store._stored import StoredBank
    from rtl_continual.store._verify import VerifyReport

__all__ = [
    "FORMAT_VERSION",
    "AddConfig",
    "Addition",
    "BankStore",
    "Candidate",
    "Change",
    "Manifest",
    "Replay",
    "StoredBank",
    "Trial",
    "VerifyReport",
    "bank_app",
    "decode_image",
    "image_files",
    "load_bank",
    "read_images",
    "replay",
    "save_bank",
]

# Loaded on first use: the commands of this room are listed by `rtl --help`, without torch.
__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "FORMAT_VERSION": "_manifest",
        "AddConfig": "_add_config",
        "Addition": "_addition",
        "BankStore": "_store",
        "Candidate": "_addition",
        "Change": "_replay",
        "Manifest": "_manifest",
        "Replay": "_replay",
        "StoredBank": "_stored",
        "Trial": "_add_trial",
        "VerifyReport": "_verify",
        "bank_app": "_commands",
        "decode_image": "_images",
        "image_files": "_images",
        "load_bank": "_open",
        "read_images": "_images",
        "replay": "_replay",
        "save_bank": "_open",
    },
)
