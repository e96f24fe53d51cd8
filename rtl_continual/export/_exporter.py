"""The contract of every exporter."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel

from rtl_continual.tickets import TicketBank

__all__ = ["Exporter"]


class Exporter(ABC):
    """Writes one ticket of a bank for use without this project.

    An exporter is built from its options alone, ``ExporterClass(config)``, and keeps no state.
    ``suffix`` is what its files' names end in.
    """

    name: ClassVar[str]
    suffix: ClassVar[str]
    config_class: ClassVar[type[BaseModel]]
    config: Any

    @abstractmethod
    def export(self, bank: TicketBank, ticket_id: int, path: Path) -> None:
        """Write a ticket.

        Args:
            bank: holds the ticket; is not changed.
            ticket_id: a ticket that exists.
            path: where to; there is nothing yet. What is left here by an exporter that raises is
                removed.
        """
