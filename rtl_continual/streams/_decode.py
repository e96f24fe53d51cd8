"""One image file to pixels, with limits."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from rtl_continual.errors import DataError

__all__ = ["IMAGE_SUFFIXES", "MAX_PIXELS", "ImageForm", "decode_image"]

IMAGE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
"""How the names of image files end, in streams, in new data for a bank and in questions to it."""

MAX_PIXELS = 89_478_485
"""Pillow's own limit: an image of a quarter of a gigabyte. Above it, Pillow only warns."""


@dataclass(frozen=True)
class ImageForm:
    """What every image becomes: the shorter side to ``resize``, then the middle square.

    The arithmetic is that of torchvision's ``Resize`` and ``CenterCrop`` on PIL images, so pixels
    are the same.

    Args:
        size: side of the square in pixels.
        resize: length of the shorter side before cropping, in pixels; at least ``size``.
        interpolation: how pixels are interpolated.
        max_pixels: width times height above which a file is refused before it is decoded.
        upright: turn photographs as their EXIF orientation says.
    """

    size: int
    resize: int
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    max_pixels: int = MAX_PIXELS
    upright: bool = False


def decode_image(path: Path, form: ImageForm, place: str = "") -> np.ndarray:
    """Read one image.

    Args:
        path: the file.
        form: what it becomes.
        place: where the file is named, for messages, such as ``" (list.txt:12)"``.

    Returns:
        ``uint8 [size, size, 3]``, RGB.

    Raises:
        DataError: if the file is missing, empty, larger than allowed or no image.
    """
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise DataError(f"{path}{place}: the file is empty (0 bytes)")
            return np.asarray(_fit(_read(file, form, f"{path}{place}"), form))
    except FileNotFoundError:
        raise DataError(f"{path}{place}: there is no such file") from None
    except UnidentifiedImageError:
        raise DataError(f"{path}{place}: is no image that Pillow can read") from None
    # Pillow's decoders raise all of these on damaged files.
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, MemoryError) as error:
        raise DataError(f"{path}{place}: cannot be read as an image: {error}") from error


def _read(file: BinaryIO, form: ImageForm, where: str) -> Image.Image:
    try:
        with Image.open(file) as opened:
            if opened.width * opened.height > form.max_pixels:
                raise DataError(
                    f"{where}: {opened.width} x {opened.height} pixels are more than "
                    f"max_pixels ({form.max_pixels}); leave the file out or raise the limit"
                )
            return _to_rgb(ImageOps.exif_transpose(opened) if form.upright else opened)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{where}: too many pixels to decode: {error}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow clips 16-bit values to white instead of scaling them.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        # Pillow asks for this detour with a warning.
        image = image.convert("RGBA")
    return image.convert("RGB")


def _fit(image: Image.Image, form: ImageForm) -> Image.Image:
    width, height = image.size
    short = min(width, height)
    if short != form.resize:
        # As torchvision: the longer side is rounded down.
        width, height = (
            form.resize if side == short else int(form.resize * side / short)
            for side in (width, height)
        )
        kind = getattr(Image.Resampling, form.interpolation.upper())
        image = image.resize((width, height), kind)
    left, top = round((width - form.size) / 2.0), round((height - form.size) / 2.0)
    return image.crop((left, top, left + form.size, top + form.size))
