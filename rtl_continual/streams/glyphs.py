"""A built-in stream of many classes: eighty printed characters, new to the shipped backbone.

Digits, Greek and Cyrillic letters and signs, hardly any of which reads as a Latin letter (the
backbone is pretrained on those) or as another of them. They are printed as in the domain
``printed`` of ``digits``: dark, partly worn, random font, size, angle and place. There is one
domain. What the stream is for are groups of classes: a ticket for each set of characters that look
alike.

Each image is a draw of its own and belongs to one part; the fonts occur in every part.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from rtl_continual.streams._glyphs import FONTS, SIZE
from rtl_continual.streams._render import print_character
from rtl_continual.streams._rendered import DomainImages, RenderedConfig, arrange, load_rendered
from rtl_continual.streams._stream import Stream

__all__ = ["GlyphsConfig", "build_glyphs"]

RENDER_VERSION = 1
"""Raised when the drawing code changes what it draws."""

DOMAINS = ("printed",)
DIGITS = "0123456789"
GREEK = "αβγδεζηλμξπρσχωΓΔΘΛΞΠΣΦΨΩ"
CYRILLIC = "БДЖИЙЛЦЧШЩЪЫЭЮЯ"
SIGNS = "@#$%&?!+=*/<>[]{}~§€£¥©®±¶«»¿¡"
CLASSES = tuple(DIGITS + GREEK + CYRILLIC + SIGNS)
GLYPH_FONTS = tuple(name for name in FONTS if name.startswith(("DejaVu", "STIX")))
"""The sixteen fonts that have every class."""

PER_CLASS = 80
HELD_OUT = 20
"""Of each class's images, so many are for testing."""


class GlyphsConfig(RenderedConfig):
    """Options of the stream ``glyphs``.

    Example:
        >>> len(GlyphsConfig().all_classes)
        80
    """

    all_domains: ClassVar[tuple[str, ...]] = DOMAINS
    all_classes: ClassVar[tuple[str, ...]] = CLASSES

    name: Literal["glyphs"] = Field(default="glyphs", description="The stream's name.")
    domains: tuple[str, ...] = Field(
        default=DOMAINS, min_length=1, description="Domains in the order in which they arrive."
    )


def build_glyphs(config: GlyphsConfig) -> Stream:
    """Print the stream, or load it from the cache folder.

    Args:
        config: the options.

    Raises:
        DataError: if the cache folder cannot be written.
    """
    stem = f"glyphs-v{RENDER_VERSION}-seed{config.seed}"
    arrays, content = load_rendered(stem, lambda: {"printed": _print(config.seed)})
    targets = np.arange(len(CLASSES)).repeat(PER_CLASS)
    place = np.tile(np.arange(PER_CLASS), len(CLASSES))
    printed = DomainImages(arrays["printed"], targets, place < HELD_OUT, place)
    return arrange({"printed": printed}, content, config)


def _print(seed: int) -> np.ndarray:
    images = np.empty((len(CLASSES) * PER_CLASS, 3, SIZE, SIZE), dtype=np.uint8)
    for i in range(len(images)):
        rng = np.random.default_rng([seed, 29, i])
        images[i] = print_character(CLASSES[i // PER_CLASS], rng, GLYPH_FONTS)
    return images
