"""Rendering the five domains of the digits stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from rtl_continual.streams import _glyphs
from rtl_continual.streams._glyphs import FONTS, SIZE, PhotoPatches

__all__ = [
    "CLASSES",
    "DOMAINS",
    "TEST_FRACTION",
    "DomainImages",
    "print_character",
    "render_digits",
]

DOMAINS = ("handwritten", "photo", "printed", "street", "outline")
CLASSES = tuple("0123456789")
TEST_FRACTION = 0.25
DRAWN_PER_CLASS = 180
"""Images per class of the domains that are drawn from fonts."""


@dataclass(frozen=True)
class DomainImages:
    """All images of one domain.

    Args:
        images: ``uint8 [n, 3, 32, 32]``.
        targets: classes ``int64 [n]``.
        sources: what each image was made from, ``int64 [n]``: the number of the handwritten
            original, or a number of the image's own where a font was drawn.
        held_out: whether the source belongs to the test set, ``bool [n]``.
        order: the source's random place among its class's sources of the same part, ``int64 [n]``;
            smaller sets are made by taking the first ones.
    """

    images: np.ndarray
    targets: np.ndarray
    sources: np.ndarray
    held_out: np.ndarray
    order: np.ndarray


def _split(targets: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Hold out a quarter of each class; returns ``held_out`` and ``order``."""
    held_out = np.zeros(len(targets), dtype=bool)
    order = np.zeros(len(targets), dtype=np.int64)
    for target in range(len(CLASSES)):
        members = rng.permutation(np.flatnonzero(targets == target))
        tests = round(len(members) * TEST_FRACTION)
        held_out[members[:tests]] = True
        order[members[:tests]] = np.arange(tests)
        order[members[tests:]] = np.arange(len(members) - tests)
    return held_out, order


def _finish(
    image: np.ndarray, rng: np.random.Generator, *, noise: float, blur: float = 0.0
) -> np.ndarray:
    """Blur, add sensor noise, and turn ``[32, 32, 3]`` 0..255 into ``uint8 [3, 32, 32]``."""
    if blur > 0:
        picture = Image.fromarray(np.round(image).clip(0, 255).astype(np.uint8))
        picture = picture.filter(ImageFilter.GaussianBlur(blur))
        image = np.asarray(picture, dtype=np.float32)
    noisy = image + rng.normal(0.0, noise, image.shape)
    return np.round(noisy).clip(0, 255).astype(np.uint8).transpose(2, 0, 1)


def _handwritten(cells: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    ink = _glyphs.enlarge(cells, SIZE)
    return _finish(np.repeat(255 * ink[..., None], 3, axis=2), rng, noise=2.0)


def _photo(
    cells: np.ndarray, rng: np.random.Generator, patches: PhotoPatches, held_out: bool
) -> np.ndarray:
    patch = patches.draw(rng, held_out=held_out)
    ink = _glyphs.enlarge(cells, SIZE)
    return _finish(_glyphs.blend_difference(patch, ink), rng, noise=2.0)


def _outline(cells: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    scale = 3
    field = _glyphs.enlarge(cells, SIZE * scale)
    line = _glyphs.contour(field, level=rng.uniform(0.4, 0.6), width=scale * rng.uniform(0.45, 0.7))
    ink = np.asarray(
        Image.fromarray(np.round(255 * line).astype(np.uint8)).resize(
            (SIZE, SIZE), Image.Resampling.BOX
        ),
        dtype=np.float32,
    )
    paper, pencil = rng.uniform(235, 255), rng.uniform(0, 70)
    image = _glyphs.paint_over(np.full((SIZE, SIZE, 3), paper), ink / 255, pencil)
    return _finish(image, rng, noise=3.0)


def print_character(
    character: str, rng: np.random.Generator, fonts: Sequence[str] = FONTS
) -> np.ndarray:
    """Dark, partly worn print on light paper, ``uint8 [3, 32, 32]``.

    Args:
        character: a single character.
        rng: where font, size, angle, place, wear and noise come from.
        fonts: those to draw from.
    """
    shape = _glyphs.draw_character(
        character,
        str(rng.choice(fonts)),
        size=rng.uniform(13, 27),
        centre=tuple(rng.uniform(-3, 3, 2) + SIZE / 2),
        angle=rng.uniform(-25, 25),
        shear=rng.uniform(-0.2, 0.2),
        stretch=rng.uniform(0.7, 1.2),
    )
    paper, ink = rng.uniform(190, 255), rng.uniform(0, 100)
    # Worn type: ink is missing in spots.
    spots = rng.normal(0.0, 1.0, (8, 8))
    wear = np.kron(spots, np.ones((4, 4))) > rng.uniform(1.5, 3.5)
    coverage = _glyphs.shrink(shape) * ~wear
    canvas = np.full((SIZE, SIZE, 3), paper)
    image = _glyphs.paint_over(canvas, coverage, ink)
    return _finish(image, rng, noise=rng.uniform(2, 8), blur=rng.uniform(0.0, 0.6))


def _street(
    character: str,
    rng: np.random.Generator,
    patches: PhotoPatches,
    held_out: bool,
    distractors: int,
) -> np.ndarray:
    patch = patches.draw(rng, held_out=held_out, blur=rng.uniform(1.0, 3.0))
    share = rng.uniform(0.3, 0.7)
    canvas = share * patch + (1 - share) * _glyphs.random_colour(rng)
    colour = _glyphs.contrasting_colour(rng, canvas, channel=70, grey=28)
    font = str(rng.choice(FONTS))
    size, angle = rng.uniform(18, 27), rng.uniform(-15, 15)
    centre = rng.uniform(-2, 2, 2) + SIZE / 2
    for neighbour in range(distractors):
        # House numbers stand side by side: the first two left and right, later ones around.
        direction = np.pi * neighbour if neighbour < 2 else rng.uniform(0, 2 * np.pi)
        direction -= np.deg2rad(angle)
        away = size * rng.uniform(0.7, 1.0) * np.array([np.cos(direction), np.sin(direction)])
        other = _glyphs.draw_character(
            str(rng.choice(CLASSES)), font, size=size, centre=tuple(centre + away), angle=angle
        )
        canvas = _glyphs.paint_over(canvas, _glyphs.shrink(other), colour)
    shape = _glyphs.draw_character(character, font, size=size, centre=tuple(centre), angle=angle)
    canvas = _glyphs.paint_over(canvas, _glyphs.shrink(shape), colour)
    return _finish(canvas, rng, noise=rng.uniform(2, 8), blur=rng.uniform(0.3, 1.0))


def render_digits(seed: int, distractors: int) -> dict[str, DomainImages]:
    """Render every domain.

    Args:
        seed: equal seeds give equal images; it also decides which sources are held out.
        distractors: neighbours in a street image.
    """
    from sklearn.datasets import load_digits

    originals = load_digits()
    cells = originals.images.astype(np.float32)
    patches = PhotoPatches()
    written = originals.target.astype(np.int64)
    drawn = np.repeat(np.arange(len(CLASSES)), DRAWN_PER_CLASS)
    # One split serves the three domains made from handwritten originals.
    written_split = _split(written, np.random.default_rng([seed, len(DOMAINS)]))
    domains = {}
    for number, domain in enumerate(DOMAINS):
        from_font = domain in ("printed", "street")
        targets = drawn if from_font else written
        split = np.random.default_rng([seed, len(DOMAINS) + 1, number])
        held_out, order = _split(targets, split) if from_font else written_split
        images = np.empty((len(targets), 3, SIZE, SIZE), dtype=np.uint8)
        for i, target in enumerate(targets):
            rng = np.random.default_rng([seed, number, i])
            match domain:
                case "handwritten":
                    images[i] = _handwritten(cells[i], rng)
                case "photo":
                    images[i] = _photo(cells[i], rng, patches, bool(held_out[i]))
                case "printed":
                    images[i] = print_character(CLASSES[target], rng)
                case "street":
                    images[i] = _street(
                        CLASSES[target], rng, patches, bool(held_out[i]), distractors
                    )
                case "outline":
                    images[i] = _outline(cells[i], rng)
        # Font sources get numbers of their own, apart from every other domain's.
        sources = np.arange(len(targets)) + (number * 100_000 if from_font else 0)
        domains[domain] = DomainImages(images, targets, sources, held_out, order)
    return domains
