"""Plugins: hooks, the manager that finds and calls them, and what the project itself brings."""

from rtl_continual.plugins._check import hook_names
from rtl_continual.plugins._decorators import (
    register_clusterer,
    register_executor,
    register_exporter,
    register_method,
    register_relaxation_policy,
    register_report_section,
    register_router,
    register_shift_detector,
    register_sparsity_schedule,
    register_task,
)
from rtl_continual.plugins._hookspecs import API_VERSION, hookimpl
from rtl_continual.plugins._manager import (
    Manager,
    Plugin,
    blame,
    get_manager,
    load_plugins,
    registered,
)
from rtl_continual.plugins._skeleton import write_skeleton

__all__ = [
    "API_VERSION",
    "Manager",
    "Plugin",
    "blame",
    "get_manager",
    "hook_names",
    "hookimpl",
    "load_plugins",
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
    "registered",
    "write_skeleton",
]
