"""What the emoji stream is made of: pinned packages, styles, and classes out of CLDR subgroups."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CLASSES", "PACKAGES", "STYLES", "Package"]


@dataclass(frozen=True)
class Package:
    """An openly licensed package as its publisher packed it.

    Args:
        name: as the npm client knows it.
        version: pinned.
        licence: of the drawings.
        sha256: of the archive.
    """

    name: str
    version: str
    licence: str
    sha256: str

    @property
    def archive(self) -> str:
        """The name that ``npm pack`` gives the archive."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


PACKAGES = {
    "fluent_3d": Package(
        "@lobehub/fluent-emoji-3d",
        "1.1.0",
        "MIT",
        "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
    ),
    "noto": Package(
        "@iconify-json/noto",
        "1.2.9",
        "Apache-2.0",
        "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
    ),
    "twemoji": Package(
        "@iconify-json/twemoji",
        "1.2.5",
        "CC-BY-4.0",
        "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
    ),
    "openmoji": Package(
        "openmoji",
        "17.0.0",
        "CC-BY-SA-4.0",
        "55ee7d13485dec86e9f38c1f3a645a13382d33ff97c0cd845ee824b0aef45e68",
    ),
    "high_contrast": Package(
        "@iconify-json/fluent-emoji-high-contrast",
        "1.2.6",
        "MIT",
        "0b92d48c90d2200bd499e3cdd09a127ca6a8c8ddefd34c35eb5a1e4994012ae0",
    ),
}
"""By a short name of ours."""

STYLES = (
    "fluent_3d",
    "noto",
    "twemoji",
    "openmoji_color",
    "openmoji_black",
    "high_contrast",
)
"""The domains: 3D render, two flat palettes, coloured outline, outline alone, silhouette."""

CLASSES: dict[str, tuple[str, ...]] = {
    "face-happy": (
        "face-smiling",
        "face-affection",
        "face-tongue",
        "face-hat",
        "face-glasses",
    ),
    "face-neutral": ("face-hand", "face-neutral-skeptical"),
    "face-unwell": ("face-sleepy", "face-unwell"),
    "face-concerned": ("face-concerned", "face-negative"),
    "face-creature": ("face-costume", "cat-face", "monkey-face"),
    "heart-emotion": ("heart", "emotion"),
    "hand": (
        "hand-fingers-open",
        "hand-fingers-partial",
        "hand-single-finger",
        "hand-fingers-closed",
        "hands",
        "hand-prop",
    ),
    "body-parts": ("body-parts",),
    "person": ("person",),
    "person-gesture": ("person-gesture",),
    "person-role": ("person-role",),
    "person-fantasy": ("person-fantasy",),
    "person-activity": ("person-activity", "person-resting"),
    "person-sport": ("person-sport",),
    "animal-mammal": ("animal-mammal",),
    "animal-bird": ("animal-bird",),
    "animal-cold-blooded": ("animal-amphibian", "animal-reptile", "animal-marine"),
    "animal-bug": ("animal-bug",),
    "plant": ("plant-flower", "plant-other"),
    "food-fruit": ("food-fruit",),
    "food-vegetable": ("food-vegetable",),
    "food-prepared": ("food-prepared", "food-sweet"),
    "food-asian": ("food-asian",),
    "drink": ("drink", "dishware"),
    "place-geographic": ("place-map", "place-geographic"),
    "place-building": ("place-building", "place-religious"),
    "place-other": ("place-other",),
    "transport-ground": ("transport-ground",),
    "transport-water-air": ("transport-water", "transport-air"),
    "time": ("time",),
    "sky-weather": ("sky-weather",),
    "event": ("event",),
    "sport": ("sport", "award-medal"),
    "game-craft": ("game", "arts-crafts"),
    "clothing": ("clothing",),
    "music": ("sound", "music", "musical-instrument"),
    "computer-phone": ("phone", "computer"),
    "light-science": ("light-video", "science", "medical"),
    "book-money": ("book-paper", "money"),
    "mail-writing": ("mail", "writing"),
    "office": ("office",),
    "tool-lock": ("tool", "lock"),
    "household": ("household",),
    "sign": ("transport-sign", "warning"),
    "arrow": ("arrow",),
    "religion-zodiac": ("religion", "zodiac"),
    "av-symbol": ("av-symbol",),
    "math-punctuation": ("math", "punctuation", "currency", "gender"),
    "other-symbol": ("other-symbol",),
    "letter-number": ("keycap", "alphanum"),
    "geometric": ("geometric",),
}
"""Class to CLDR subgroups; a subgroup with fewer than 16 emoji in all styles joins a kindred one.

Left out: ``person-symbol``, ``other-object``, ``hotel`` and ``flag``, which are thin and akin to
nothing, and country flags.
"""
