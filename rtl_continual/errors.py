"""Every error a user can cause is an :class:`RTLError`: one clear message, exit code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

__all__ = ["BankError", "ConfigError", "DataError", "PluginError", "RTLError", "unknown_name"]


class RTLError(Exception):
    """A mistake the user can mend. The command line prints the message alone and exits with 2."""


class ConfigError(RTLError):
    """One or more problems of a scenario file, all reported at once.

    Args:
        problems: one line each, ``file:line:column: key.path: what is wrong``.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class DataError(RTLError):
    """Data that cannot be used: wrong shape, wrong type, missing file, empty experience."""


class BankError(RTLError):
    """A bank that cannot be opened, extended or used as asked."""


class PluginError(RTLError):
    """A plugin that is missing, broken, duplicated or misused."""


def unknown_name(kind: str, given: str, available: Iterable[str]) -> str:
    """Say that ``given`` names nothing, what exists, and what is nearest.

    Example:
        >>> unknown_name("router", "flatt", ["flat", "prototype"])
        "unknown router 'flatt'; did you mean 'flat'? Available: flat, prototype"
    """
    names = sorted(available)
    near = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    hint = f"; did you mean '{near[0]}'?" if near else "."
    return f"unknown {kind} '{given}'{hint} Available: {', '.join(names) or 'none'}"
