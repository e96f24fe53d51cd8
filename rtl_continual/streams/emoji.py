"""The same emoji in six drawing styles: DomainNet's kind of shift in small, from open packages.

==============  ===================================================================
domain          what it looks like
==============  ===================================================================
fluent_3d       soft 3D renders (Fluent Emoji, Microsoft; MIT)
noto            flat with shading (Noto Emoji, Google; Apache-2.0)
twemoji         flat, few colours (Twemoji; CC-BY-4.0)
openmoji_color  coloured outlines (OpenMoji, HfG Schwaebisch Gmuend; CC-BY-SA-4.0)
openmoji_black  outlines alone (OpenMoji)
high_contrast   black silhouettes with white cuts (Fluent Emoji; MIT)
==============  ===================================================================

What it is: drawn icons, a stand-in for the shift between DomainNet's styles. What it is not:
photographs, or anything of DomainNet's size; a class has 16 to 82 images in each style.

Classes are subgroups of the Unicode CLDR, thin ones merged so that each has at least 16 emoji, all
without skin tones and country flags. Parts are split by *concept* (the code points without skin,
gender and joiners), the same in every style: an emoji that is tested was never seen in any style.
Some concepts still resemble each other (24 clock faces, coloured hearts).

``rtl data prepare emoji`` fetches the packages with the npm client and draws them on this machine,
into the cache folder. The drawings are their makers', under their licences; OpenMoji's asks that
what is made from it is shared alike, so drawn images are for nobody to commit or pass on unasked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator

from rtl_continual.errors import unknown_name
from rtl_continual.streams import _emoji_facts as facts
from rtl_continual.streams._cache import cache_folder, cached_arrays
from rtl_continual.streams._emoji_archives import (
    Emoji,
    archive_problems,
    fetch_archives,
    read_archives,
)
from rtl_continual.streams._emoji_draw import draw, load_rasteriser
from rtl_continual.streams._prepare import Progress
from rtl_continual.streams._rendered import DomainImages, RenderedConfig, arrange
from rtl_continual.streams._stream import Stream
from rtl_continual.streams._verify import VerifyReport, finding

__all__ = ["EmojiConfig", "build_emoji", "prepare_emoji", "verify_emoji"]

DRAWING_VERSION = 1
"""Raised when the drawing code changes what it draws."""

TEST_FRACTION = 0.3


class EmojiConfig(RenderedConfig):
    """Options of the stream ``emoji``.

    Example:
        >>> EmojiConfig(domains=["noto", "openmoji_black"], size=128).size
        128
    """

    all_domains: ClassVar[tuple[str, ...]] = facts.STYLES
    all_classes: ClassVar[tuple[str, ...]] = tuple(facts.CLASSES)

    name: Literal["emoji"] = Field(default="emoji", description="The stream's name.")
    domains: tuple[str, ...] = Field(
        default=facts.STYLES,
        min_length=1,
        description="Styles in the order in which they arrive.",
    )
    classes: tuple[str, ...] | None = Field(
        default=None, min_length=2, description="Only these classes, by name; none means all."
    )
    size: Literal[64, 128] = Field(default=64, description="Side of the images in pixels.")

    @field_validator("classes")
    @classmethod
    def _known_classes(cls, classes: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in classes or ():
            if name not in cls.all_classes:
                raise ValueError(unknown_name("class", name, cls.all_classes))
        return classes and tuple(name for name in cls.all_classes if name in classes)


def prepare_emoji(config: EmojiConfig, progress: Progress | None = None) -> None:
    """Fetch the packages and draw every emoji.

    Args:
        config: says in which size.
        progress: hears how far it is.

    Raises:
        DataError: if resvg-py or npm is missing, the packages cannot be had, or the cache folder
            cannot be written; the message says what to do.
    """
    load_rasteriser()
    fetch_archives(_folder(), progress)
    _load(config.size, progress)


def verify_emoji(
    config: EmojiConfig, *, sample: int | None = None, progress: Progress | None = None
) -> VerifyReport:
    """Check the archives against their pinned hashes and count what they hold.

    Args:
        config: says in which size to draw.
        sample: not used: all drawings are drawn.
        progress: hears how far it is.
    """
    folder = _folder()
    problems = [p for p in (archive_problems(folder, k) for k in facts.PACKAGES.values()) if p]
    found = finding("archives", "error", "missing or changed archives", problems)
    images: dict[str, dict[str, int]] = {}
    if not problems:
        arrays, _ = _load(config.size, progress)
        images = {style: {"images": len(arrays[style])} for style in facts.STYLES}
        counts = np.bincount(arrays["targets"], minlength=len(facts.CLASSES))
        thin = [f"{n}: {c}" for n, c in zip(facts.CLASSES, counts, strict=True) if c < 16]
        found += finding("classes", "error", "classes with fewer than 16 emoji", thin)
    decoded = sum(part["images"] for part in images.values())
    return VerifyReport("emoji", str(folder), images, decoded, tuple(found))


def build_emoji(config: EmojiConfig) -> Stream:
    """Load the drawn stream; archives that are there are drawn if need be.

    Args:
        config: the options.

    Raises:
        DataError: if the stream has not been prepared on this machine.
    """
    arrays, content = _load(config.size, None)
    kept = list(config.classes or config.all_classes)
    renumber = np.full(len(config.all_classes), -1, dtype=np.int64)
    renumber[[config.all_classes.index(name) for name in kept]] = np.arange(len(kept))
    targets = renumber[arrays["targets"]]
    rows = targets >= 0
    held_out, order = split_by_concept(arrays["targets"], arrays["concepts"], config.seed)
    styles = {
        style: DomainImages(arrays[style][rows], targets[rows], held_out[rows], order[rows])
        for style in facts.STYLES
    }
    return arrange(styles, content, config, classes=kept)


def split_by_concept(
    targets: np.ndarray, concepts: Sequence[str] | np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Hold out about three tenths of each class, whole concepts at a time.

    Args:
        targets: classes ``int64 [n]``.
        concepts: names ``[n]``; a concept belongs to the part of the class that names it first.
        seed: of the draw.

    Returns:
        ``held_out`` ``bool [n]``, and ``order`` ``int64 [n]``: a concept's random place.

    Example:
        >>> held_out, order = split_by_concept(np.zeros(4, int), ["a", "a", "b", "c"], 0)
        >>> bool(held_out[0] == held_out[1]), int(held_out.sum()) in (1, 2)
        (True, True)
    """
    concepts = np.asarray(concepts)
    held_out: dict[str, bool] = {}
    order: dict[str, int] = {}
    for target in range(int(targets.max()) + 1):
        mine = concepts[targets == target]
        names = [name for name in dict.fromkeys(mine.tolist()) if name not in held_out]
        wanted, tests = round(TEST_FRACTION * len(mine)), 0
        rng = np.random.default_rng([seed, 29, target])
        for place, number in enumerate(rng.permutation(len(names)).tolist()):
            name, count = names[number], int((mine == names[number]).sum())
            # A large concept is left to training rather than overshoot by more than half of it.
            held_out[name] = tests + count / 2 <= wanted
            tests += count * held_out[name]
            order[name] = place
    return (
        np.array([held_out[name] for name in concepts.tolist()], dtype=bool),
        np.array([order[name] for name in concepts.tolist()], dtype=np.int64),
    )


def _folder() -> Path:
    return cache_folder() / "emoji"


def _load(size: int, progress: Progress | None) -> tuple[dict[str, np.ndarray], str]:
    pins = "|".join(package.sha256 for package in facts.PACKAGES.values())
    key = hashlib.sha256(pins.encode()).hexdigest()[:8]
    name = f"emoji-v{DRAWING_VERSION}-{size}px-{key}.npz"
    return cached_arrays(name, lambda: _draw_all(size, progress))


def _draw_all(size: int, progress: Progress | None) -> dict[str, np.ndarray]:
    emoji = read_archives(_folder())
    rasteriser = load_rasteriser()
    arrays: dict[str, np.ndarray] = {
        "targets": _targets(emoji),
        "concepts": np.array([one.concept for one in emoji]),
    }
    for number, style in enumerate(facts.STYLES):
        if progress is not None:
            progress(f"drawing {style}", number, len(facts.STYLES))
        arrays[style] = np.stack([draw(one.drawings[style], size, rasteriser) for one in emoji])
    return arrays


def _targets(emoji: Sequence[Emoji]) -> np.ndarray:
    numbers = {
        subgroup: number
        for number, subgroups in enumerate(facts.CLASSES.values())
        for subgroup in subgroups
    }
    return np.array([numbers[one.subgroup] for one in emoji], dtype=np.int64)
