"""What every stream must hold to."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Iterator

import numpy as np
import torch

from rtl_continual.streams import ImageSet, Stream
from rtl_continual.testing._suite import Outcome, Suite, require

__all__ = ["STREAM_SUITE", "check_stream"]

STREAM_SUITE: Suite[Stream] = Suite("stream")

Build = Callable[[], Stream]

_LOOK = 200
"""At most so many images of a part are looked at."""


def check_stream(build: Build) -> list[Outcome]:
    """Check a stream: its images, labels, parts, and that it is the same each time.

    Args:
        build: makes the stream.

    Returns:
        One outcome per property.

    Raises:
        ConformanceError: with every property that does not hold.
    """
    return STREAM_SUITE.check(build)


def _parts(stream: Stream) -> Iterator[tuple[str, ImageSet]]:
    for experience in stream.experiences:
        yield f"{experience.name} (training)", experience.train
        yield f"{experience.name} (validation)", experience.validation
    for domain, part in stream.tests.items():
        yield f"{domain} (test)", part


def _look(part: ImageSet) -> torch.Tensor:
    return part.batch(np.arange(min(len(part), _LOOK)))[0]


@STREAM_SUITE.add
def has_names(build: Build) -> None:
    """A name, classes and domains, none twice."""
    stream = build()
    require(stream.name, "the stream has no name")
    for what, names in (("classes", stream.classes), ("domains", stream.domains)):
        require(names, f"there are no {what}")
        require(len(set(names)) == len(names), f"{what} are named twice: {names}")


@STREAM_SUITE.add
def images_are_bytes(build: Build) -> None:
    """``uint8 [batch, channels, height, width]``."""
    for name, part in _parts(build()):
        images, targets = part.batch([0])
        require(images.dtype == torch.uint8, f"{name}: images are {images.dtype}, not uint8")
        require(images.ndim == 4, f"{name}: images are {list(images.shape)}")
        require(targets.dtype == torch.int64, f"{name}: targets are {targets.dtype}, not int64")


@STREAM_SUITE.add
def labels_are_known(build: Build) -> None:
    """Targets index classes, domains index domains."""
    stream = build()
    for name, part in _parts(stream):
        for what, values, names in (
            ("targets", part.targets, stream.classes),
            ("domains", part.domains, stream.domains),
        ):
            require(len(values) == len(part), f"{name}: {len(values)} {what}, {len(part)} images")
            fits = ((values >= 0) & (values < len(names))).all()
            require(fits, f"{name}: {what} leave 0..{len(names) - 1}")


@STREAM_SUITE.add
def tests_have_their_own_domain(build: Build) -> None:
    """A domain's test set has images of that domain alone."""
    stream = build()
    for index, (domain, part) in enumerate(stream.tests.items()):
        require((part.domains == index).all(), f"test set '{domain}' has images of other domains")


@STREAM_SUITE.add
def is_the_same_again(build: Build) -> None:
    """Two builds have one fingerprint and the same images."""
    one, other = build(), build()
    require(one.fingerprint, "the stream has no fingerprint")
    require(one.fingerprint == other.fingerprint, "two builds have different fingerprints")
    for (name, a), (_, b) in zip(_parts(one), _parts(other), strict=True):
        require(np.array_equal(a.targets, b.targets), f"{name}: two builds differ in their targets")
        require(torch.equal(_look(a), _look(b)), f"{name}: two builds differ in their images")


@STREAM_SUITE.add
def subsets_keep_the_order(build: Build) -> None:
    """``subset``, ``batch`` and indexing agree."""
    for name, part in _parts(build()):
        rows = [len(part) - 1, 0]
        images, targets = part.batch(rows)
        few = part.subset(rows)
        again = few.batch([0, 1])
        agree = torch.equal(again[0], images) and torch.equal(again[1], targets)
        require(agree, f"{name}: subset({rows}) has other images or targets than batch({rows})")
        image, target = part[rows[0]]
        agree = torch.equal(image, images[0]) and target == int(targets[0])
        require(agree, f"{name}: image {rows[0]} alone is another than in a batch")


@STREAM_SUITE.add
def tests_are_not_trained_on(build: Build) -> None:
    """No test image is a training image, among the first ones of each part."""
    stream = build()
    trained = {
        _digest(image)
        for experience in stream.experiences
        for part in (experience.train, experience.validation)
        for image in _look(part)
    }
    for domain, part in stream.tests.items():
        shared = sum(_digest(image) in trained for image in _look(part))
        require(not shared, f"{shared} test images of '{domain}' are training images")


def _digest(image: torch.Tensor) -> bytes:
    return hashlib.sha256(image.numpy().tobytes()).digest()


@STREAM_SUITE.add
def can_be_sent_to_a_worker(build: Build) -> None:
    """Parts can be pickled and read on the other side."""
    _, part = next(_parts(build()))
    copy = pickle.loads(pickle.dumps(part))
    require(torch.equal(copy.batch([0])[0], part.batch([0])[0]), "an image changes on the way")


@STREAM_SUITE.add
def an_empty_batch_has_no_images(build: Build) -> None:
    """No rows in, no images out, in the shape and type of others."""
    _, part = next(_parts(build()))
    images, targets = part.batch([])
    some, labels = part.batch([0])
    same = images.shape[1:] == some.shape[1:] and images.dtype == some.dtype
    require(len(images) == 0 and same, f"no rows give images {list(images.shape)} {images.dtype}")
    require(len(targets) == 0 and targets.dtype == labels.dtype, "no rows give targets")


@STREAM_SUITE.add
def reading_changes_nothing(build: Build) -> None:
    """What was read can be written to, and reads the same again."""
    state = torch.get_rng_state()
    for name, part in _parts(build()):
        images, targets = part.batch([0])
        before = images.clone(), targets.clone()
        images.fill_(7)
        targets.fill_(0)
        again = part.batch([0])
        same = torch.equal(again[0], before[0]) and torch.equal(again[1], before[1])
        require(same, f"{name}: writing to a batch changes the stream")
    require(torch.equal(torch.get_rng_state(), state), "draws from torch's global generator")
