"""How a run's files are written: whole or not at all, and line by line."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from rtl_continual.errors import RTLError

__all__ = [
    "EventLog",
    "check_keys",
    "plain",
    "read_events",
    "read_json",
    "write_json",
    "write_text",
]


def plain(value: Any) -> Any:
    """JSON values only: arrays become lists, and numbers that are not finite become ``None``.

    Raises:
        TypeError: on anything that has no JSON form.

    Example:
        >>> plain({"a": np.array([1.0, np.nan]), 3: (np.int64(2),)})
        {'a': [1.0, None], '3': [2]}
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic) or hasattr(value, "tolist"):
        return plain(value.tolist())
    raise TypeError(f"{type(value).__name__} has no JSON form")


def write_text(path: Path, text: str) -> None:
    """Write beside the target, flush to disk, then rename: nobody sees half a file."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def write_json(path: Path, value: Any) -> None:
    """Sorted keys, two spaces, no NaN, whole or not at all."""
    text = json.dumps(plain(value), indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    write_text(path, text + "\n")


def read_json(path: Path, keys: Iterable[str] = ()) -> dict[str, Any]:
    """Read an object that :func:`write_json` wrote.

    Args:
        path: the file.
        keys: what the object must have.

    Raises:
        RTLError: if the file is missing or damaged.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RTLError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise RTLError(f"{path}: is damaged ({error}); delete it and run again") from error
    if not isinstance(found, dict):
        raise RTLError(f"{path}: is damaged (no object); delete it and run again")
    check_keys(path, found, keys)
    return found


def check_keys(path: Path, found: Mapping[str, Any], keys: Iterable[str]) -> None:
    """Raise :class:`RTLError` if an object that was read from ``path`` lacks a key."""
    missing = ", ".join(sorted(set(keys) - set(found)))
    if missing:
        raise RTLError(f"{path}: is damaged (without {missing}); delete it and run again")


class EventLog:
    """Appends to ``metrics.jsonl``: one JSON object per line, flushed as it happens.

    A last line that a killed run left unfinished is cut off first.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab+")
        end = self._file.seek(0, os.SEEK_END)
        self._file.seek(0)
        whole = self._file.read().rfind(b"\n") + 1
        if whole != end:
            self._file.truncate(whole)

    def write(self, event: str, **facts: Any) -> None:
        """Append one event, with the time in UTC."""
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        record = {"time": time, "event": event, **plain(facts)}
        self._file.write(json.dumps(record, allow_nan=False, ensure_ascii=False).encode() + b"\n")
        self._file.flush()

    def __enter__(self) -> EventLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()


def read_events(path: Path) -> list[dict[str, Any]]:
    """The events of a run, those of attempts that were cut short left out.

    A unit that ran twice (a killed run that was resumed) counts from its last ``unit_started`` on.
    """
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    events = [
        _event(line, f"{path}:{number}")
        for number, line in enumerate(lines, start=1)
        if line.endswith("\n") and line.strip()
    ]
    last_start = {
        event["unit"]: index
        for index, event in enumerate(events)
        if event["event"] == "unit_started"
    }
    return [e for i, e in enumerate(events) if i >= last_start.get(e.get("unit"), 0)]


def _event(line: str, where: str) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except ValueError:
        event = None
    if not isinstance(event, dict) or "event" not in event:
        raise RTLError(f"{where}: is no event of a run; delete that line")
    return event
