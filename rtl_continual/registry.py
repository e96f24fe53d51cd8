"""Named things of one kind (routers, streams, backbones ...) as the plugin manager knows them.

Each room keeps one :class:`Registry` for each kind it can use. What is in it comes from plugins,
the built-in one included. Rooms must not import the plugin room, so a registry asks for it by name,
and only when something is looked up: importing a room loads no plugin.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from rtl_continual.errors import PluginError, RTLError, unknown_name

__all__ = [
    "ClassRegistry",
    "NamedSection",
    "Origin",
    "Registry",
    "config_problem",
    "hooks",
    "sound",
]

T = TypeVar("T")

_PROVIDER = "rtl_continual.plugins"


@dataclass(frozen=True)
class Origin:
    """Which plugin something came with.

    Args:
        plugin: the plugin's name.
        distribution: the installed distribution it belongs to, or ``None``.
        version: that distribution's version, or ``None``.
        built_in: whether it is this project's own.

    Example:
        >>> print(Origin("energy", "rtl-router-energy", "0.1.0"))
        plugin 'energy' (rtl-router-energy 0.1.0)
    """

    plugin: str
    distribution: str | None = None
    version: str | None = None
    built_in: bool = False

    def __str__(self) -> str:
        source = f" ({self.distribution} {self.version})" if self.distribution else ""
        return f"plugin '{self.plugin}'{source}"


class Registry(Mapping[str, T], Generic[T]):
    """What plugins have registered of one kind, by name.

    Args:
        kind: a noun for messages, such as ``router``; ``register_routers`` is then the hook.
        check: says what is wrong with a registered value of this name, or ``None``.
    """

    def __init__(self, kind: str, check: Callable[[str, Any], str | None]) -> None:
        self.kind = kind
        stem = kind.replace(" ", "_")
        self.hook = f"register_{stem[:-1]}ies" if stem.endswith("y") else f"register_{stem}s"
        self._check = check
        self._checked: dict[str, tuple[Any, T]] = {}

    def _entries(self) -> Mapping[str, tuple[Any, Origin]]:
        entries: Mapping[str, tuple[Any, Origin]] = import_module(_PROVIDER).registered(self.hook)
        return entries

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries()))

    def __len__(self) -> int:
        return len(self._entries())

    def __contains__(self, name: object) -> bool:
        return name in self._entries()

    def __getitem__(self, name: str) -> T:
        entries = self._entries()
        if name not in entries:
            raise KeyError(name)
        value, origin = entries[name]
        known = self._checked.get(name)
        if known is None or known[0] is not value:
            known = (value, self._resolve(name, value, origin))
            self._checked[name] = known
        return known[1]

    def _resolve(self, name: str, value: Any, origin: Origin) -> T:
        found = value
        if isinstance(value, str):
            module, _, attribute = value.partition(":")
            try:
                found = getattr(import_module(module), attribute)
            except (Exception, SystemExit) as error:
                raise PluginError(
                    f"{origin} registers {self.kind} '{name}' as '{value}', which cannot be "
                    f"imported: {type(error).__name__}: {error}"
                ) from error
        problem = self._check(name, found)
        if problem is not None:
            raise PluginError(f"{origin} registers {self.kind} '{name}': {problem}")
        return found

    def find(self, name: str) -> T:
        """What is registered as ``name``.

        Raises:
            RTLError: if there is no such name; the message has the nearest one.
        """
        if name not in self:
            raise RTLError(unknown_name(self.kind, name, self))
        return self[name]

    def origin(self, name: str) -> Origin | None:
        """Which plugin registered ``name``; ``None`` if none did."""
        entry = self._entries().get(name)
        return None if entry is None else entry[1]


class ClassRegistry(Registry[type[T]], Generic[T]):
    """Classes of one kind, each built from its own options alone: ``Class(config)``.

    Such a class has the attributes ``name``, as it is registered, and ``config_class``.

    Args:
        kind: a noun for messages, such as ``router``; ``register_routers`` is then the hook.
        base: what every class of this kind is derived from.
    """

    def __init__(self, kind: str, base: type[Any]) -> None:
        super().__init__(kind, self._problem)
        self._base = base

    def _problem(self, name: str, value: Any) -> str | None:
        if not (isinstance(value, type) and issubclass(value, self._base)):
            return f"must be a subclass of {_public_name(self._base)}, got {value!r}"
        missing = sorted(getattr(value, "__abstractmethods__", ()))
        if missing:
            return f"{value.__name__} lacks {', '.join(missing)}"
        if getattr(value, "name", None) != name:
            return f"{value.__name__}.name must be '{name}', got {getattr(value, 'name', None)!r}"
        return config_problem(name, getattr(value, "config_class", None))

    def config_class(self, name: str) -> type[BaseModel]:
        """The options of what is called ``name``.

        Raises:
            RTLError: if there is no such name; the message has the nearest one.
        """
        found: Any = self.find(name)
        config_class: type[BaseModel] = found.config_class
        return config_class

    def build(self, config: BaseModel) -> T:
        """Build what ``config`` is the options of.

        Raises:
            RTLError: if nothing has such a config.
        """
        name = getattr(config, "name", "")
        if name in self and type(config) is self.config_class(name):
            build: Any = self[name]
            return build(config)
        known = [self.config_class(name).__name__ for name in self]
        raise RTLError(unknown_name(f"{self.kind} config", type(config).__name__, known))


def _public_name(value: type[Any]) -> str:
    """Where a class is imported from: without the private modules in its path."""
    path = [part for part in value.__module__.split(".") if not part.startswith("_")]
    return ".".join([*path, value.__qualname__])


def sound(hook: str, names: Iterable[str], find: Callable[[str], T]) -> list[tuple[str, T]]:
    """What is found under each name, without what installed plugins have registered wrongly.

    That is reported as other broken plugins are, so that one of them does not stop the rest.

    Args:
        hook: through which the names were registered.
        names: to look up.
        find: looks one up.

    Raises:
        PluginError: if a plugin that was asked for has registered something wrongly.
    """
    found = []
    for name in names:
        try:
            found.append((name, find(name)))
        except PluginError as error:
            import_module(_PROVIDER).get_manager().leave_out(hook, name, error)
    return found


def hooks() -> Any:
    """Calls the hooks of all plugins, for rooms that must not import the plugin room.

    ``hooks().relax_sparsity(report=report)`` is an example; see ``docs/plugins.md``.
    """
    return import_module(_PROVIDER).get_manager().hook


def config_problem(name: str, config_class: Any) -> str | None:
    """What keeps a class from being the section of the thing called ``name``, or ``None``."""
    if not (isinstance(config_class, type) and issubclass(config_class, BaseModel)):
        return "its config_class must be a pydantic model"
    label = config_class.__name__
    field = config_class.model_fields.get("name")
    if field is None or field.default != name:
        return f"{label} needs a field 'name' whose default is '{name}'"
    if config_class.model_config.get("extra") != "forbid":
        return f"{label} must forbid unknown keys: model_config = ConfigDict(extra='forbid')"
    if not config_class.model_config.get("frozen"):
        return f"{label} must be frozen: model_config = ConfigDict(frozen=True)"
    missing = [key for key, field in config_class.model_fields.items() if not field.description]
    missing = [key for key in missing if key != "name"]
    if missing:
        return f"{label} must describe its options: Field(..., description=...) for {missing}"
    return None


class NamedSection:
    """Annotates a field that holds the options of one entry of a registry.

    In a file it is a section with the key ``name``; the options are those of the entry's own
    ``config_class``.

    Args:
        registry: where the names are.
        default: the name where a section has none; without it a name must be given.
    """

    def __init__(self, registry: Registry[Any], default: str | None = None) -> None:
        self.registry = registry
        self.default = default

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Checks a mapping against the model that its name stands for."""
        return core_schema.with_info_plain_validator_function(
            self._validate, serialization=core_schema.plain_serializer_function_ser_schema(_dump)
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """One alternative for each registered name."""
        options = []
        for name, entry in sound(self.registry.hook, self.registry, self.registry.find):
            part = entry.config_class.model_json_schema()
            part["properties"]["name"] = {"const": name}
            if name != self.default:
                part["required"] = sorted({*part.get("required", []), "name"})
            options.append(part)
        return options[0] if len(options) == 1 else {"oneOf": options}

    def _validate(self, value: Any, info: core_schema.ValidationInfo) -> BaseModel:
        if isinstance(value, BaseModel):
            return value
        if not isinstance(value, Mapping):
            raise PydanticCustomError("model_type", "must be a section (keys and values)")
        config_class = self.model_of(value)
        if config_class is None:
            name = value.get("name", self.default)
            if name is None:
                raise ValueError(f"needs the key name: {', '.join(sorted(self.registry))}")
            raise ValueError(unknown_name(self.registry.kind, str(name), self.registry))
        if info.mode == "json":  # what a file says is not guessed at: text is no number
            return config_class.model_validate_json(json.dumps(value), strict=True)
        return config_class.model_validate(value)

    def model_of(self, value: Mapping[str, Any]) -> type[BaseModel] | None:
        """The model of a section's options, ``None`` if its name stands for nothing."""
        name = value.get("name", self.default)
        if not isinstance(name, str) or name not in self.registry:
            return None
        found: type[BaseModel] = self.registry[name].config_class
        return found


def _dump(value: BaseModel) -> dict[str, Any]:
    return value.model_dump(mode="json")
