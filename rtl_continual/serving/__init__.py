"""Serving a bank: requests in batches, a small HTTP server, new versions without a gap."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtl_continual.lazy import lazy_exports

if TYPE_CHECKING:
    from rtl_continual.serving._command import serve_command
    from rtl_continual.serving._config import ServeConfig
    from rtl_continual.serving._http import create_app
    from rtl_continual.serving._service import Answer, Answered, OverloadedError, Service

__all__ = [
    "Answer",
    "Answered",
    "OverloadedError",
    "ServeConfig",
    "Service",
    "create_app",
    "serve_command",
]

# Loaded on first use: `rtl --help` lists the command without torch and without FastAPI.
__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Answer": "_service",
        "Answered": "_service",
        "OverloadedError": "_service",
        "ServeConfig": "_config",
        "Service": "_service",
        "create_app": "_http",
        "serve_command": "_command",
    },
)
