"""Whether a plugin fits the hooks; each misfit is one clear message."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import pluggy

from rtl_continual.errors import PluginError, unknown_name
from rtl_continual.plugins import _hookspecs
from rtl_continual.plugins._hookspecs import API_VERSION
from rtl_continual.registry import Origin

__all__ = ["answer_problem", "check_hooks", "check_version", "hook_names"]


def hook_names() -> tuple[str, ...]:
    """The names of all hooks, sorted.

    Example:
        >>> "choose_router" in hook_names()
        True
    """
    specs = vars(_hookspecs).items()
    return tuple(sorted(n for n, value in specs if hasattr(value, f"{_hookspecs.GROUP}_spec")))


def check_version(plugin: Any, origin: Origin) -> None:
    """Refuse a plugin that says it was made for another version of the hooks.

    Raises:
        PluginError: if so.
    """
    wanted = getattr(plugin, "rtl_api_version", API_VERSION)
    if wanted != API_VERSION:
        advice = "update the plugin" if _older(wanted) else "update rtl-continual"
        raise PluginError(
            f"{origin} was made for version {wanted!r} of the plugin API, this is {API_VERSION}; "
            f"{advice}"
        )


def _older(wanted: Any) -> bool:
    return isinstance(wanted, int) and wanted < API_VERSION


def check_hooks(
    manager: pluggy.PluginManager, plugin: Any, names: Sequence[str], origin: Origin
) -> None:
    """Refuse misspelt hooks, arguments that do not exist, and plugins without a hook.

    Raises:
        PluginError: if there is one.
    """
    if not names:
        raise PluginError(f"{origin} implements no hook; mark its functions with @hookimpl")
    for name in names:
        options = manager.parse_hookimpl_opts(plugin, name)
        hook = (options and options.get("specname")) or name
        if hook not in hook_names():
            if options and options.get("optionalhook"):
                continue
            raise PluginError(f"{origin}: {unknown_name('hook', hook, hook_names())}")
        given, defaults = pluggy._hooks.varnames(getattr(plugin, name))
        known = [*inspect.signature(getattr(_hookspecs, hook)).parameters]
        extra = [argument for argument in (*given, *defaults) if argument not in known]
        if extra:
            takes = f"takes {', '.join(known)}" if known else "takes no arguments"
            raise PluginError(f"{origin}: hook '{hook}' {takes}; got {', '.join(extra)}")


_DECISIONS = {
    "choose_router": ("rtl_continual.routing", "Router"),
    "relax_sparsity": ("rtl_continual.training", "Relaxation"),
}
"""What an answer to a decision hook must be, beside ``None``."""


def answer_problem(hook: str, answer: Any) -> str | None:
    """What is wrong with an answer to a hook, or ``None``."""
    if answer is None or hook not in _DECISIONS:
        return None
    module, name = _DECISIONS[hook]
    if isinstance(answer, getattr(import_module(module), name)):
        return None
    return f"{hook} must return a {module}.{name} or None, got {type(answer).__name__}"
