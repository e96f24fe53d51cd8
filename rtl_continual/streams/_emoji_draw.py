"""Emoji drawings to pixels: vectors by resvg, rasters by Pillow, both on white."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from rtl_continual.errors import DataError
from rtl_continual.streams._emoji_archives import Drawing

__all__ = ["draw", "load_rasteriser"]


def load_rasteriser() -> Any:
    """The module ``resvg_py``.

    Raises:
        DataError: if it is not installed.
    """
    try:
        import resvg_py
    except ImportError as error:
        raise DataError(
            "the emoji stream draws vectors with resvg-py, which is not installed; "
            "run: pip install 'rtl-continual[emoji]'"
        ) from error
    return resvg_py


def draw(drawing: Drawing, size: int, rasteriser: Any) -> np.ndarray:
    """One emoji on white, fitted into a square ``uint8 [3, size, size]``.

    Args:
        drawing: an SVG's text, or a raster file's content.
        size: side of the square in pixels.
        rasteriser: of :func:`load_rasteriser`.

    Raises:
        DataError: if it cannot be drawn.
    """
    try:
        if isinstance(drawing, str):
            # Installed fonts would make the pixels depend on the machine.
            png = rasteriser.svg_to_bytes(
                svg_string=drawing, width=size, height=size, skip_system_fonts=True
            )
            drawing = bytes(png)
        with Image.open(io.BytesIO(drawing)) as opened:
            image = opened.convert("RGBA")
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"an emoji cannot be drawn: {error}") from error
    side = max(image.size)
    canvas = Image.new("RGBA", (side, side), "white")
    canvas.alpha_composite(image, ((side - image.width) // 2, (side - image.height) // 2))
    if side != size:
        canvas = canvas.resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(canvas.convert("RGB")).transpose(2, 0, 1)
