"""Which images there are: list files, and folders laid out by domain, part and class."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rtl_continual.errors import DataError
from rtl_continual.streams._decode import IMAGE_SUFFIXES
from rtl_continual.streams._files import FileNames, Listing

__all__ = [
    "FoundFolders",
    "Layout",
    "ListFile",
    "check_first_file",
    "read_list",
    "readable",
    "scan_layout",
    "to_listing",
]

MAX_DEPTH = 8
"""How many folders ``**`` may stand for; links to a folder above would never end."""

MAX_DIGITS = 18
"""Digits that any label may have: so many fit into 64 bits."""


@dataclass
class ListFile:
    """The lines of a list file ``<path> <label>``.

    Args:
        path: the file.
        names: paths as given.
        labels: the number at the end of each line.
        lines: line numbers, from 1.
        problems: lines that could not be used, ``file:line: what is wrong``.
    """

    path: Path
    names: list[bytes] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def read_list(path: Path) -> ListFile:
    r"""Read a list file.

    The label is what follows the last blank, so paths may have blanks. Empty lines, ``\r\n`` and
    a byte order mark are taken as they come.

    Args:
        path: the file.

    Raises:
        DataError: if the file is missing or cannot be read.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such list file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    found = ListFile(path)
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        words = line.rsplit(None, 1)
        if len(words) == 2 and words[1].isdigit():
            name = words[0].strip()
            if name.startswith(b"/") or (b".." in name and b".." in name.split(b"/")):
                found.problems.append(
                    f"{path}:{number}: the path must lie below the root, got {_shown(name)}"
                )
                continue
            if len(words[1]) > MAX_DIGITS:
                found.problems.append(
                    f"{path}:{number}: a label has at most {MAX_DIGITS} digits, got "
                    f"{_shown(words[1])}"
                )
                continue
            found.names.append(name)
            found.labels.append(int(words[1]))
            found.lines.append(number)
        elif words:
            found.problems.append(
                f"{path}:{number}: must be a path, a blank and a label from 0, got {_shown(line)}"
            )
    return found


def _shown(text: bytes) -> str:
    plain = text.strip().decode("utf-8", "replace")
    return repr(plain if len(plain) <= 80 else plain[:77] + "...")


def readable(name: str | bytes) -> str:
    r"""A name from the file system as text; what is no UTF-8 becomes replacement characters.

    Example:
        >>> readable(b"d\xffx") == "d\N{REPLACEMENT CHARACTER}x"
        True
    """
    raw = name if isinstance(name, bytes) else name.encode("utf-8", "surrogateescape")
    return raw.decode("utf-8", "replace")


def to_listing(found: ListFile, targets: np.ndarray) -> Listing:
    """A list file's rows with their class indices ``int64 [n]``."""
    count = len(found.names)
    return Listing(
        FileNames.pack(found.names),
        targets.astype(np.int64, copy=False),
        (str(found.path),),
        np.zeros(count, dtype=np.int16),
        np.asarray(found.lines, dtype=np.int32),
    )


def check_first_file(root: Path, listing: Listing) -> None:
    """See early that a list belongs to other files; the rest is seen when it is read.

    Raises:
        DataError: if the first file of the listing does not exist.
    """
    if len(listing) and not (root / listing.names[0]).exists():
        raise DataError(
            f"{root / listing.names[0]}{listing.place(0)}: there is no such file; "
            f"are the images unpacked below {root}?"
        )


@dataclass(frozen=True)
class Layout:
    """How folders are nested, such as ``{domain}/{split}/{class}``.

    Each part is ``{domain}``, ``{split}``, ``{class}``, ``*`` (any one folder), ``**`` (any number
    of folders) or a folder's own name. The last part is ``{class}``: its folder holds the images.

    Example:
        >>> Layout.parse("{split}/{domain}/{class}").parts
        ('{split}', '{domain}', '{class}')
    """

    parts: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Layout:
        """Check a layout.

        Raises:
            ValueError: if a part is unknown or repeated, or domain or class are missing.
        """
        parts = tuple(text.strip("/").split("/"))
        for part in parts:
            if re.search(r"[{}]", part) and part not in ("{domain}", "{split}", "{class}"):
                raise ValueError(
                    f"layout: a part in braces is {{domain}}, {{split}} or {{class}}, got '{part}'"
                )
            if part in ("", ".", "..") or (part.startswith("{") and parts.count(part) > 1):
                raise ValueError(f"layout: '{text}' has an empty or a repeated part")
        if "{domain}" not in parts or parts[-1] != "{class}":
            raise ValueError(f"layout must have {{domain}} and end with {{class}}, got '{text}'")
        return cls(parts)

    @property
    def has_split(self) -> bool:
        """Whether folders say what is for training and what for testing."""
        return "{split}" in self.parts


@dataclass
class FoundFolders:
    """What a scan found.

    Args:
        images: names by domain, split (``""`` without one) and class, sorted.
        other_files: files in class folders that are no images by their ending.
        folders: all folders that stand where a domain's does.
        misnamed: folders of domains or classes with images whose names are no UTF-8 text; results
            and banks could not hold these names.
    """

    images: dict[tuple[str, str], dict[str, list[bytes]]] = field(default_factory=dict)
    other_files: list[str] = field(default_factory=list)
    folders: set[str] = field(default_factory=set)
    misnamed: list[str] = field(default_factory=list)

    def domains(self) -> tuple[str, ...]:
        """The domains that have images, sorted."""
        return tuple(sorted({domain for domain, _ in self.images}))

    def classes(self) -> tuple[str, ...]:
        """The classes of all domains, sorted."""
        return tuple(sorted({name for part in self.images.values() for name in part}))


def scan_layout(root: Path, layout: Layout, domains: Sequence[str] | None = None) -> FoundFolders:
    """Find all images below ``root`` that fit the layout; hidden files and folders are left out.

    Args:
        root: the folder to look in.
        layout: how folders are nested.
        domains: look into these alone; ``None`` looks into all.

    Raises:
        DataError: if a folder is missing or cannot be read.
    """
    found = FoundFolders()
    if not root.is_dir():
        raise DataError(f"{root}: there is no such folder")
    try:
        for place, folder in _matches(root, "", layout.parts, {}, 0):
            found.folders.add(place["domain"])
            if domains is not None and place["domain"] not in domains:
                continue
            names = []
            for entry in _sorted(root / folder):
                if entry.is_file():
                    name = f"{folder}/{entry.name}"
                    if os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES:
                        names.append(os.fsencode(name))
                    else:
                        found.other_files.append(name)
            if names:
                domain, name = readable(place["domain"]), readable(place["class"])
                if (domain, name) != (place["domain"], place["class"]):
                    found.misnamed.append(folder)
                part = found.images.setdefault((domain, place.get("split", "")), {})
                part.setdefault(name, []).extend(names)
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}") from error
    return found


def _sorted(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)


def _matches(
    root: Path, folder: str, parts: tuple[str, ...], place: dict[str, str], depth: int
) -> Iterator[tuple[dict[str, str], str]]:
    """Folders that fit ``parts`` below ``folder``, and what their parts are called."""
    if not parts:
        yield place, folder
        return
    part, rest = parts[0], parts[1:]
    if part == "**":
        yield from _matches(root, folder, rest, place, depth)
        if depth >= MAX_DEPTH:
            return
    for entry in _sorted(root / folder):
        if not entry.is_dir():
            continue
        below = f"{folder}/{entry.name}" if folder else entry.name
        if part == "**":
            yield from _matches(root, below, parts, place, depth + 1)
        elif part.startswith("{"):
            yield from _matches(root, below, rest, {**place, part[1:-1]: entry.name}, depth)
        elif part in ("*", entry.name):
            yield from _matches(root, below, rest, place, depth)
