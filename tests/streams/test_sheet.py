"""The contact sheet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rtl_continual.errors import DataError
from rtl_continual.streams import ArraySet, Experience, Stream, contact_sheet


@pytest.fixture
def toy() -> Stream:
    """Two domains of two classes; class 1 has no image in the second domain's training set."""
    rng = np.random.default_rng(0)
    experiences = []
    for domain, targets in enumerate(([0, 0, 1], [0, 0, 0])):
        images = rng.integers(0, 256, (3, 3, 8, 8), dtype=np.uint8)
        part = ArraySet(images, targets, domain)
        experiences.append(Experience(f"d{domain}", part, part))
    tests = {f"d{domain}": experiences[domain].validation for domain in range(2)}
    return Stream("toy", ("a", "b"), ("d0", "d1"), tuple(experiences), tests)


def test_sheet_holds_the_training_images(toy: Stream, tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    contact_sheet(toy, path, samples=2, scale=1)
    sheet = np.asarray(Image.open(path))
    train = toy.experiences[0].train
    assert isinstance(train, ArraySet)
    for image in train.images.permute(0, 2, 3, 1).numpy():
        windows = np.lib.stride_tricks.sliding_window_view(sheet, (8, 8, 3))
        assert (windows == image).all(axis=(-1, -2, -3)).any()


def test_unwritable_sheet_is_one_clear_message(toy: Stream, tmp_path: Path) -> None:
    for name in ("missing/sheet.png", "sheet.unknown"):
        with pytest.raises(DataError, match="cannot write the contact sheet"):
            contact_sheet(toy, tmp_path / name)


def test_a_sheet_of_too_many_classes_is_refused(toy: Stream, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"2 domains and 2 classes would be .* choose fewer"):
        contact_sheet(toy, tmp_path / "sheet.png", samples=2, scale=1000)
