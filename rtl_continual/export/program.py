"""A ticket's network as a program of ``torch.export``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from rtl_continual.errors import RTLError
from rtl_continual.export._exporter import Exporter
from rtl_continual.export._network import TicketNetwork, describe_ticket
from rtl_continual.tickets import TicketBank

__all__ = ["ProgramExporter", "ProgramExporterConfig"]


class ProgramExporterConfig(BaseModel):
    """Options of the program exporter."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["program"] = "program"
    images: Literal["uint8", "float32"] = Field(
        "uint8", description="what the program takes: uint8 in 0..255, or float32 in 0..1"
    )
    size: int | None = Field(
        None,
        ge=1,
        description="height and width of the images in pixels; needed where the backbone takes any",
    )


class ProgramExporter(Exporter):
    """Structure and weights: ``torch.export.load(path).module()(images)`` needs torch alone.

    The batch may have any size. A program runs on a processor, wherever the bank is;
    ``torch.export.passes.move_to_device_pass`` moves it. The file ``ticket.json`` inside it holds
    the facts of :func:`~rtl_continual.export.describe_ticket`.
    """

    name: ClassVar[str] = "program"
    suffix: ClassVar[str] = ".pt2"
    config_class: ClassVar[type[BaseModel]] = ProgramExporterConfig

    def __init__(self, config: ProgramExporterConfig | None = None) -> None:
        self.config = config or ProgramExporterConfig()

    def export(self, bank: TicketBank, ticket_id: int, path: Path) -> None:
        spec = bank.backbone.input_spec
        side = self.config.size
        height, width = spec.size or (side or 0, side or 0)
        if not height:
            raise RTLError(f"backbone '{bank.backbone.name}' takes images of any size: set size")
        if side is not None and (height, width) != (side, side):
            raise RTLError(f"the backbone takes {height}x{width} pixels, got size {side}")
        images = torch.zeros(
            (2, spec.channels, height, width), dtype=getattr(torch, self.config.images)
        )
        # A program runs where it was captured, and CUDA's kernels put bounds on the batch.
        program = torch.export.export(
            TicketNetwork(bank, ticket_id).cpu(),
            (images,),
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
        )
        facts = json.dumps(describe_ticket(bank, ticket_id), sort_keys=True)
        with path.open("wb") as file:
            torch.export.save(program, file, extra_files={"ticket.json": facts})
