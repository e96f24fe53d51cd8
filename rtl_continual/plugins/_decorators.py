"""Registering with a decorator, for notebooks and small scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from rtl_continual.errors import PluginError
from rtl_continual.plugins._manager import get_manager

if TYPE_CHECKING:
    from rtl_continual.routing import Router
    from rtl_continual.tickets import SparsitySchedule

__all__ = ["register_method", "register_router", "register_sparsity_schedule"]

RouterT = TypeVar("RouterT", bound="type[Router]")
ScheduleT = TypeVar("ScheduleT", bound="type[SparsitySchedule]")
MethodT = TypeVar("MethodT", bound=type[Any])


def register_router(router_class: RouterT) -> RouterT:
    """Register a router class under its ``name``.

    Raises:
        PluginError: if it has no name, or another plugin has a router of that name.
    """
    return _register("register_routers", router_class)


def register_sparsity_schedule(schedule_class: ScheduleT) -> ScheduleT:
    """Register a sparsity schedule class under its ``name``.

    Raises:
        PluginError: if it has no name, or another plugin has a schedule of that name.
    """
    return _register("register_sparsity_schedules", schedule_class)


def register_method(method_class: MethodT) -> MethodT:
    """Register a method class under its ``name``.

    Raises:
        PluginError: if it has no name, or another plugin has a method of that name.
    """
    return _register("register_methods", method_class)


ClassT = TypeVar("ClassT", bound=type[Any])


def _register(hook: str, found: ClassT) -> ClassT:
    name = getattr(found, "name", None)
    if not isinstance(name, str):
        raise PluginError(f"{found.__qualname__} needs a class attribute 'name' to be registered")
    get_manager().add_registration(found.__module__, hook, name, found)
    return found
