"""Begins a new plugin package."""

from __future__ import annotations

import re
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from rtl_continual import __version__
from rtl_continual.errors import PluginError, unknown_name

__all__ = ["KINDS", "write_skeleton"]

_USES = {
    "backbone": "`backbone: {name: @NAME@}` in a scenario.",
    "clusterer": "`discovery: {clusterer: {name: @NAME@}}` in a scenario.",
    "executor": "`executor: {name: @NAME@}` in a scenario.",
    "exporter": "`rtl export BANK FILE --ticket 0 --format @NAME@`.",
    "relaxation-policy": "`tickets: {collapse: {policy: {name: @NAME@}}}` in a scenario.",
    "report-section": "every report of a run has it while the package is installed.",
    "router": "`router: {name: @NAME@}` in a scenario.",
    "shift-detector": "`discovery: {detector: {name: @NAME@}}` in a scenario.",
    "sparsity-schedule": "`tickets: {schedule: {name: @NAME@}}` in a scenario.",
    "stream": "`stream: {name: @NAME@}` in a scenario.",
    "task": "`task: {name: @NAME@}` in a scenario.",
}
"""The kinds of plugin there is a beginning for, and how one is used."""

KINDS = tuple(_USES)

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


def write_skeleton(name: str, kind: str, folder: Path | None = None) -> tuple[Path, list[Path]]:
    """Write a package whose tests pass.

    Args:
        name: of the distribution, or what comes after ``rtl-<kind>-`` in it.
        kind: one of ``KINDS``.
        folder: where to; by default a folder with the distribution's name, here.

    Returns:
        The folder, and the files in it.

    Raises:
        PluginError: if the name or the kind does not do, or the folder is not empty.
    """
    if kind not in KINDS:
        raise PluginError(unknown_name("kind of plugin", kind, KINDS))
    if not _NAME.fullmatch(name):
        raise PluginError(
            f"'{name}' is no name for a plugin; use lower case letters, digits and -, such as mine"
        )
    short = kind.rpartition("-")[2]
    own = name.removeprefix("rtl-").removeprefix(f"{short}-")
    distribution = name if name.startswith("rtl-") else f"rtl-{short}-{own}"
    folder = Path(distribution) if folder is None else folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PluginError(f"{folder}: is there already and not empty; choose another with --out")
    words = {
        "@DISTRIBUTION@": distribution,
        "@MODULE@": distribution.replace("-", "_"),
        "@NAME@": own,
        "@CLASS@": "".join(part.capitalize() for part in own.split("-")),
        "@VERSION@": __version__,
        "@KIND@": kind.replace("-", " "),
        "@USE@": _USES[kind].replace("@NAME@", own),
    }
    written = [
        _write(source, folder, relative, words)
        for root in ("common", kind)
        for source, relative in _walk(files("rtl_continual.plugins") / "skeletons" / root)
    ]
    return folder, sorted(written)


def _walk(root: Traversable, below: str = "") -> list[tuple[Traversable, str]]:
    found = []
    for entry in root.iterdir():
        relative = f"{below}{entry.name}"
        if entry.is_dir():
            found += _walk(entry, f"{relative}/")
        else:
            found.append((entry, relative))
    return found


def _write(source: Traversable, folder: Path, relative: str, words: dict[str, str]) -> Path:
    text = source.read_text(encoding="utf-8")
    relative = relative.removesuffix(".in")
    for word, value in words.items():
        text, relative = text.replace(word, value), relative.replace(word, value)
    target = folder / relative
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    return target
