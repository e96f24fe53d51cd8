"""Exporters by name."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from pydantic import BaseModel

from rtl_continual.errors import BankError, RTLError, unknown_name
from rtl_continual.export._exporter import Exporter
from rtl_continual.export.weights import WeightsExporterConfig
from rtl_continual.registry import ClassRegistry
from rtl_continual.tickets import TicketBank

__all__ = [
    "build_exporter",
    "export_ticket",
    "exporter_config_class",
    "exporter_for",
    "exporter_names",
]

_EXPORTERS: ClassRegistry[Exporter] = ClassRegistry("exporter", Exporter)


def exporter_names() -> tuple[str, ...]:
    """The names of all exporters, sorted."""
    return tuple(_EXPORTERS)


def exporter_config_class(name: str) -> type[BaseModel]:
    """The options of the exporter called ``name``.

    Raises:
        RTLError: if there is no such exporter.
    """
    return _EXPORTERS.config_class(name)


def exporter_for(path: str | Path) -> str:
    """The name of the exporter whose files end as ``path`` does.

    Raises:
        RTLError: if there is none.

    Example:
        >>> exporter_for("sketch.safetensors")
        'weights'
    """
    for name, exporter in _EXPORTERS.items():
        if str(path).endswith(exporter.suffix):
            return name
    known = ", ".join(f"{exporter.suffix} ({name})" for name, exporter in _EXPORTERS.items())
    raise RTLError(f"{path}: no exporter writes such files; name one. Known: {known}")


def build_exporter(config: BaseModel) -> Exporter:
    """An exporter from an instance of its own config class.

    Raises:
        RTLError: if no exporter has such a config.
    """
    return _EXPORTERS.build(config)


def export_ticket(
    bank: TicketBank,
    ticket: int | str,
    path: str | Path,
    config: BaseModel | None = None,
) -> Path:
    """Write one ticket for use without this project: whole, or not at all.

    Args:
        bank: holds the ticket.
        ticket: its id or its name.
        path: a file that is not there yet.
        config: which exporter, and its options; default: ``WeightsExporterConfig()``.

    Returns:
        The path.

    Raises:
        BankError: if there is no such ticket.
        RTLError: if ``path`` is taken or cannot be written, or no exporter has such a config.
    """
    exporter = build_exporter(config or WeightsExporterConfig())
    number = _number(bank, ticket)
    path = Path(path)
    if path.exists():
        raise RTLError(f"{path}: is there already; choose another name")
    try:
        partial = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    except OSError as error:
        raise RTLError(f"{path}: cannot be written: {error.strerror}") from error
    try:
        exporter.export(bank, number, partial / path.name)
        os.rename(partial / path.name, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return path


def _number(bank: TicketBank, ticket: int | str) -> int:
    if isinstance(ticket, str):
        if ticket not in bank.names:
            raise BankError(unknown_name("ticket", ticket, bank.names))
        return bank.names.index(ticket)
    if not 0 <= ticket < len(bank):
        raise BankError(f"no ticket {ticket}; the bank has {len(bank)}")
    return ticket
