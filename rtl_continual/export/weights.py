"""A ticket's weights as a plain safetensors file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import save_file

from rtl_continual.export._exporter import Exporter
from rtl_continual.export._network import TicketNetwork, describe_ticket
from rtl_continual.tickets import TicketBank

__all__ = ["WeightsExporter", "WeightsExporterConfig"]


class WeightsExporterConfig(BaseModel):
    """Options of the weights exporter."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["weights"] = "weights"
    dtype: Literal["float32", "float16", "bfloat16"] = Field(
        "float32", description="of floating-point tensors"
    )


class WeightsExporter(Exporter):
    """Every weight of a ticket's network, dropped ones as zeros, in one safetensors file.

    The keys are those of :class:`~rtl_continual.export.TicketNetwork`: ``trunk.``, ``body.`` and
    ``head.`` with the network's own names behind, ``mean`` and ``std``. The metadata key
    ``rtl_continual`` holds the facts of :func:`~rtl_continual.export.describe_ticket` as JSON.
    """

    name: ClassVar[str] = "weights"
    suffix: ClassVar[str] = ".safetensors"
    config_class: ClassVar[type[BaseModel]] = WeightsExporterConfig

    def __init__(self, config: WeightsExporterConfig | None = None) -> None:
        self.config = config or WeightsExporterConfig()

    def export(self, bank: TicketBank, ticket_id: int, path: Path) -> None:
        dtype: torch.dtype = getattr(torch, self.config.dtype)
        tensors = {
            name: (tensor.to(dtype) if tensor.is_floating_point() else tensor).cpu().contiguous()
            for name, tensor in TicketNetwork(bank, ticket_id).state_dict().items()
        }
        facts = json.dumps(describe_ticket(bank, ticket_id), sort_keys=True)
        save_file(tensors, path, metadata={"rtl_continual": facts})
