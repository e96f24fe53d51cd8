"""The built-in plugin: what the project itself brings, registered like anyone else's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rtl_continual.plugins._hookspecs import hookimpl

if TYPE_CHECKING:
    from pydantic import BaseModel

    from rtl_continual.routing import Router
    from rtl_continual.tickets import TicketBank

__all__ = [
    "choose_router",
    "register_backbones",
    "register_clusterers",
    "register_executors",
    "register_exporters",
    "register_methods",
    "register_relaxation_policies",
    "register_routers",
    "register_shift_detectors",
    "register_sparsity_schedules",
    "register_streams",
    "register_tasks",
]


@hookimpl
def register_routers() -> Mapping[str, Any]:
    """The routers of ``rtl_continual.routing``."""
    from rtl_continual.routing import BUILT_IN_ROUTERS

    return BUILT_IN_ROUTERS


@hookimpl
def register_streams() -> Mapping[str, Any]:
    """The streams of ``rtl_continual.streams``."""
    from rtl_continual.streams import BUILT_IN_STREAMS

    return BUILT_IN_STREAMS


@hookimpl
def register_backbones() -> Mapping[str, Any]:
    """GlyphNet and torchvision's networks."""
    from rtl_continual.backbones import BUILT_IN_BACKBONES

    return BUILT_IN_BACKBONES


@hookimpl
def register_methods() -> Mapping[str, str]:
    """Our method, its references, and Avalanche's; as text, for importing Avalanche is slow."""
    methods, baselines = "rtl_continual.runs.methods", "rtl_continual.avalanche.baselines"
    rivals = "rtl_continual.avalanche.rivals"
    return {
        "rtl": f"{methods}.rtl:RTLMethod",
        "rtl_joint": f"{methods}.rtl_joint:RTLJointMethod",
        "single_ticket": f"{methods}.single_ticket:SingleTicketMethod",
        "independent": f"{methods}.independent:IndependentMethod",
        "joint": f"{methods}.joint:JointMethod",
        "linear_probe": f"{methods}.linear_probe:LinearProbeMethod",
        "ncm": f"{methods}.ncm:NCMMethod",
        "ranpac": f"{methods}.ranpac:RanPACMethod",
        "adapters": f"{methods}.adapters:AdaptersMethod",
        "piggyback": f"{methods}.piggyback:PiggybackMethod",
        "supsup": f"{methods}.supsup:SupSupMethod",
        "naive": f"{baselines}:NaiveMethod",
        "replay": f"{baselines}:ReplayMethod",
        "ewc": f"{baselines}:EWCMethod",
        "slda": f"{baselines}:SLDAMethod",
        "der": f"{rivals}:DERMethod",
        "lwf": f"{rivals}:LwFMethod",
    }


@hookimpl
def register_sparsity_schedules() -> Mapping[str, Any]:
    """The schedules of ``rtl_continual.tickets``."""
    from rtl_continual.tickets import BUILT_IN_SCHEDULES

    return BUILT_IN_SCHEDULES


@hookimpl
def register_relaxation_policies() -> Mapping[str, Any]:
    """The relaxation policies of ``rtl_continual.training``."""
    from rtl_continual.training import BUILT_IN_RELAXATION_POLICIES

    return BUILT_IN_RELAXATION_POLICIES


@hookimpl
def register_shift_detectors() -> Mapping[str, Any]:
    """The shift detectors of ``rtl_continual.discovery``."""
    from rtl_continual.discovery import BUILT_IN_DETECTORS

    return BUILT_IN_DETECTORS


@hookimpl
def register_clusterers() -> Mapping[str, Any]:
    """The clusterers of ``rtl_continual.discovery``."""
    from rtl_continual.discovery import BUILT_IN_CLUSTERERS

    return BUILT_IN_CLUSTERERS


@hookimpl
def register_tasks() -> Mapping[str, Any]:
    """The tasks of ``rtl_continual.tasks``."""
    from rtl_continual.tasks import BUILT_IN_TASKS

    return BUILT_IN_TASKS


@hookimpl
def register_executors() -> Mapping[str, Any]:
    """The executors of ``rtl_continual.tickets``."""
    from rtl_continual.tickets import BUILT_IN_EXECUTORS

    return BUILT_IN_EXECUTORS


@hookimpl
def register_exporters() -> Mapping[str, Any]:
    """The exporters of ``rtl_continual.export``; as text, for most commands need none."""
    where = "rtl_continual.export"
    return {"program": f"{where}:ProgramExporter", "weights": f"{where}:WeightsExporter"}


@hookimpl(trylast=True)
def choose_router(bank: TicketBank, config: BaseModel) -> Router:
    """The router that the scenario names."""
    from rtl_continual.routing import build_router

    return build_router(config)
