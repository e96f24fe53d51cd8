"""What streams that are drawn on this machine share: options, parts and order of arrival."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import ClassVar, Protocol, cast

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from rtl_continual.errors import unknown_name
from rtl_continual.streams._cache import cached_arrays
from rtl_continual.streams._compose import arrival_times, class_weights, take_counts
from rtl_continual.streams._stream import ArraySet, Experience, Stream
from rtl_continual.streams._visits import arrange_visits, with_burst

__all__ = ["DomainImages", "RenderedConfig", "RenderedImages", "arrange", "load_rendered"]

LIBRARIES = ("matplotlib", "numpy", "pillow", "scikit-learn")
"""What the pixels depend on beside our code."""

_GROWTH = ("visits", "skewed", "skewed_images", "broken")
"""Options that only add to a stream."""


class RenderedImages(Protocol):
    """All images of one domain.

    ``images`` is ``uint8 [n, 3, height, width]``, ``targets`` ``int64 [n]``, ``held_out`` marks
    what tests may use, and ``order`` says which of the others come first when there is a limit;
    images of one class that share a place are never split between training and validation.
    """

    @property
    def images(self) -> np.ndarray: ...

    @property
    def targets(self) -> np.ndarray: ...

    @property
    def held_out(self) -> np.ndarray: ...

    @property
    def order(self) -> np.ndarray: ...


@dataclass(frozen=True)
class DomainImages:
    """One domain's images, in memory; see :class:`RenderedImages`."""

    images: np.ndarray
    targets: np.ndarray
    held_out: np.ndarray
    order: np.ndarray


class RenderedConfig(BaseModel):
    """Options that every drawn stream has; a subclass names its domains and its classes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    all_domains: ClassVar[tuple[str, ...]]
    all_classes: ClassVar[tuple[str, ...]]

    name: str = Field(description="The stream's name.")
    seed: int = Field(
        default=0,
        ge=0,
        description="Seed of rendering, of the split and of the order within experiences.",
    )
    domains: tuple[str, ...] = Field(
        min_length=1, description="Domains in the order in which they arrive."
    )
    images_per_domain: int | None = Field(
        default=None,
        ge=10,
        description="At most this many training images per domain; none means all (about 1,150).",
    )
    test_images_per_domain: int | None = Field(
        default=None,
        ge=10,
        description="At most this many test images per domain; none means all (about 450).",
    )
    validation_fraction: float = Field(
        default=0.15,
        gt=0,
        le=0.5,
        description="Fraction of the training sources kept for validation.",
    )
    imbalance: float = Field(
        default=1.0,
        ge=1,
        le=1000,
        description=(
            "Ratio of the largest to the smallest class in training and validation; "
            "which classes are rare differs from domain to domain. 1 changes nothing."
        ),
    )
    mix: int = Field(
        default=1,
        ge=1,
        description="How many neighbouring domains are shuffled into one experience.",
    )
    blur: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description=(
            "Over which fraction of an experience, on each side of a boundary, "
            "neighbouring experiences fade into each other."
        ),
    )
    visits: tuple[str, ...] | None = Field(
        default=None,
        min_length=1,
        description=(
            "Domains in the order in which they are visited; one that is named again comes back "
            "with images of its own. None visits each domain once."
        ),
    )
    skewed: int = Field(
        default=0,
        ge=0,
        le=100,
        description=(
            "So many small experiences follow each visit: the same domain with another class mix, "
            "in turn a long tail, and one to three classes alone."
        ),
    )
    skewed_images: int = Field(
        default=64, ge=1, description="Images in each experience with another class mix."
    )
    broken: int = Field(
        default=0,
        ge=0,
        le=1000,
        description="So many broken images arrive in a row amid each training experience.",
    )

    @field_validator("domains")
    @classmethod
    def _known_domains(cls, domains: tuple[str, ...]) -> tuple[str, ...]:
        for domain in domains:
            if domain not in cls.all_domains:
                raise ValueError(unknown_name("domain", domain, cls.all_domains))
        repeated = sorted({domain for domain in domains if domains.count(domain) > 1})
        if repeated:
            raise ValueError(f"each domain may be named once, repeated: {', '.join(repeated)}")
        return domains

    @model_validator(mode="after")
    def _mix_fits(self) -> RenderedConfig:
        if self.mix > len(self.domains):
            raise ValueError(
                f"mix must be at most the number of domains ({len(self.domains)}), got {self.mix}"
            )
        return self

    @model_validator(mode="after")
    def _visits_fit(self) -> RenderedConfig:
        if (self.visits is not None or self.skewed) and (self.mix > 1 or self.blur > 0):
            raise ValueError("visits and skewed need one domain an experience: mix 1 and blur 0")
        for name in self.visits or ():
            if name not in self.domains:
                raise ValueError("visits: " + unknown_name("domain", name, self.domains))
        missing = [name for name in self.domains if self.visits and name not in self.visits]
        if missing:
            raise ValueError(f"visits must name every domain, missing: {', '.join(missing)}")
        return self


def load_rendered(
    stem: str, make: Callable[[], dict[str, np.ndarray]]
) -> tuple[dict[str, np.ndarray], str]:
    """Arrays from the cache folder, or made and kept; the file's name tells library versions.

    Args:
        stem: names everything the pixels depend on but the libraries.
        make: draws the arrays.

    Returns:
        The arrays and their content hash.

    Raises:
        DataError: if the cache folder cannot be written.
    """
    libraries = "|".join(f"{name} {version(name)}" for name in LIBRARIES)
    key = hashlib.sha256(libraries.encode()).hexdigest()[:8]
    return cached_arrays(f"{stem}-{key}.npz", make)


def arrange(
    rendered: Mapping[str, RenderedImages],
    content: str,
    config: RenderedConfig,
    *,
    classes: Sequence[str] | None = None,
) -> Stream:
    """Split drawn domains into parts and put them in their order of arrival.

    Args:
        rendered: every domain's images, by name.
        content: the images' content hash.
        config: the options.
        classes: what targets index; none means all classes of the stream.
    """
    all_domains = config.all_domains
    classes = tuple(config.all_classes if classes is None else classes)
    groups = [
        config.domains[start : start + config.mix]
        for start in range(0, len(config.domains), config.mix)
    ]
    train: list[_Part] = []
    validation: list[_Part] = []
    tests: dict[str, ArraySet] = {}
    for index, domain in enumerate(config.domains):
        data = rendered[domain]
        chosen = _choose(data, config, len(classes), shift=2 * all_domains.index(domain))
        tests[domain] = ArraySet(data.images[chosen["test"]], data.targets[chosen["test"]], index)
        rng = np.random.default_rng([config.seed, all_domains.index(domain)])
        for parts, name in ((train, "train"), (validation, "validation")):
            rows = chosen[name]
            times = arrival_times(len(rows), index // config.mix, len(groups), config.blur, rng)
            parts.append(_Part(data.images[rows], data.targets[rows], index, times))
    experiences = []
    for number, group in enumerate(groups):
        name = group[0] if config.mix == 1 else f"experience {number}"
        experiences.append(Experience(name, _gather(train, number), _gather(validation, number)))
    draw = np.random.default_rng([config.seed, len(all_domains)])
    if config.visits is not None or config.skewed:
        experiences = arrange_visits(
            experiences,
            [config.domains.index(name) for name in config.visits or config.domains],
            skewed=config.skewed,
            skewed_images=config.skewed_images,
            rng=draw,
        )
    if config.broken:
        experiences = [
            replace(e, train=with_burst(cast(ArraySet, e.train), config.broken, draw))
            for e in experiences
        ]
    options = config.model_dump(mode="json")
    # Options of growth that are off leave the content as it is, and so its name.
    off = {name: field.default for name, field in type(config).model_fields.items()}
    named = {k: v for k, v in options.items() if k not in _GROWTH or v != off[k]}
    fingerprint = hashlib.sha256(
        f"{content}|{json.dumps(named, sort_keys=True)}".encode()
    ).hexdigest()
    return Stream(
        name=config.name,
        classes=classes,
        domains=config.domains,
        experiences=tuple(experiences),
        tests=dict(tests),
        fingerprint=fingerprint,
        source={"content_hash": content, "options": options},
    )


class _Part:
    """The chosen images of one domain and when they arrive."""

    def __init__(
        self, images: np.ndarray, targets: np.ndarray, domain: int, times: np.ndarray
    ) -> None:
        self.images = images
        self.targets = targets
        self.domains = np.full(len(targets), domain, dtype=np.int64)
        self.times = times


def _choose(
    data: RenderedImages, config: RenderedConfig, count: int, shift: int
) -> dict[str, np.ndarray]:
    """Rows of the test, validation and training part, of ``count`` classes each."""
    pools = {name: [np.empty(0, np.int64)] * count for name in ("test", "validation", "train")}
    for target in range(count):
        mine = data.targets == target
        for held_out in (True, False):
            rows = np.flatnonzero(mine & (data.held_out == held_out))
            rows = rows[np.argsort(data.order[rows], kind="stable")]
            if held_out:
                pools["test"][target] = rows
            else:
                kept = max(round(len(rows) * config.validation_fraction), 1)
                # Images of one place in the order belong together, so validation takes all or none.
                places = data.order[rows]
                kept = int(np.searchsorted(places, places[min(kept, len(rows)) - 1], side="right"))
                pools["validation"][target], pools["train"][target] = rows[:kept], rows[kept:]
    sizes = {name: np.array([len(rows) for rows in pool]) for name, pool in pools.items()}
    weights = class_weights(count, config.imbalance, shift)
    counts = {"train": take_counts(sizes["train"], weights, config.images_per_domain)}
    # Validation is thinned with training, so that it stays the same kind of data.
    share = counts["train"] / sizes["train"]
    counts["validation"] = np.maximum(np.round(share * sizes["validation"]), 1).astype(np.int64)
    counts["test"] = take_counts(sizes["test"], np.ones(count), config.test_images_per_domain)
    return {
        name: np.concatenate([rows[:n] for rows, n in zip(pool, counts[name], strict=True)])
        for name, pool in pools.items()
    }


def _gather(parts: list[_Part], experience: int) -> ArraySet:
    """What arrives during one experience, in the order of arrival."""
    images, targets, domains, times = (
        np.concatenate([getattr(part, field) for part in parts])
        for field in ("images", "targets", "domains", "times")
    )
    rows = np.flatnonzero(times.astype(np.int64) == experience)
    rows = rows[np.argsort(times[rows], kind="stable")]
    return ArraySet(images[rows], targets[rows], domains[rows])
