"""The built-in photos stream."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from rtl_continual.streams import ArraySet, ImageSet, PhotosConfig, Stream, build_stream


@pytest.fixture(scope="module")
def photos(session_cache: Path) -> Stream:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RTL_CACHE", str(session_cache))
        return build_stream(PhotosConfig())


def pixels(part: ImageSet) -> np.ndarray:
    assert isinstance(part, ArraySet)
    return part.images.numpy().astype(np.float64)


def test_five_domains_six_classes(photos: Stream) -> None:
    assert photos.domains == ("clear", "fog", "night", "grain", "sunset")
    assert photos.classes == ("temple", "petals", "bricks", "stripes", "dots", "stone")
    for index, experience in enumerate(photos.experiences):
        sizes = [len(experience.train), len(experience.validation)]
        assert [*sizes, len(photos.tests[experience.name])] == [1020, 180, 300]
        assert set(experience.train.targets.tolist()) == set(range(6))
        assert set(experience.train.domains.tolist()) == {index}


def test_no_image_is_in_two_parts(photos: Stream) -> None:
    seen: list[bytes] = []
    for experience in photos.experiences:
        for part in (experience.train, experience.validation, photos.tests[experience.name]):
            assert isinstance(part, ArraySet)
            seen += [image.numpy().tobytes() for image in part.images]
    # Patches of the plain sky are equal now and then; textures never are.
    assert len(set(seen)) > 0.999 * len(seen)


def test_domains_look_as_described(photos: Stream) -> None:
    looks = {e.name: pixels(e.train) for e in photos.experiences}
    clear = looks["clear"]
    contrast = {name: x.std(axis=(2, 3)).mean() for name, x in looks.items()}
    assert contrast["fog"] < 0.5 * contrast["clear"]
    assert looks["fog"].mean() > clear.mean() + 30
    assert looks["night"].mean() < 0.4 * clear.mean()
    red, blue = looks["sunset"].mean(axis=(0, 2, 3))[[0, 2]]
    assert red > blue + 60
    steps = {name: np.abs(np.diff(x, axis=3)).mean() for name, x in looks.items()}
    assert steps["grain"] > 1.5 * steps["clear"]


def test_options_are_those_of_every_drawn_stream(photos: Stream) -> None:
    part = build_stream(PhotosConfig(domains=("defocus", "fog"), images_per_domain=60, mix=2))
    assert part.domains == ("defocus", "fog")
    assert len(part.experiences) == 1
    assert len(part.experiences[0].train) == 120
    assert part.fingerprint != photos.fingerprint
    assert build_stream(PhotosConfig()).fingerprint == photos.fingerprint
    with pytest.raises(ValidationError, match="unknown domain 'fogg'; did you mean 'fog'"):
        PhotosConfig(domains=("fogg",))
    with pytest.raises(ValidationError, match="mix must be at most"):
        PhotosConfig(mix=6)
