"""Continual learning with a growable bank of lottery tickets over one frozen backbone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtl_continual.lazy import lazy_exports

if TYPE_CHECKING:
    from rtl_continual.errors import RTLError
    from rtl_continual.store import load_bank
    from rtl_continual.tickets import Prediction, TicketBank

__all__ = ["Prediction", "RTLError", "TicketBank", "__version__", "load_bank"]

__version__ = "0.1.0"

# Loaded on first use, so that `import rtl_continual` and `rtl --help` do not wait for torch.
__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Prediction": "tickets",
        "RTLError": "errors",
        "TicketBank": "tickets",
        "load_bank": "store",
    },
)
