"""The emoji packages: fetched with the npm client, checked, and read without running their code."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rtl_continual.errors import DataError
from rtl_continual.streams import _emoji_facts as facts
from rtl_continual.streams._prepare import Progress, sha256_of

__all__ = ["Drawing", "Emoji", "archive_problems", "fetch_archives", "read_archives"]

TIMEOUT_SECONDS = 300
MAX_MEMBER_BYTES = 64 * 2**20
MAX_MEMBERS = 50_000

_VARIATION = "FE0F"
_SKINS = {"1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"}
_JOINERS_AND_SIGNS = {"200D", "2640", "2642"}
# Man and woman become person, boy and girl child, and so on; the drawings differ by little.
_NEUTRAL = {
    "1F466": "1F9D2",
    "1F467": "1F9D2",
    "1F468": "1F9D1",
    "1F469": "1F9D1",
    "1F474": "1F9D3",
    "1F475": "1F9D3",
    "1F478": "1F934",
    "1F936": "1F385",
    "1F483": "1F57A",
    "1F46B": "1F46A",
    "1F46C": "1F46A",
    "1F46D": "1F46A",
}

Drawing = bytes | str
"""A raster image's file content, or the text of an SVG."""


@dataclass(frozen=True)
class Emoji:
    """One emoji that every style draws.

    Args:
        key: its code points without the variation selector, such as ``1F469-200D-1F373``.
        concept: what stays of ``key`` without skin, gender and joiners; test and training data
            share no concept.
        subgroup: of CLDR.
        drawings: by style.
    """

    key: str
    concept: str
    subgroup: str
    drawings: dict[str, Drawing]


def fetch_archives(folder: Path, progress: Progress | None = None) -> None:
    """Fetch with ``npm pack`` what the folder lacks; nothing is installed and no script runs.

    Args:
        folder: gets the archives.
        progress: hears how far it is.

    Raises:
        DataError: if npm is missing or cannot reach its registry (the message says which files to
            put where), or what arrived is not what was pinned.
    """
    folder.mkdir(parents=True, exist_ok=True)
    packages = list(facts.PACKAGES.values())
    for number, package in enumerate(packages):
        if progress is not None:
            progress(package.archive, number, len(packages))
        if archive_problems(folder, package):
            _npm_pack(package, folder)
        problem = archive_problems(folder, package)
        if problem:
            raise DataError(f"{problem}; delete it and run it again")
    if progress is not None:
        progress("packages", len(packages), len(packages))


def archive_problems(folder: Path, package: facts.Package) -> str | None:
    """Why a package's archive cannot be used, or ``None``."""
    path = folder / package.archive
    if not path.is_file():
        return f"{path}: is missing"
    if sha256_of(path) != package.sha256:
        return f"{path}: is not the pinned archive (its SHA-256 should be {package.sha256})"
    return None


def _npm_pack(package: facts.Package, folder: Path) -> None:
    npm = shutil.which("npm")
    wanted = f"{package.name}@{package.version}"
    if npm is None:
        raise DataError(
            f"npm was not found, which fetches {wanted}; install Node.js, or {_by_hand(folder)}"
        )
    with tempfile.TemporaryDirectory(dir=folder, prefix=".npm-") as place:
        command = [npm, "pack", "--ignore-scripts", "--pack-destination", place, wanted]
        try:
            done = subprocess.run(
                command, cwd=place, capture_output=True, text=True, timeout=TIMEOUT_SECONDS
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise DataError(f"npm could not fetch {wanted}: {error}; {_by_hand(folder)}") from error
        arrived = Path(place) / package.archive
        if done.returncode or not arrived.is_file():
            raise DataError(
                f"npm could not fetch {wanted}: {_reason(done.stderr)}; try again with a network, "
                f"or {_by_hand(folder)}"
            )
        arrived.replace(folder / package.archive)


def _by_hand(folder: Path) -> str:
    names = " ".join(f"{p.name}@{p.version}" for p in facts.PACKAGES.values())
    return f"run 'npm pack --ignore-scripts {names}' elsewhere and put the files into {folder}"


def _reason(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.startswith("npm err")]
    return " ".join(lines[:2]) or "it gave no reason"


def read_archives(folder: Path) -> list[Emoji]:
    """Every emoji of the classes that all styles draw, in CLDR's order.

    Raises:
        DataError: if an archive is missing, changed or damaged.
    """
    for package in facts.PACKAGES.values():
        problem = archive_problems(folder, package)
        if problem:
            raise DataError(f"{problem}; run 'rtl data prepare emoji'")
    styles: dict[str, dict[str, Drawing]] = {}
    try:
        table = _read_openmoji(folder / facts.PACKAGES["openmoji"].archive, styles)
        styles["fluent_3d"] = _read_rasters(folder / facts.PACKAGES["fluent_3d"].archive)
        for style in ("noto", "twemoji", "high_contrast"):
            styles[style] = _read_iconify(folder / facts.PACKAGES[style].archive)
    except (tarfile.TarError, EOFError, OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder}: a package is damaged: {type(error).__name__}: {error}"
        ) from error
    return [
        Emoji(key, _concept(key), subgroup, {style: styles[style][key] for style in facts.STYLES})
        for key, subgroup in table.items()
        if all(key in styles[style] for style in facts.STYLES)
    ]


def _members(archive: Path, wanted: tuple[str, ...]) -> dict[str, bytes]:
    """Regular files of an archive whose path begins with one of ``wanted``, by path."""
    found: dict[str, bytes] = {}
    with tarfile.open(archive, "r:gz") as opened:
        for count, member in enumerate(opened):
            if count > MAX_MEMBERS or member.size > MAX_MEMBER_BYTES:
                raise ValueError(f"{archive.name} holds more than an emoji package does")
            name = member.name.removeprefix("package/")
            file = opened.extractfile(member) if member.isfile() else None
            if file is not None and name.startswith(wanted):
                found[name] = file.read()
    return found


def _key(code_points: str) -> str:
    return "-".join(part for part in code_points.upper().split("-") if part != _VARIATION)


def _concept(key: str) -> str:
    parts = [p for p in key.split("-") if p not in _SKINS | _JOINERS_AND_SIGNS]
    return "-".join(_NEUTRAL.get(part, part) for part in parts) or key


def _read_openmoji(archive: Path, styles: dict[str, dict[str, Drawing]]) -> dict[str, str]:
    """Add both of its styles; returns each emoji's subgroup."""
    members = _members(archive, ("data/openmoji.csv", "color/svg/", "black/svg/"))
    rows = csv.DictReader(io.StringIO(members["data/openmoji.csv"].decode()))
    wanted = {subgroup for group in facts.CLASSES.values() for subgroup in group}
    table: dict[str, str] = {}
    for row in rows:
        parts = set(row["hexcode"].split("-"))
        # Subgroups of OpenMoji's own extras are named like some of CLDR's.
        if (
            row["subgroups"] in wanted
            and not row["group"].startswith("extras")
            and not parts & _SKINS
        ):
            table.setdefault(_key(row["hexcode"]), row["subgroups"])
    for style, folder in (("openmoji_color", "color/svg/"), ("openmoji_black", "black/svg/")):
        styles[style] = {
            _key(name.removeprefix(folder).removesuffix(".svg")): content.decode()
            for name, content in sorted(members.items())
            if name.startswith(folder) and name.endswith(".svg")
        }
    return table


def _read_rasters(archive: Path) -> dict[str, Drawing]:
    members = _members(archive, ("assets/",))
    return {
        _key(name.removeprefix("assets/").removesuffix(".webp")): content
        for name, content in sorted(members.items())
        if name.endswith(".webp")
    }


def _read_iconify(archive: Path) -> dict[str, Drawing]:
    members = _members(archive, ("icons.json", "chars.json"))
    icons: Mapping[str, Any] = json.loads(members["icons.json"])
    names: Mapping[str, str] = json.loads(members["chars.json"])
    aliases: Mapping[str, Any] = icons.get("aliases", {})
    found: dict[str, Drawing] = {}
    for code_points, name in sorted(names.items()):
        alias = aliases.get(name)
        if alias is not None and set(alias) - {"parent", "hidden"}:
            continue  # turned or mirrored; none of the pinned packages has such an emoji
        icon = icons["icons"].get(name if alias is None else alias["parent"])
        if icon is not None:
            found.setdefault(_key(code_points), _svg(icon, icons))
    return found


def _svg(icon: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    left, top, width, height = (
        float(icon.get(key, defaults.get(key, 0 if key in ("left", "top") else 16)))
        for key in ("left", "top", "width", "height")
    )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left:g} {top:g} {width:g} {height:g}">{icon["body"]}</svg>'
    )
