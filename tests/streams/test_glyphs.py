"""The built-in stream of many characters."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.ft2font import FT2Font

from rtl_continual.streams import ArraySet, GlyphsConfig, Stream, build_stream
from rtl_continual.streams.glyphs import CLASSES, GLYPH_FONTS


@pytest.fixture(scope="module")
def glyphs(session_cache: Path) -> Stream:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RTL_CACHE", str(session_cache))
        return build_stream(GlyphsConfig())


def test_eighty_characters_in_one_domain(glyphs: Stream) -> None:
    assert len(set(CLASSES)) == 80
    assert glyphs.domains == ("printed",)
    (experience,) = glyphs.experiences
    parts = (experience.train, experience.validation, glyphs.tests["printed"])
    for part, each in zip(parts, (51, 9, 20), strict=True):
        assert np.bincount(part.targets).tolist() == [each] * 80


def test_no_image_is_in_two_parts(glyphs: Stream) -> None:
    (experience,) = glyphs.experiences
    seen: list[bytes] = []
    for part in (experience.train, experience.validation, glyphs.tests["printed"]):
        assert isinstance(part, ArraySet)
        seen += [image.numpy().tobytes() for image in part.images]
    assert len(set(seen)) == len(seen) == 6400


def test_every_font_has_every_character() -> None:
    assert len(GLYPH_FONTS) == 16
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    for font in GLYPH_FONTS:
        known = FT2Font(str(folder / f"{font}.ttf")).get_charmap()
        assert not [c for c in CLASSES if ord(c) not in known]
