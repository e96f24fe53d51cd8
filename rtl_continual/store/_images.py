"""Images from files, with a limit on their size before anything is decoded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from rtl_continual.backbones import InputSpec
from rtl_continual.errors import DataError

__all__ = ["read_images"]

_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
_MAX_PIXELS = 50_000_000


def read_images(paths: Sequence[Path], spec: InputSpec) -> tuple[torch.Tensor, list[str]]:
    """Read image files, and all those in folders, resized to what a backbone takes.

    Args:
        paths: files and folders.
        spec: of the backbone.

    Returns:
        ``uint8 [images, channels, height, width]`` and the files' paths.

    Raises:
        DataError: if a path does not exist, a file is no image, or has too many pixels.
    """
    files = [file for path in paths for file in _files(path)]
    if not files:
        raise DataError(f"no image files in {', '.join(map(str, paths))}")
    images = [_read(file, spec) for file in files]
    odd = next((f for f, x in zip(files, images, strict=True) if x.shape != images[0].shape), None)
    if odd is not None:
        raise DataError(
            f"{odd} is of another size than {files[0]}; this backbone takes any, but one"
        )
    return torch.stack(images), [str(file) for file in files]


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from sorted(p for p in path.rglob("*") if p.suffix.lower() in _SUFFIXES)
    elif path.is_file():
        yield path
    else:
        raise DataError(f"{path} does not exist")


def _read(path: Path, spec: InputSpec) -> torch.Tensor:
    try:
        with Image.open(path) as opened:
            if opened.width * opened.height > _MAX_PIXELS:
                raise DataError(
                    f"{path} has {opened.width} x {opened.height} pixels, at most {_MAX_PIXELS} "
                    "are read"
                )
            picture: Image.Image = opened.convert("L" if spec.channels == 1 else "RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as an image: {error}") from error
    if spec.size is not None and picture.size != (spec.size[1], spec.size[0]):
        picture = picture.resize((spec.size[1], spec.size[0]), Image.Resampling.BILINEAR)
    pixels = np.array(picture)
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1).contiguous()
