"""The built-in digits stream."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from rtl_continual.streams import ArraySet, DigitsConfig, ImageSet, Stream, _render, build_digits
from rtl_continual.streams import digits as digits_module
from rtl_continual.streams._glyphs import PhotoPatches
from rtl_continual.streams._render import DOMAINS, DomainImages

WRITTEN = ("handwritten", "photo", "outline")


def rows(part: ImageSet) -> list[bytes]:
    """Each image of a set as bytes."""
    assert isinstance(part, ArraySet)
    return [image.numpy().tobytes() for image in part.images]


def counts(part: ImageSet, classes: int = 10) -> np.ndarray:
    return np.bincount(part.targets, minlength=classes)


def rendered() -> dict[str, DomainImages]:
    return digits_module._load_domains(DigitsConfig())[0]


def test_five_domains_ten_classes_about_1800_images_each(digits: Stream) -> None:
    assert digits.domains == DOMAINS
    assert digits.classes == tuple("0123456789")
    assert [experience.name for experience in digits.experiences] == list(DOMAINS)
    for index, experience in enumerate(digits.experiences):
        parts = (experience.train, experience.validation, digits.tests[experience.name])
        total = sum(len(part) for part in parts)
        assert 1790 <= total <= 1800
        assert len(parts[2]) == pytest.approx(total / 4, abs=5)
        assert len(parts[1]) == pytest.approx(0.15 * (len(parts[0]) + len(parts[1])), abs=5)
        for part in parts:
            images, targets = part.batch([0, len(part) - 1])
            assert images.shape == (2, 3, 32, 32)
            assert images.dtype.is_floating_point is False
            assert set(part.targets.tolist()) == set(range(10))
            assert set(part.domains.tolist()) == {index}
            assert targets.tolist() == [part.targets[0], part.targets[-1]]


def test_pixels_are_used_fully_and_differ_between_images(digits: Stream) -> None:
    for experience in digits.experiences:
        assert isinstance(experience.train, ArraySet)
        images = experience.train.images
        assert int(images.min()) < 30
        assert int(images.max()) > 225
        assert len(set(rows(experience.train))) == len(experience.train)


def test_same_options_give_the_same_stream(digits: Stream) -> None:
    again = build_digits(DigitsConfig())
    assert again.fingerprint == digits.fingerprint
    for mine, other in zip(again.experiences, digits.experiences, strict=True):
        assert rows(mine.train) == rows(other.train)
        assert mine.train.targets.tolist() == other.train.targets.tolist()


def test_rendering_is_deterministic_and_depends_on_the_seed() -> None:
    patches = PhotoPatches()

    def street(seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        return _render._street("7", rng, patches, held_out=False, distractors=2)

    assert np.array_equal(street(3), street(3))
    assert not np.array_equal(street(3), street(4))


def test_another_seed_is_another_stream(digits: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fewer(seed: int, distractors: int) -> dict[str, DomainImages]:
        asked.append((seed, distractors))
        generator = np.random.default_rng(seed)
        targets = np.repeat(np.arange(10), 8)
        held_out = np.tile([True, True] + [False] * 6, 10)
        order = np.tile([0, 1, 0, 1, 2, 3, 4, 5], 10)
        images = generator.integers(0, 256, (80, 3, 32, 32), dtype=np.uint8)
        data = DomainImages(images, targets, np.arange(80), held_out, order)
        return dict.fromkeys(DOMAINS, data)

    monkeypatch.setattr(digits_module, "render_digits", fewer)
    other = build_digits(DigitsConfig(seed=1))
    assert asked == [(1, 2)]
    assert other.source["content_hash"] != digits.source["content_hash"]
    assert other.fingerprint != digits.fingerprint


def test_one_original_is_in_the_same_part_of_every_domain(digits: Stream) -> None:
    domains = rendered()
    first = domains[WRITTEN[0]]
    for name in WRITTEN[1:]:
        assert np.array_equal(domains[name].sources, first.sources)
        assert np.array_equal(domains[name].held_out, first.held_out)
        assert np.array_equal(domains[name].order, first.order)
    numbers: set[int] = set()
    for name in ("handwritten", "printed", "street"):
        fresh = set(domains[name].sources.tolist())
        assert len(fresh) == len(domains[name].sources)
        assert not numbers & fresh
        numbers |= fresh


@pytest.mark.parametrize(
    "options",
    [{}, {"imbalance": 50}, {"mix": 2, "blur": 0.5}, {"images_per_domain": 100}],
    ids=["plain", "imbalanced", "mixed", "small"],
)
def test_no_source_is_in_two_parts(options: dict[str, object]) -> None:
    config = DigitsConfig.model_validate(options)
    stream = build_digits(config)
    where = {
        data.images[i].tobytes(): int(data.sources[i])
        for data in rendered().values()
        for i in range(len(data.targets))
    }
    used = {
        "train": {where[r] for e in stream.experiences for r in rows(e.train)},
        "validation": {where[r] for e in stream.experiences for r in rows(e.validation)},
        "test": {where[r] for part in stream.tests.values() for r in rows(part)},
    }
    assert not used["train"] & used["test"]
    assert not used["validation"] & used["test"]
    assert not used["train"] & used["validation"]


def test_photo_tiles_of_test_images_are_used_for_nothing_else() -> None:
    tiles = PhotoPatches()._tiles
    kept, free = (
        {np.asarray(tile).tobytes() for tile in tiles[held_out]} for held_out in (True, False)
    )
    assert len(kept) == 20
    assert len(free) == 60
    assert not kept & free


def test_caps_keep_classes_balanced() -> None:
    stream = build_digits(DigitsConfig(images_per_domain=100, test_images_per_domain=50))
    for experience in stream.experiences:
        assert counts(experience.train).tolist() == [10] * 10
        assert len(experience.validation) <= 30
        assert counts(stream.tests[experience.name]).tolist() == [5] * 10


def test_imbalance_has_the_asked_ratio_and_differs_between_domains() -> None:
    stream = build_digits(DigitsConfig(imbalance=20))
    largest = set()
    for experience in stream.experiences:
        sizes = counts(experience.train)
        assert sizes.max() / sizes.min() == pytest.approx(20, rel=0.2)
        assert sizes.sum() < 600
        assert counts(experience.validation).min() >= 1
        largest.add(int(sizes.argmax()))
        assert counts(stream.tests[experience.name]).min() >= 40
    assert len(largest) == 5


def test_order_and_choice_of_domains(digits: Stream) -> None:
    stream = build_digits(DigitsConfig(domains=("street", "handwritten")))
    assert stream.domains == tuple(stream.tests) == ("street", "handwritten")
    assert set(stream.experiences[1].train.domains.tolist()) == {1}
    assert rows(stream.tests["street"]) == rows(digits.tests["street"])
    assert rows(stream.experiences[0].train) == rows(digits.experiences[3].train)
    assert stream.fingerprint != digits.fingerprint


def test_mix_shuffles_neighbouring_domains_together(digits: Stream) -> None:
    stream = build_digits(DigitsConfig(mix=2))
    assert [e.name for e in stream.experiences] == ["experience 0", "experience 1", "experience 2"]
    found = [sorted(set(e.train.domains.tolist())) for e in stream.experiences]
    assert found == [[0, 1], [2, 3], [4]]
    first = stream.experiences[0].train.domains
    assert abs(first[:200].mean() - 0.5) < 0.15
    assert sum(len(e.train) for e in stream.experiences) == sum(
        len(e.train) for e in digits.experiences
    )


def test_blur_fades_neighbouring_domains_into_each_other(digits: Stream) -> None:
    stream = build_digits(DigitsConfig(blur=0.4))
    for index, experience in enumerate(stream.experiences):
        shares = np.bincount(experience.train.domains, minlength=5) / len(experience.train)
        neighbours = [i for i in (index - 1, index + 1) if 0 <= i < 5]
        assert np.flatnonzero(shares).tolist() == sorted([index, *neighbours])
        # A uniform move of at most 0.4 carries a tenth of a domain over each boundary.
        assert shares[neighbours] == pytest.approx([0.1] * len(neighbours), abs=0.03)
    sizes = [len(experience.train) for experience in stream.experiences]
    assert sum(sizes) == sum(len(experience.train) for experience in digits.experiences)
    # The order inside an experience is the order of arrival: the next domain comes late.
    late = np.flatnonzero(stream.experiences[0].train.domains == 1)
    assert late.min() > 0.5 * sizes[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"domains": ["handwriten"]}, "did you mean 'handwritten'"),
        ({"domains": ["photo", "photo"]}, "repeated: photo"),
        ({"domains": []}, "at least 1 item"),
        ({"domains": ["photo"], "mix": 2}, "mix must be at most the number of domains"),
        ({"imbalance": 0.5}, "greater than or equal to 1"),
        ({"blur": 1.5}, "less than or equal to 1"),
        ({"validation_fraction": 0}, "greater than 0"),
        ({"images_per_domain": 5}, "greater than or equal to 10"),
        ({"sed": 1}, "Extra inputs"),
        ({"name": "digitz"}, "'digits'"),
    ],
)
def test_bad_options_say_what_is_wrong(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DigitsConfig.model_validate(options)


def test_every_option_is_described() -> None:
    for name, field in DigitsConfig.model_fields.items():
        assert field.description, name
