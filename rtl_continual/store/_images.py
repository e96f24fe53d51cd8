"""Images from files, bytes, arrays and PIL, with limits that hold before anything is decoded."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from rtl_continual.backbones import InputSpec
from rtl_continual.errors import DataError
from rtl_continual.streams import IMAGE_SUFFIXES

__all__ = [
    "DECODERS",
    "MAX_PIXELS",
    "as_images",
    "decode_image",
    "image_files",
    "read_images",
    "stack_images",
]

MAX_PIXELS = 50_000_000
"""Width times height above which a file is refused before it is decoded."""

# Those of IMAGE_SUFFIXES: other decoders of Pillow's are not asked, whatever a file says it is.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
DECODERS = 4
"""Threads that decode at a time."""


def read_images(paths: Sequence[Path], spec: InputSpec) -> tuple[torch.Tensor, list[str]]:
    """Read image files, and all those in folders, as a backbone takes them.

    Args:
        paths: files and folders.
        spec: of the backbone.

    Returns:
        ``uint8 [images, channels, height, width]`` and the files' paths.

    Raises:
        DataError: if a path does not exist, a file is no image, or has too many pixels.
    """
    files = image_files(paths)
    return stack_images([decode_image(file, spec) for file in files], files), [
        str(f) for f in files
    ]


def image_files(paths: Sequence[Path]) -> list[Path]:
    """These files, and the image files in these folders and below.

    Raises:
        DataError: if a path does not exist, or there are none.
    """
    files = [file for path in paths for file in _files(path)]
    if not files:
        raise DataError(f"no image files in {', '.join(map(str, paths))}")
    return files


def as_images(inputs: Any, spec: InputSpec) -> torch.Tensor:
    """Whatever shows images and is no tensor, as one.

    Args:
        inputs: a NumPy array ``[height, width, channels]``, ``[height, width]``, or a batch of
            such, ``uint8`` or floating point in 0..1, with the channels last or first; a PIL image
            or a path; or a list of PIL images, paths and arrays ``[height, width, channels]``.
        spec: of the backbone. PIL images and files are brought to its size; arrays and tensors
            must have it.

    Returns:
        ``[images, channels, height, width]``.

    Raises:
        DataError: if it is nothing of that, or a file cannot be read.
    """
    if isinstance(inputs, np.ndarray):
        return _from_array(inputs, spec)
    if isinstance(inputs, str | Path | Image.Image):
        return as_images([inputs], spec)
    if not isinstance(inputs, Sequence) or isinstance(inputs, bytes):
        raise DataError(
            "images are a tensor, a NumPy array, PIL images or paths of files, got "
            f"{type(inputs).__name__}"
        )
    if inputs and all(isinstance(item, torch.Tensor) for item in inputs):
        return stack_images(list(inputs), range(len(inputs)))
    if not inputs:
        raise DataError("there are no images in the list")
    return stack_images([_one(item, spec) for item in inputs], range(len(inputs)))


def decode_image(
    source: Path | bytes, spec: InputSpec, *, max_pixels: int | None = None, name: str = ""
) -> torch.Tensor:
    """One image file: upright, its shorter side brought to the backbone's, the middle cut out.

    Args:
        source: a file, or its bytes.
        spec: of the backbone.
        max_pixels: width times height above which it is refused; :data:`MAX_PIXELS` by default.
        name: for messages, where there is no path.

    Returns:
        ``uint8 [channels, height, width]``.

    Raises:
        DataError: if it is no image, or has too many pixels.
    """
    limit = MAX_PIXELS if max_pixels is None else max_pixels
    where = name or str(source if isinstance(source, Path) else "the image")
    try:
        with Image.open(
            source if isinstance(source, Path) else io.BytesIO(source), formats=_FORMATS
        ) as opened:
            if opened.width * opened.height > limit:
                raise DataError(
                    f"{where} has {opened.width} x {opened.height} pixels, at most {limit} are read"
                )
            return _fitted(ImageOps.exif_transpose(opened), spec)
    # Pillow's decoders raise all of these on damaged files.
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        IndexError,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as error:
        raise DataError(f"{where} cannot be read as an image: {error}") from error


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        found = (p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        # Reading a pipe would wait for ever.
        yield from sorted(p for p in found if p.is_file())
    elif path.is_file():
        yield path
    else:
        raise DataError(f"{path} does not exist")


def stack_images(images: list[torch.Tensor], names: Sequence[Any]) -> torch.Tensor:
    """Images of one size as a batch; ``names`` are for the message where one is of another."""
    odd = next((n for n, x in zip(names, images, strict=True) if x.shape != images[0].shape), None)
    if odd is not None:
        raise DataError(
            f"image {odd} is of another size than {names[0]}; this backbone takes any, but one"
        )
    return torch.stack(images)


def _one(item: Any, spec: InputSpec) -> torch.Tensor:
    if isinstance(item, str | Path):
        path = Path(item)
        if not path.is_file():
            raise DataError(f"{path} does not exist")
        return decode_image(path, spec)
    if isinstance(item, Image.Image):
        return _fitted(item, spec)
    if isinstance(item, np.ndarray) and item.ndim in (2, 3):
        return _from_array(item, spec)[0]
    raise DataError(
        f"a list of images holds PIL images, paths or arrays, got {type(item).__name__}"
    )


def _from_array(array: np.ndarray, spec: InputSpec) -> torch.Tensor:
    shape = list(array.shape)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim == 3:
        array = array[None]
    if array.ndim != 4 or spec.channels not in (array.shape[1], array.shape[3]):
        raise DataError(
            f"an array of images is [height, width, {spec.channels}] or a batch of such, got "
            f"{shape}"
        )
    if array.shape[3] == spec.channels:
        array = array.transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(array))


def _fitted(image: Image.Image, spec: InputSpec) -> torch.Tensor:
    """A picture as ``uint8 [channels, height, width]`` of the backbone's size."""
    if image.mode.startswith("I;16"):
        # Pillow clips 16-bit values to white instead of scaling them.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        # Pillow asks for this detour with a warning.
        image = image.convert("RGBA")
    image = image.convert("L" if spec.channels == 1 else "RGB")
    if spec.size is not None and image.size != (spec.size[1], spec.size[0]):
        # Both sides reach at least the wanted ones, then the middle is cut out.
        height, width = spec.size
        scale = max(width / image.width, height / image.height)
        sides = max(width, int(image.width * scale)), max(height, int(image.height * scale))
        image = image.resize(sides, Image.Resampling.BILINEAR)
        left, top = round((sides[0] - width) / 2), round((sides[1] - height) / 2)
        image = image.crop((left, top, left + width, top + height))
    pixels = np.array(image)
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1).contiguous()
