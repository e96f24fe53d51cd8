"""Drawing characters: fonts, placement, and the styles that streams and pretraining share.

Everything is drawn from a ``numpy.random.Generator``, so equal generators give equal pixels for
equal versions of the libraries that rasterise (Pillow, Matplotlib's fonts, NumPy).
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

__all__ = [
    "FONTS",
    "SIZE",
    "PhotoPatches",
    "blend_difference",
    "contour",
    "contrasting_colour",
    "draw_character",
    "enlarge",
    "paint_over",
    "random_colour",
    "shrink",
    "warp",
]

SIZE = 32
"""Height and width of every image in pixels."""

FINE = 2 * SIZE
"""Height and width of the canvas on which shapes are drawn before they are shrunk."""

FONTS = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
    *("cmb10", "cmr10", "cmss10", "cmtt10"),
)
"""The twenty text fonts that Matplotlib ships."""


MARGIN = 2
"""Empty pixels around a character's large bitmap."""


@lru_cache(maxsize=4096)
def _glyph(font: str, character: str) -> Image.Image:
    """One character's tight coverage bitmap, mode ``L``, drawn large."""
    import matplotlib  # Slow to load, and needed for nothing but drawing.

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"
    face = ImageFont.truetype(str(path), 72, layout_engine=ImageFont.Layout.BASIC)
    left, top, right, bottom = face.getbbox(character)
    # The margin keeps the edge soft when the bitmap is turned or scaled.
    width, height = round(right - left) + 2 * MARGIN, round(bottom - top) + 2 * MARGIN
    image = Image.new("L", (width, height))
    ImageDraw.Draw(image).text((MARGIN - left, MARGIN - top), character, fill=255, font=face)
    return image


def draw_character(
    character: str,
    font: str,
    *,
    size: float,
    centre: tuple[float, float] = (SIZE / 2, SIZE / 2),
    angle: float = 0.0,
    shear: float = 0.0,
    stretch: float = 1.0,
) -> Image.Image:
    """Draw one character.

    Args:
        character: a single character.
        font: one of :data:`FONTS`.
        size: the longer side of the character's tight box, in pixels of the finished image.
        centre: where the box's centre lies, ``(x, y)`` in pixels of the finished image.
        angle: counter-clockwise rotation in degrees.
        shear: horizontal shift per unit of height.
        stretch: horizontal scale on top of ``size``.

    Returns:
        Coverage, mode ``L``, on the fine canvas.
    """
    glyph = _glyph(font, character)
    scale = size * (FINE / SIZE) / (max(glyph.size) - 2 * MARGIN)
    turn = np.deg2rad(angle)
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    forward = rotation @ np.array([[1.0, -shear], [0.0, 1.0]]) @ np.diag([scale * stretch, scale])
    back = np.linalg.inv(forward)
    middle = np.array(centre) * (FINE / SIZE)
    offset = np.array(glyph.size) / 2 - back @ middle
    coefficients = (back[0, 0], back[0, 1], offset[0], back[1, 0], back[1, 1], offset[1])
    return glyph.transform(
        (FINE, FINE), Image.Transform.AFFINE, coefficients, resample=Image.Resampling.BICUBIC
    )


def warp(image: Image.Image, rng: np.random.Generator, strength: float) -> Image.Image:
    """Bend an image by moving the knots of a 3 x 3 mesh, as a hand that draws unevenly does.

    Args:
        image: any image.
        rng: where the moves come from.
        strength: standard deviation of a knot's move, as a fraction of the image's side.
    """
    width, height = image.size
    grid = np.stack(np.meshgrid([0, width // 2, width], [0, height // 2, height]), axis=-1)
    knots = grid + rng.normal(0.0, strength, grid.shape) * (width, height)
    mesh = []
    for row in range(2):
        for column in range(2):
            box = (*grid[row, column], *grid[row + 1, column + 1])
            corners = ((row, column), (row + 1, column), (row + 1, column + 1), (row, column + 1))
            quad = tuple(float(v) for corner in corners for v in knots[corner])
            mesh.append((tuple(int(v) for v in box), quad))
    return image.transform(
        image.size, Image.Transform.MESH, mesh, resample=Image.Resampling.BILINEAR
    )


def shrink(image: Image.Image) -> np.ndarray:
    """A fine canvas as coverage 0..1, ``float32 [32, 32]``."""
    small = image.resize((SIZE, SIZE), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32) / 255


def enlarge(cells: np.ndarray, size: int) -> np.ndarray:
    """Enlarge ``[8, 8]`` ink counts 0..16 smoothly to ``float32 [size, size]`` in 0..1.

    The UCI digits are stored as such counts (Alpaydin and Kaynak, 1998).

    One empty cell is added on each side, so strokes at the edge keep their outline.
    """
    grey = np.pad(np.round(cells * (255 / 16)).clip(0, 255).astype(np.uint8), 1)
    big = Image.fromarray(grey).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(big, dtype=np.float32) / 255


def contour(field: np.ndarray, level: float, width: float) -> np.ndarray:
    """Draw the line along which a smooth field crosses a level.

    Args:
        field: ``[height, width]``.
        level: the value on the line.
        width: half the line's thickness, in pixels of the field.

    Returns:
        Ink 0..1, shaped like ``field``.
    """
    down, right = np.gradient(field)
    distance = np.abs(field - level) / (np.hypot(down, right) + 1e-3)
    return np.asarray(np.clip(width + 0.5 - distance, 0.0, 1.0), dtype=np.float32)


def random_colour(rng: np.random.Generator, low: int = 0, high: int = 256) -> np.ndarray:
    """A colour ``float32 [3]`` whose channels lie in ``low..high - 1``."""
    return rng.integers(low, high, 3).astype(np.float32)


def contrasting_colour(
    rng: np.random.Generator, canvas: np.ndarray, channel: float = 90, grey: float = 35
) -> np.ndarray:
    """Draw colours until one stands out from the canvas ``[height, width, 3]``.

    Args:
        rng: where colours come from.
        canvas: what the colour is painted on.
        channel: least distance to the canvas's mean in some channel, of 255.
        grey: least distance of the grey values, of 255.
    """
    mean = canvas.mean(axis=(0, 1))
    while True:
        colour = random_colour(rng)
        if np.abs(colour - mean).max() > channel and abs(colour.mean() - mean.mean()) > grey:
            return colour


def paint_over(canvas: np.ndarray, coverage: np.ndarray, colour: np.ndarray | float) -> np.ndarray:
    """Paint ``colour`` where there is ``coverage``; canvas is ``[32, 32, 3]``, 0..255."""
    alpha = coverage[..., None]
    return np.asarray(canvas * (1 - alpha) + colour * alpha)


def blend_difference(patch: np.ndarray, coverage: np.ndarray) -> np.ndarray:
    """Absolute difference of a photo and white ink, as in MNIST-M (Ganin et al., 2016)."""
    return np.asarray(np.abs(patch - 255 * coverage[..., None]))


class PhotoPatches:
    """Square patches of scikit-learn's two sample photographs.

    The photographs are cut into tiles of 80 pixels. Every fourth tile is held out, so a patch for
    testing shares no pixel with a patch for training.
    """

    TILE = 80

    def __init__(self) -> None:
        from sklearn.datasets import load_sample_images

        self._tiles: dict[bool, list[Image.Image]] = {False: [], True: []}
        for photo in load_sample_images().images:
            rows, columns = photo.shape[0] // self.TILE, photo.shape[1] // self.TILE
            for row in range(rows):
                for column in range(columns):
                    top, left = row * self.TILE, column * self.TILE
                    tile = Image.fromarray(photo[top : top + self.TILE, left : left + self.TILE])
                    self._tiles[(2 * row + column) % 4 == 0].append(tile)

    def draw(
        self, rng: np.random.Generator, *, held_out: bool, zoom: float = 2.0, blur: float = 0.0
    ) -> np.ndarray:
        """Draw one patch.

        Args:
            rng: where tile, place, size and flips come from.
            held_out: take it from the tiles kept for testing.
            zoom: the patch covers between 32 and ``32 * zoom`` pixels of the photograph.
            blur: radius of a Gaussian blur in pixels.

        Returns:
            ``float32 [32, 32, 3]``, 0..255.
        """
        tiles = self._tiles[held_out]
        tile = tiles[int(rng.integers(len(tiles)))]
        side = float(rng.uniform(SIZE, min(SIZE * zoom, self.TILE)))
        left, top = (float(v) for v in rng.uniform(0, self.TILE - side, 2))
        box = (left, top, left + side, top + side)
        patch = tile.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=box)
        if rng.random() < 0.5:
            patch = patch.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if blur > 0:
            patch = patch.filter(ImageFilter.GaussianBlur(blur))
        return np.asarray(patch, dtype=np.float32)
