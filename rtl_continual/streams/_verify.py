"""Is a data set on disk whole? Every check reports all it finds, not only the first."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rtl_continual.errors import DataError
from rtl_continual.streams._decode import IMAGE_SUFFIXES, ImageForm, decode_image
from rtl_continual.streams._files import Listing
from rtl_continual.streams._lists import readable

__all__ = [
    "Finding",
    "Parts",
    "VerifyReport",
    "check_classes",
    "check_decoding",
    "check_files",
    "check_repeats",
    "finding",
]

Parts = Mapping[tuple[str, str], Listing]
"""Listings by domain and part (``train`` or ``test``)."""

MAX_EXAMPLES = 20


@dataclass(frozen=True)
class Finding:
    """Something that a check found.

    Args:
        check: which check.
        level: an error fails the verification, a note does not.
        message: what was found, in one line.
        count: how many there are.
        examples: the first of them.
    """

    check: str
    level: Literal["error", "note"]
    message: str
    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class VerifyReport:
    """What the verification of a stream's data found.

    Args:
        stream: the stream's name.
        root: the folder that was checked.
        images: how many images are listed, by domain and part.
        decoded: how many of them were decoded.
        findings: errors first.
    """

    stream: str
    root: str
    images: dict[str, dict[str, int]]
    decoded: int
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether there is no error."""
        return all(found.level != "error" for found in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Plain values, ``passed`` among them."""
        return {"passed": self.passed, **asdict(self)}


def finding(
    check: str, level: Literal["error", "note"], message: str, items: Sequence[str]
) -> list[Finding]:
    """One finding about ``items``, or none without items; names that are no UTF-8 are replaced."""
    if not items:
        return []
    examples = tuple(readable(item) for item in items[:MAX_EXAMPLES])
    return [Finding(check, level, message, len(items), examples)]


def sizes_on_disk(root: Path, names: Iterable[bytes]) -> dict[bytes, int]:
    """Size in bytes of every image file in the folders that ``names`` lie in."""
    sizes: dict[bytes, int] = {}
    for folder in sorted({name.rpartition(b"/")[0] for name in names}):
        try:
            with os.scandir(os.path.join(os.fsencode(root), folder)) as entries:
                for entry in entries:
                    if entry.name.startswith(b"."):
                        continue
                    suffix = os.path.splitext(os.fsdecode(entry.name))[1].lower()
                    if suffix in IMAGE_SUFFIXES and entry.is_file():
                        name = b"/".join((folder, entry.name)) if folder else entry.name
                        sizes[name] = entry.stat().st_size
        except FileNotFoundError:
            continue
    return sizes


def check_files(root: Path, parts: Parts) -> list[Finding]:
    """Listed files that are missing or empty, and files beside them that no list names."""
    findings = []
    for domain in dict.fromkeys(domain for domain, _ in parts):
        listings = [listing for (owner, _), listing in parts.items() if owner == domain]
        names = {
            listing.names.raw(row): (listing, row)
            for listing in listings
            for row in range(len(listing))
        }
        sizes = sizes_on_disk(root, names)
        missing = [_place(*names[name]) for name in names if name not in sizes]
        empty = [_place(*names[name]) for name in names if sizes.get(name) == 0]
        unlisted = sorted(os.fsdecode(name) for name in sizes.keys() - names.keys())
        findings += finding("files", "error", f"{domain}: listed, but not on disk", missing)
        findings += finding("files", "error", f"{domain}: empty files (0 bytes)", empty)
        findings += finding("files", "note", f"{domain}: on disk, but in no list", unlisted)
    return findings


def _place(listing: Listing, row: int) -> str:
    return listing.names[row] + listing.place(row)


def check_repeats(parts: Parts) -> list[Finding]:
    """Images that are listed twice, or both for training and for testing."""
    findings = []
    names: dict[tuple[str, str], set[bytes]] = {}
    for (domain, part), listing in parts.items():
        counts = Counter(listing.names.raw(row) for row in range(len(listing)))
        names[domain, part] = set(counts)
        repeated = [os.fsdecode(name) for name, count in counts.items() if count > 1]
        findings += finding("lists", "error", f"{domain}: listed twice for {part}", repeated)
    for domain, part in names:
        if part == "train":
            both = sorted(names[domain, "train"] & names.get((domain, "test"), set()))
            message = f"{domain}: listed both for training and for testing"
            findings += finding("lists", "error", message, [os.fsdecode(name) for name in both])
    return findings


def check_classes(
    parts: Parts, classes: Sequence[str], known: Mapping[tuple[str, str], Sequence[str]]
) -> list[Finding]:
    """Classes that a part of a domain lacks although the other part has them.

    Args:
        parts: the listings.
        classes: their names.
        known: gaps that the publisher's own data has, by domain and part: notes, no errors.
    """
    findings = []
    seen = {key: set(np.unique(listing.targets).tolist()) for key, listing in parts.items()}
    words = {"train": "tested, but not trained on", "test": "trained on, but not tested"}
    everywhere = {
        target for (_, part), found in seen.items() if part == "train" for target in found
    }
    for (domain, part), found in seen.items():
        other = seen.get((domain, "test" if part == "train" else "train"))
        lacking = sorted(classes[target] for target in (other or set()) - found)
        published = [name for name in lacking if name in known.get((domain, part), ())]
        rest = [name for name in lacking if name not in published]
        message = f"{domain}: classes {words[part]}"
        findings += finding(
            "classes", "note", f"{message} (a gap of the published lists)", published
        )
        findings += finding("classes", "note", message, rest)
        if part == "test":
            never = sorted(classes[target] for target in found - everywhere)
            message = f"{domain}: tested classes that no domain trains on"
            findings += finding("classes", "error", message, never)
    return findings


def check_decoding(
    root: Path,
    parts: Parts,
    form: ImageForm,
    *,
    sample: int | None,
    workers: int,
    progress: Callable[[str, int, int | None], None] | None = None,
) -> tuple[list[Finding], int]:
    """Decode images and report those that cannot be.

    Files that are missing or empty are :func:`check_files`'s.

    Args:
        root: the folder that names are relative to.
        parts: the listings.
        form: how they are decoded.
        sample: so many of each part, evenly spread; ``None`` decodes all.
        workers: threads.
        progress: hears how many are done.

    Returns:
        The findings, and how many images were decoded.
    """
    jobs = [
        (listing, int(row))
        for listing in parts.values()
        for row in np.unique(
            np.linspace(0, len(listing) - 1, min(len(listing), sample or len(listing))).round()
        )
    ]

    def attempt(job: tuple[Listing, int]) -> str | None:
        """What is wrong: nothing is "", and ``None`` is not tried."""
        listing, row = job
        path = root / listing.names[row]
        if not path.is_file() or path.stat().st_size == 0:
            return None
        try:
            decode_image(path, form, listing.place(row))
        except DataError as error:
            return str(error)
        return ""

    answers = []
    with ThreadPoolExecutor(workers) as pool:
        for done, answer in enumerate(pool.map(attempt, jobs), start=1):
            answers.append(answer)
            if progress is not None:
                progress("decoding images", done, len(jobs))
    failed = [answer for answer in answers if answer]
    tried = sum(answer is not None for answer in answers)
    return finding("images", "error", "images that cannot be decoded", failed), tried
