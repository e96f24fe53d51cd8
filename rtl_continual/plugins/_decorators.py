"""Registering with a decorator, for notebooks and small scripts."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

from rtl_continual.errors import PluginError
from rtl_continual.plugins._manager import get_manager

__all__ = [
    "register_clusterer",
    "register_executor",
    "register_exporter",
    "register_method",
    "register_relaxation_policy",
    "register_report_section",
    "register_router",
    "register_shift_detector",
    "register_sparsity_schedule",
    "register_task",
]

ClassT = TypeVar("ClassT", bound=type[Any])


class Registers(Protocol):
    """A decorator for classes; gives the class back."""

    def __call__(self, found: ClassT, /) -> ClassT: ...


def _decorator(kind: str, hook: str) -> Registers:
    def register(found: ClassT) -> ClassT:
        name = getattr(found, "name", None)
        if not isinstance(name, str):
            raise PluginError(
                f"{found.__qualname__} needs a class attribute 'name' to be registered"
            )
        get_manager().add_registration(found.__module__, hook, name, found)
        return found

    register.__name__ = register.__qualname__ = f"register_{kind}"
    register.__doc__ = f"""Register a class under its ``name``, as the hook ``{hook}`` does.

    The same class defined anew (a notebook's cell run again) replaces the earlier one.

    Raises:
        PluginError: if it has no name, or another plugin has that name.
    """
    return register


register_clusterer = _decorator("clusterer", "register_clusterers")
register_executor = _decorator("executor", "register_executors")
register_exporter = _decorator("exporter", "register_exporters")
register_method = _decorator("method", "register_methods")
register_relaxation_policy = _decorator("relaxation_policy", "register_relaxation_policies")
register_report_section = _decorator("report_section", "register_report_sections")
register_router = _decorator("router", "register_routers")
register_shift_detector = _decorator("shift_detector", "register_shift_detectors")
register_sparsity_schedule = _decorator("sparsity_schedule", "register_sparsity_schedules")
register_task = _decorator("task", "register_tasks")
