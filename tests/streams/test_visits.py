"""Domains that come back, class mixes that change, bursts of broken images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from rtl_continual.streams import PhotosConfig, Stream, build_stream


@pytest.fixture
def build(session_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("RTL_CACHE", str(session_cache))

    def make(**options: Any) -> Stream:
        return build_stream(PhotosConfig(domains=("clear", "fog"), **options))

    return make


def images(stream: Stream, index: int) -> set[bytes]:
    part = stream.experiences[index].train
    return {row.numpy().tobytes() for row in part.batch(range(len(part)))[0]}


def test_a_domain_comes_back_with_images_of_its_own(build: Any) -> None:
    stream = build(visits=("clear", "fog", "clear"))
    assert [e.name for e in stream.experiences] == ["clear", "fog", "clear again"]
    assert [len(e.train) for e in stream.experiences] == [510, 1020, 510]
    assert not images(stream, 0) & images(stream, 2)
    assert set(stream.experiences[2].train.targets.tolist()) == set(range(6))
    assert list(stream.tests) == ["clear", "fog"]


def test_another_class_mix_follows_each_visit(build: Any) -> None:
    stream = build(skewed=4, skewed_images=40)
    assert len(stream.experiences) == 10
    assert [len(e.train) for e in stream.experiences[:5]] == [510, 40, 40, 40, 40]
    counts = [np.bincount(e.train.targets, minlength=6) for e in stream.experiences[:5]]
    assert counts[1].max() > 5 * counts[1].min() > 0
    assert (counts[2] > 0).sum() == 1
    assert (counts[4] > 0).sum() == 2
    assert not images(stream, 0) & (images(stream, 1) | images(stream, 2))
    assert {int(e.train.domains[0]) for e in stream.experiences[5:]} == {1}


def test_broken_images_arrive_in_a_row(build: Any) -> None:
    whole, burst = build(), build(broken=9)
    before, _ = whole.experiences[0].train.batch(range(1020))
    after, _ = burst.experiences[0].train.batch(range(1029))
    assert (after[:510] == before[:510]).all()
    assert (after[519:] == before[510:]).all()
    flat = after[511].flatten(1)
    assert (flat == flat[:, :1]).all()
    assert len(burst.experiences[0].validation) == len(whole.experiences[0].validation)


def test_options_that_are_off_change_no_fingerprint(build: Any) -> None:
    plain = build().fingerprint
    assert build(skewed=0, broken=0).fingerprint == plain
    assert build(broken=3).fingerprint != plain
    assert build(broken=3).fingerprint == build(broken=3).fingerprint


def test_options_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValidationError, match="mix 1 and blur 0"):
        PhotosConfig(skewed=2, mix=2)
    with pytest.raises(ValidationError, match="unknown domain 'fogg'; did you mean 'fog'"):
        PhotosConfig(visits=("clear", "fogg"))
    with pytest.raises(ValidationError, match="missing: night, grain, sunset"):
        PhotosConfig(visits=("clear", "fog"))
