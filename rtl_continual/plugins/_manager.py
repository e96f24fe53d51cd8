"""Finds plugins, checks them, and calls their hooks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any

import pluggy

from rtl_continual import __version__
from rtl_continual.errors import PluginError, RTLError
from rtl_continual.plugins import _hookspecs
from rtl_continual.plugins._blame import describe, frame_of
from rtl_continual.plugins._check import answer_problem, check_hooks, check_version
from rtl_continual.plugins._hookspecs import GROUP
from rtl_continual.plugins._load import import_source
from rtl_continual.registry import Origin

__all__ = ["Manager", "Plugin", "blame", "get_manager", "load_plugins", "registered"]

_log = logging.getLogger(__name__)

BUILT_IN = "built-in"


@dataclass
class Plugin:
    """A loaded plugin.

    Args:
        name: as the manager knows it.
        implementation: the module or object with its hooks.
        origin: where it came from.
        required: whether its mistakes are errors (it was asked for) or reported (it was found).
        registrations: by hook, then by name; a hook is missing until it was asked.
    """

    name: str
    implementation: Any
    origin: Origin
    required: bool
    registrations: dict[str, dict[str, Any]] = field(default_factory=dict)


class Manager:
    """The plugins of a process.

    A new manager knows the built-in plugin alone.

    Example:
        >>> manager = Manager()
        >>> sorted(manager.registered("register_sparsity_schedules"))
        ['cubic']
    """

    def __init__(self) -> None:
        self._pluggy = pluggy.PluginManager(GROUP)
        self._pluggy.add_hookspecs(_hookspecs)
        self._plugins: dict[str, Plugin] = {}
        self._entries: dict[str, dict[str, tuple[Any, Origin]]] = {}
        self.problems: list[str] = []
        """What is wrong with plugins that were found but could not be used."""
        self.strict = False
        """Whether a broken installed plugin is an error."""
        from rtl_continual.plugins import _builtin

        origin = Origin(BUILT_IN, "rtl-continual", __version__, built_in=True)
        self._add(Plugin(BUILT_IN, _builtin, origin, required=True))

    @property
    def hook(self) -> Any:
        """Calls a hook of all plugins: ``manager.hook.run_started(scenario=..., folder=...)``.

        A plugin that raises ends the call with a :class:`PluginError` that names it.
        """
        return self._pluggy.hook

    @property
    def plugins(self) -> tuple[Plugin, ...]:
        """All loaded plugins, in the order in which they were loaded."""
        return tuple(self._plugins.values())

    @property
    def registration_hooks(self) -> tuple[str, ...]:
        """The names of the hooks that register something."""
        return tuple(n for n in sorted(vars(_hookspecs)) if n.startswith("register_"))

    def hooks_of(self, plugin: Plugin) -> tuple[str, ...]:
        """The names of the hooks that a plugin implements, sorted."""
        callers = self._pluggy.get_hookcallers(plugin.implementation) or ()
        return tuple(sorted(caller.name for caller in callers))

    def register(self, plugin: Any, name: str | None = None) -> Plugin:
        """Add a plugin that is at hand: a module, or an object with hook implementations.

        Raises:
            PluginError: if its name is taken or it does not fit the hooks.
        """
        name = name or getattr(plugin, "__name__", None) or type(plugin).__name__
        return self._add(Plugin(name, plugin, Origin(name), required=True))

    def unregister(self, name: str) -> None:
        """Forget a plugin and what it registered.

        Raises:
            PluginError: if there is no such plugin.
        """
        if name not in self._plugins:
            raise PluginError(f"no plugin '{name}'; loaded: {', '.join(self._plugins)}")
        self._pluggy.unregister(self._plugins.pop(name).implementation)
        self._entries.clear()

    def load(self, source: str) -> Plugin:
        """Add a plugin by the name of its module, or by the path of its file (``.py``).

        One that is loaded already is left as it is.

        Raises:
            PluginError: if it cannot be imported or does not fit the hooks.
        """
        module = import_source(source)
        name = module.__name__
        for plugin in self._plugins.values():
            if plugin.implementation is module:
                return plugin
        if name in self._plugins and not _hook_names(self._pluggy, module):
            return self._plugins[name]  # its decorators have registered all it has
        if name in self._plugins:
            self._merge_decorated(name, module)
        return self._add(Plugin(name, module, Origin(name), required=True))

    def _merge_decorated(self, name: str, module: ModuleType) -> None:
        """A module with decorators and hooks is two plugins of which one gets a longer name."""
        decorated = self._plugins.pop(name)
        decorated.name = f"{name} (decorators)"
        self._plugins[decorated.name] = decorated

    def load_entry_points(self) -> None:
        """Add every installed plugin, one by one; what is wrong with one goes to ``problems``."""
        for entry in sorted(entry_points(group=GROUP), key=lambda e: (_owner(e), e.name)):
            distribution = entry.dist
            origin = Origin(
                entry.name,
                distribution.name if distribution else None,
                distribution.version if distribution else None,
            )
            if any(p.origin == origin for p in self._plugins.values()):
                continue
            try:
                plugin = entry.load()
                self._add(Plugin(entry.name, plugin, origin, required=False))
            except PluginError as error:
                self._report(str(error))
            except (Exception, SystemExit) as error:
                self._report(f"{origin} cannot be loaded: {describe(error)}")

    def leave_out(self, hook: str, name: str, error: PluginError) -> None:
        """Report that what an installed plugin registered as ``name`` is of no use.

        Raises:
            PluginError: ``error``, if the plugin was asked for or none may be broken.
        """
        _, origin = self.registered(hook)[name]
        if self.strict or any(p.origin == origin and p.required for p in self._plugins.values()):
            raise error
        self._report(str(error))

    def _report(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)
            _log.warning("left out: %s", problem)

    def _add(self, plugin: Plugin) -> Plugin:
        other = self._plugins.get(plugin.name)
        if other is not None:
            raise PluginError(
                f"two plugins are called '{plugin.name}': {_place(other)} and {_place(plugin)}"
            )
        check_version(plugin.implementation, plugin.origin)
        names = _hook_names(self._pluggy, plugin.implementation)
        check_hooks(self._pluggy, plugin.implementation, names, plugin.origin)
        self._pluggy.register(plugin.implementation, plugin.name)
        self._pluggy.check_pending()
        for caller in self._pluggy.get_hookcallers(plugin.implementation) or ():
            for implementation in caller.get_hookimpls():
                if implementation.plugin is plugin.implementation:
                    # pluggy has no public way to learn whose implementation has raised.
                    implementation.function = _guarded(  # type: ignore[misc]
                        implementation.function,
                        plugin.origin,
                        caller.name,
                        wrapper=implementation.wrapper,
                    )
        self._plugins[plugin.name] = plugin
        self._entries.clear()
        return plugin

    def registered(self, hook: str) -> Mapping[str, tuple[Any, Origin]]:
        """What plugins have registered through one hook, with the plugin of each.

        Raises:
            PluginError: if a plugin that was asked for fails at it, or takes a name that is taken.
        """
        if hook not in self._entries:
            found: dict[str, tuple[Any, Origin]] = {}
            for plugin in list(self._plugins.values()):
                try:
                    self._collect(plugin, hook, found)
                except PluginError as error:
                    if plugin.required:
                        raise
                    plugin.registrations[hook] = {}
                    self._report(str(error))
            self._entries[hook] = found
        return self._entries[hook]

    def _collect(self, plugin: Plugin, hook: str, found: dict[str, tuple[Any, Origin]]) -> None:
        if hook not in plugin.registrations:
            plugin.registrations[hook] = self._ask(plugin, hook)
        stem = hook.removeprefix("register_").replace("_", " ")
        kind = f"{stem[:-3]}y" if stem.endswith("ies") else stem.removesuffix("s")
        for name, value in plugin.registrations[hook].items():
            if name in found:
                other, origin = found[name]
                raise PluginError(
                    f"{kind} '{name}' is registered twice: by {origin} as {_show(other)} "
                    f"and by {plugin.origin} as {_show(value)}"
                )
        for name, value in plugin.registrations[hook].items():
            found[name] = (value, plugin.origin)

    def _ask(self, plugin: Plugin, hook: str) -> dict[str, Any]:
        answers: dict[str, Any] = {}
        for implementation in getattr(self._pluggy.hook, hook).get_hookimpls():
            if implementation.plugin is not plugin.implementation:
                continue
            given = implementation.function()
            if not isinstance(given, Mapping) or not all(isinstance(n, str) for n in given):
                raise PluginError(
                    f"{plugin.origin}: {hook} must return a mapping from names to what it "
                    f"registers, got {type(given).__name__}"
                )
            answers |= given
        return answers

    def add_registration(self, owner: str, hook: str, name: str, value: Any) -> None:
        """Register one thing for the module ``owner``; a decorator's work.

        The same thing defined anew (a notebook's cell run again) replaces the earlier one.

        Raises:
            PluginError: if another plugin has that name.
        """
        plugin = self._plugins.get(owner)
        if plugin is None:
            plugin = Plugin(owner, _Decorated(owner), Origin(owner), required=True)
            self._plugins[owner] = plugin
            self._pluggy.register(plugin.implementation, owner)
        before = dict(plugin.registrations.setdefault(hook, {}))
        plugin.registrations[hook][name] = value
        self._entries.clear()
        try:
            self.registered(hook)
        except PluginError:
            plugin.registrations[hook] = before
            self._entries.clear()
            raise

    def require_all(self) -> None:
        """Ask every plugin for everything.

        Raises:
            PluginError: with all problems found, if there are any.
        """
        for hook in self.registration_hooks:
            self.registered(hook)
        if self.problems:
            raise PluginError("\n".join(self.problems))

    def find_culprit(self, error: BaseException) -> tuple[Origin, str] | None:
        """The plugin that was at work when ``error`` was raised, and where."""
        roots: dict[str, Origin] = {}
        for plugin in self._plugins.values():
            if not plugin.origin.built_in:
                roots |= dict.fromkeys(_modules(plugin), plugin.origin)
        return frame_of(error, roots)


class _Decorated:
    """Stands for a module whose decorators registered something."""

    def __init__(self, module: str) -> None:
        self.__name__ = module


def _modules(plugin: Plugin) -> set[str]:
    """The modules, or packages, that a plugin's code is in."""
    implementation = plugin.implementation
    if isinstance(implementation, (ModuleType, _Decorated)):
        names = {implementation.__name__}
    else:
        names = {type(implementation).__module__}
    for registered_values in plugin.registrations.values():
        for value in registered_values.values():
            build = getattr(value, "build", None)
            for part in (value, build):
                module = getattr(part, "__module__", None)
                if isinstance(part, str):
                    module = part.partition(":")[0]
                if module:
                    names.add(module)
    roots = {n if n == "__main__" else n.partition(".")[0] for n in names}
    return roots - {"rtl_continual"}


def _hook_names(manager: pluggy.PluginManager, plugin: Any) -> list[str]:
    return [name for name in dir(plugin) if manager.parse_hookimpl_opts(plugin, name) is not None]


def _guarded(
    function: Callable[..., Any], origin: Origin, hook: str, *, wrapper: bool
) -> Callable[..., Any]:
    """The same function; what it raises names the plugin."""

    def call(*args: Any) -> Any:
        try:
            answer = function(*args)
        except PluginError:
            raise
        except (Exception, SystemExit) as error:
            raise PluginError(f"{origin} failed in {hook}: {describe(error)}") from error
        problem = answer_problem(hook, answer)
        if problem is not None:
            raise PluginError(f"{origin}: {problem}")
        return answer

    def wrap(*args: Any) -> Generator[Any, Any, Any]:
        try:
            return (yield from function(*args))
        except PluginError:
            raise
        except (Exception, SystemExit) as error:
            raise PluginError(f"{origin} failed in {hook}: {describe(error)}") from error

    return wrap if wrapper else call


def _owner(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else ""


def _place(plugin: Plugin) -> str:
    module = plugin.implementation
    where = getattr(module, "__file__", None) or type(module).__module__
    return f"{plugin.origin} from {where}"


def _show(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    return type(value).__name__


_manager: Manager | None = None


def get_manager() -> Manager:
    """The process's manager; made on first use, with every installed plugin."""
    global _manager
    if _manager is None:
        _manager = Manager()
        _manager.load_entry_points()
    return _manager


def registered(hook: str) -> Mapping[str, tuple[Any, Origin]]:
    """What the process's plugins have registered through one hook."""
    return get_manager().registered(hook)


def blame(error: BaseException) -> BaseException:
    """The same error, or a :class:`PluginError` if it came out of a plugin's code."""
    if isinstance(error, PluginError):
        return error
    culprit = get_manager().find_culprit(error)
    if culprit is None:
        return error
    origin, where = culprit
    text = str(error) if isinstance(error, RTLError) else f"{type(error).__name__}: {error}"
    return PluginError(f"{origin} failed at {where}: {text}")


def load_plugins(sources: Sequence[str] = (), *, strict: bool = False) -> Manager:
    """Load plugins that were asked for, beside those that are installed.

    Args:
        sources: module names and paths of ``.py`` files.
        strict: make a broken installed plugin an error.

    Raises:
        PluginError: if one cannot be loaded.
    """
    manager = get_manager()
    for source in sources:
        manager.load(source)
    if strict:
        manager.strict = True
        manager.require_all()
    return manager
