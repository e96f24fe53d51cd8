"""One picture that shows what a stream looks like."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rtl_continual.errors import DataError
from rtl_continual.streams._decode import MAX_PIXELS
from rtl_continual.streams._stream import ImageSet, Stream

__all__ = ["contact_sheet"]

GAP = 6
LABEL_HEIGHT = 18


def contact_sheet(stream: Stream, path: str | Path, *, samples: int = 2, scale: int = 2) -> None:
    """Draw samples of every domain and class into an image file.

    Each domain is a row under its name; each class is a group of ``samples`` columns. Training
    images are shown, so that nobody gets to know the test set by looking.

    Args:
        stream: the stream to show.
        path: the file; its ending chooses the format.
        samples: images per domain and class.
        scale: screen pixels per image pixel.

    Raises:
        DataError: if the file cannot be written, its ending names no image format, or the sheet
            would be too large.
    """
    sets = [experience.train for experience in stream.experiences]
    first, _ = sets[0].batch([0])
    height, width = (int(side) * scale for side in first.shape[2:])
    columns = len(stream.classes) * samples
    label_width = 8 * max(len(name) for name in stream.domains) + 2 * GAP
    size = (
        label_width + columns * width + len(stream.classes) * GAP,
        LABEL_HEIGHT + len(stream.domains) * (height + GAP) + GAP,
    )
    if size[0] * size[1] > MAX_PIXELS:
        raise DataError(
            f"a contact sheet of {len(stream.domains)} domains and {len(stream.classes)} classes "
            f"would be {size[0]} x {size[1]} pixels; choose fewer classes or a smaller image_size"
        )
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    for target, name in enumerate(stream.classes):
        left = label_width + target * (samples * width + GAP)
        pen.text((left + samples * width / 2, 2), name, fill="black", font=font, anchor="ma")
    for domain, domain_name in enumerate(stream.domains):
        top = LABEL_HEIGHT + domain * (height + GAP)
        pen.text((GAP, top + height / 2), domain_name, fill="black", font=font, anchor="lm")
        for target in range(len(stream.classes)):
            left = label_width + target * (samples * width + GAP)
            for number, picture in enumerate(_find(sets, domain, target, samples)):
                tile = Image.fromarray(picture).resize((width, height), Image.Resampling.NEAREST)
                sheet.paste(tile, (left + number * width, top))
    try:
        sheet.save(path)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot write the contact sheet {path}: {error}") from error


def _find(sets: list[ImageSet], domain: int, target: int, samples: int) -> list[np.ndarray]:
    """The first ``samples`` pictures ``uint8 [height, width, 3]`` of one domain and class."""
    pictures: list[np.ndarray] = []
    for part in sets:
        rows = np.flatnonzero((part.domains == domain) & (part.targets == target))
        rows = rows[: samples - len(pictures)]
        if len(rows):
            images, _ = part.batch(rows)
            pictures += list(images.permute(0, 2, 3, 1).numpy())
    return pictures
