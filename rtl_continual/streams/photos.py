"""A second built-in stream: textures and photographs under several kinds of weather and camera.

=========  ==============================================================================
domain     what it looks like
=========  ==============================================================================
clear      the picture as it is
fog        contrast fades into a light grey veil
night      dark and bluish, with sensor noise
grain      strong noise and single dead pixels
sunset     a warm cast: red rises, blue falls
defocus    out of focus; not among the default domains, because a smooth picture (the sky,
           a petal) looks the same sharp and blurred, and so no image tells the two apart
=========  ==============================================================================

The classes are what is seen: patches of scikit-learn's two photographs (``temple``, ``petals``)
and four kinds of drawn texture (``bricks``, ``stripes``, ``dots``, ``stone``) in random colours,
sizes and directions. It differs from ``digits`` in everything: no glyphs, colour everywhere, and
what separates domains (contrast, sharpness, cast) also varies between classes.

Parts are disjoint as in ``digits``: each drawn texture is one image of one domain, and patches of
test images come from tiles of the photographs that are used for nothing else. The corruptions are
simplified forms of those of Hendrycks and Dietterich (2019), "Benchmarking Neural Network
Robustness to Common Corruptions and Perturbations".
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from PIL import Image, ImageFilter
from pydantic import Field

from rtl_continual.streams._rendered import DomainImages, RenderedConfig, arrange, load_rendered
from rtl_continual.streams._stream import Stream

__all__ = ["PhotosConfig", "build_photos"]

RENDER_VERSION = 1
"""Raised when the drawing code changes what it draws."""

SIZE = 32
TILE = 80
CLASSES = ("temple", "petals", "bricks", "stripes", "dots", "stone")
DOMAINS = ("clear", "fog", "night", "grain", "sunset", "defocus")
PER_CLASS = 250
HELD_OUT = 50
"""Of each class's images, so many are for testing."""


class PhotosConfig(RenderedConfig):
    """Options of the stream ``photos``.

    Example:
        >>> PhotosConfig(domains=["clear", "fog"]).seed
        0
    """

    all_domains: ClassVar[tuple[str, ...]] = DOMAINS
    all_classes: ClassVar[tuple[str, ...]] = CLASSES

    name: Literal["photos"] = Field(default="photos", description="The stream's name.")
    domains: tuple[str, ...] = Field(
        default=DOMAINS[:5], min_length=1, description="Domains in the order in which they arrive."
    )


def build_photos(config: PhotosConfig) -> Stream:
    """Draw the stream, or load it from the cache folder.

    Args:
        config: the options.

    Raises:
        DataError: if the cache folder cannot be written.
    """
    stem = f"photos-v{RENDER_VERSION}-seed{config.seed}"
    arrays, content = load_rendered(stem, lambda: _draw_domains(config.seed))
    targets = np.arange(len(CLASSES)).repeat(PER_CLASS)
    place = np.tile(np.arange(PER_CLASS), len(CLASSES))
    domains = {
        domain: DomainImages(arrays[domain], targets, place < HELD_OUT, place) for domain in DOMAINS
    }
    return arrange(domains, content, config)


def _draw_domains(seed: int) -> dict[str, np.ndarray]:
    from sklearn.datasets import load_sample_images

    photos = load_sample_images().images
    drawn = {}
    for number, domain in enumerate(DOMAINS):
        images = np.empty((len(CLASSES) * PER_CLASS, 3, SIZE, SIZE), dtype=np.uint8)
        for i in range(len(images)):
            rng = np.random.default_rng([seed, 17, number, i])
            target, place = divmod(i, PER_CLASS)
            if target < len(photos):
                picture = _patch(photos[target], rng, held_out=place < HELD_OUT)
            else:
                picture = _texture(CLASSES[target], rng)
            shown = _weather(domain, picture, rng)
            images[i] = np.clip(np.round(shown), 0, 255).astype(np.uint8).transpose(2, 0, 1)
        drawn[domain] = images
    return drawn


def _patch(photo: np.ndarray, rng: np.random.Generator, *, held_out: bool) -> np.ndarray:
    """A patch out of one tile of a photograph, ``float [32, 32, 3]``, 0..255."""
    rows, columns = photo.shape[0] // TILE, photo.shape[1] // TILE
    tiles = [
        (r, c) for r in range(rows) for c in range(columns) if ((2 * r + c) % 4 == 0) == held_out
    ]
    row, column = tiles[int(rng.integers(len(tiles)))]
    tile = Image.fromarray(
        photo[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE]
    )
    side = rng.uniform(48, TILE)
    left, top = rng.uniform(0, TILE - side, 2)
    patch = tile.resize(
        (SIZE, SIZE), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side)
    )
    if rng.random() < 0.5:
        patch = patch.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(patch, dtype=np.float64)


def _texture(kind: str, rng: np.random.Generator) -> np.ndarray:
    """A drawn texture ``float [32, 32, 3]``, 0..255: two colours, uneven light, fine grain."""
    turn = rng.uniform(0, np.pi)
    down, right = np.mgrid[0:SIZE, 0:SIZE].astype(np.float64) + rng.uniform(0, SIZE, (2, 1, 1))
    u = right * np.cos(turn) + down * np.sin(turn)
    v = down * np.cos(turn) - right * np.sin(turn)
    period = rng.uniform(6, 12)
    match kind:
        case "bricks":
            row = np.floor(v / period)
            joint_v = np.abs(v / period - row - 0.5) > 0.5 - 0.8 / period
            shifted = u / (2 * period) + 0.5 * (row % 2)
            joint_u = np.abs(shifted - np.floor(shifted) - 0.5) > 0.5 - 0.4 / period
            shape = 1.0 - (joint_u | joint_v)
        case "stripes":
            shape = np.clip(0.5 + 1.5 * np.sin(2 * np.pi * u / period), 0, 1)
        case "dots":
            away = np.hypot(u % period - period / 2, v % period - period / 2)
            shape = np.clip(period * 0.3 - away + 0.5, 0, 1)
        case _:
            shape = np.zeros((SIZE, SIZE))
            for cells in (4, 8, 16):
                noise = Image.fromarray(rng.normal(0, 1, (cells, cells)).astype(np.float32))
                shape += (
                    np.asarray(noise.resize((SIZE, SIZE), Image.Resampling.BICUBIC)) * 2 / cells
                )
            shape = np.clip(0.5 + shape, 0, 1)
    dark, light = rng.uniform(10, 110, 3), rng.uniform(120, 245, 3)
    if rng.random() < 0.5:
        dark, light = light, dark
    picture = dark + shape[..., None] * (light - dark)
    slope = rng.uniform(-0.25, 0.25, 2)
    shade = 1 + slope[0] * (right - right.mean()) / SIZE + slope[1] * (down - down.mean()) / SIZE
    return np.asarray(picture * shade[..., None] + rng.normal(0, 4, picture.shape))


def _weather(domain: str, picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What the camera sees of a picture."""
    match domain:
        case "fog":
            veil, share = rng.uniform(200, 240), rng.uniform(0.6, 0.8)
            return np.asarray((1 - share) * picture + share * veil)
        case "night":
            light = rng.uniform(0.12, 0.25) * np.array([0.8, 0.9, 1.4])
            return np.asarray(picture * light + rng.normal(0, 6, picture.shape))
        case "defocus":
            image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
            radius = rng.uniform(1.6, 2.6)
            return np.asarray(image.filter(ImageFilter.GaussianBlur(radius)), dtype=np.float64)
        case "grain":
            noisy = picture + rng.normal(0, rng.uniform(30, 45), picture.shape)
            dead = rng.random(picture.shape[:2]) < 0.03
            noisy[dead] = 255 * (rng.random((int(dead.sum()), 1)) < 0.5)
            return np.asarray(noisy)
        case "sunset":
            cast = np.array([rng.uniform(1.1, 1.3), rng.uniform(0.6, 0.75), rng.uniform(0.1, 0.3)])
            return np.asarray(picture * cast + np.array([50.0, 10.0, 0.0]))
        case _:
            return picture
