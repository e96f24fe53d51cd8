"""One ticket's network by itself, in a form that other programs read."""

from rtl_continual.export._exporter import Exporter
from rtl_continual.export._network import TicketNetwork, describe_ticket
from rtl_continual.export._registry import (
    build_exporter,
    export_ticket,
    exporter_config_class,
    exporter_for,
    exporter_names,
)
from rtl_continual.export.program import ProgramExporter, ProgramExporterConfig
from rtl_continual.export.weights import WeightsExporter, WeightsExporterConfig

__all__ = [
    "Exporter",
    "ProgramExporter",
    "ProgramExporterConfig",
    "TicketNetwork",
    "WeightsExporter",
    "WeightsExporterConfig",
    "build_exporter",
    "describe_ticket",
    "export_ticket",
    "exporter_config_class",
    "exporter_for",
    "exporter_names",
]
