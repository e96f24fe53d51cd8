"""Checks options against their pydantic model and words every problem for people."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from rtl_continual.documents import Document, KeyPath
from rtl_continual.errors import ConfigError
from rtl_continual.registry import NamedSection

__all__ = ["check_section", "load_options", "shown", "unknown_key"]

ModelT = TypeVar("ModelT", bound=BaseModel)

_WORDS = {
    "bool_type": "must be true or false",
    "dict_type": "must be a section (keys and values)",
    "finite_number": "must be a finite number",
    "float_type": "must be a number",
    "greater_than": "must be above {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "int_from_float": "must be a whole number",
    "int_type": "must be a whole number",
    "less_than": "must be below {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "list_type": "must be a list",
    "model_type": "must be a section (keys and values)",
    "none_required": "must be null",
    "string_pattern_mismatch": "must match {pattern}",
    "string_type": "must be text",
    "too_long": "must have at most {max_length} items",
    "too_short": "must have at least {min_length} items",
    "tuple_type": "must be a list",
}

_COMPLETE = {"missing", "extra_forbidden", "value_error", "assertion_error"}
"""Messages that need no "got ..." after them; a model's own validators say what was given."""


def shown(value: Any) -> str:
    """A value as a message shows it, short."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def unknown_key(key: str, available: Iterable[str]) -> str:
    """Say that a section has no such key, what it has, and what is nearest."""
    names = sorted(available)
    near = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    hint = f"; did you mean '{near[0]}'?" if near else "."
    return f"unknown key{hint} Available: {', '.join(names) or 'none'}"


def load_options(kind: str, model: type[ModelT], overrides: Sequence[str] = ()) -> ModelT:
    """Options from the command line alone.

    Args:
        kind: what they are options of, for messages.
        model: the options.
        overrides: ``key.path=value`` each, as ``--set`` takes them.

    Raises:
        ConfigError: with every problem of the overrides.
    """
    name = model.model_fields.get("name")
    values = {} if name is None else {"name": name.default}
    document = Document(values, {(): " ".join([kind, *values.values()])})
    for assignment in overrides:
        try:
            document.set(assignment)
        except ConfigError as error:
            document.problems += error.problems
    options, problems = check_section(model, document.values, (), document)
    if options is None or document.problems:
        raise ConfigError([*document.problems, *problems])
    return options


def check_section(
    model: type[ModelT],
    values: Any,
    path: KeyPath,
    document: Document,
    *,
    also: Iterable[str] = (),
) -> tuple[ModelT | None, list[str]]:
    """Validate one section, without guessing: text is no number, a number is no truth value.

    Args:
        model: the section's model.
        values: what was given; ``None`` means all defaults.
        path: where the section stands.
        document: knows the places in the file.
        also: keys that exist beside the model's, for the message on unknown keys.

    Returns:
        The section, or ``None`` and the problems.
    """
    given = {} if values is None else values
    try:
        return model.model_validate_json(json.dumps(given), strict=True), []
    except ValidationError as error:
        return None, _lines(error, given, path, document, model, also)


def _lines(
    error: ValidationError,
    values: Any,
    path: KeyPath,
    document: Document,
    model: type[BaseModel],
    also: Iterable[str],
) -> list[str]:
    """One line per key; what the members of a union say of one value is joined by "or"."""
    found: dict[KeyPath, tuple[list[str], str]] = {}
    for detail in error.errors(include_url=False):
        where = _clean(detail["loc"], values, detail["type"] == "missing")
        given = "" if detail["type"] in _COMPLETE else f", got {shown(detail['input'])}"
        messages, _ = found.setdefault(where, ([], given))
        keys = [*model.model_fields, *also] if len(where) == 1 else _keys(model, values, where)
        message = _words(detail, keys)
        if message not in messages:
            messages.append(message)
    return [
        document.problem(
            (*path, *where), " or ".join(messages).replace(" or must ", " or ") + given
        )
        for where, (messages, given) in found.items()
    ]


def _keys(model: type[BaseModel] | None, values: Any, where: KeyPath) -> list[str]:
    """The keys that a section within a section may have, as far as its model is known."""
    for part in where[:-1]:
        field = None if model is None else model.model_fields.get(str(part))
        values = values.get(part) if isinstance(values, Mapping) else None
        if field is None or not isinstance(values, Mapping):
            return []
        named = [extra for extra in field.metadata if isinstance(extra, NamedSection)]
        kinds = [field.annotation, *get_args(field.annotation)]
        plain = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        model = named[0].model_of(values) if named else next(iter(plain), None)
    return [] if model is None else list(model.model_fields)


def _clean(loc: tuple[str | int, ...], values: Any, missing: bool) -> KeyPath:
    """Drop the names of union members that pydantic puts into a location."""
    where: list[str | int] = []
    for index, part in enumerate(loc):
        absent = missing and index == len(loc) - 1
        inside = (isinstance(values, Mapping) and part in values) or (
            isinstance(values, list) and isinstance(part, int)
        )
        if inside and not absent:
            values = values[part]
        if inside or absent:
            where.append(part)
    return tuple(where)


def _words(detail: Mapping[str, Any], names: list[str]) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        return unknown_key(str(detail["loc"][-1]), names)
    if kind == "literal_error":
        expected = str(context["expected"]).replace("'", "")
        near = difflib.get_close_matches(
            str(detail["input"]), expected.replace(" or ", ", ").split(", "), n=1, cutoff=0.7
        )
        return f"must be {expected}" + (f" (did you mean '{near[0]}'?)" if near else "")
    if kind in ("value_error", "assertion_error"):
        return str(context["error"])
    words = _WORDS.get(kind)
    return words.format(**context) if words else str(detail["msg"]).lower()
