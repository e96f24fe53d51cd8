"""Continual learning with a growable bank of lottery tickets over one frozen backbone."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rtl_continual.errors import RTLError
    from rtl_continual.store import load_bank
    from rtl_continual.tickets import Prediction, TicketBank

__all__ = ["Prediction", "RTLError", "TicketBank", "__version__", "load_bank"]

__version__ = "0.1.0"

# Loaded on first use, so that `import rtl_continual` and `rtl --help` do not wait for torch.
_EXPORTS = {
    "Prediction": "rtl_continual.tickets",
    "RTLError": "rtl_continual.errors",
    "TicketBank": "rtl_continual.tickets",
    "load_bank": "rtl_continual.store",
}


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
