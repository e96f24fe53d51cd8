"""DomainNet: 345 classes in six domains, 586,575 images, with its official training and test lists.

Peng et al. (2019), "Moment Matching for Multi-Source Domain Adaptation". The images are expected as
``root/<domain>/<class>/<file>.jpg`` and the lists as ``root/<domain>_train.txt`` and
``root/<domain>_test.txt`` (or below ``root/splits``), original lists below ``root/original``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, field_validator

from rtl_continual.errors import DataError, unknown_name
from rtl_continual.streams._assemble import DomainFiles, assemble_stream
from rtl_continual.streams._domainnet_facts import (
    CLASSES,
    CLASSES_126,
    DOMAINS,
    ORDERS,
    RESULTS,
    TSHIRT_REPAIR,
    PublishedResult,
)
from rtl_continual.streams._files import Listing, join_listings
from rtl_continual.streams._lists import ListFile, check_first_file, read_list, to_listing
from rtl_continual.streams._options import FileStreamConfig
from rtl_continual.streams._stream import Stream, UntrainedClassesError

__all__ = ["DomainNetConfig", "build_domainnet", "find_list", "published_results"]

_NUMBERS = {name.encode(): number for number, name in enumerate(CLASSES)}
SHOWN_PROBLEMS = 10


class DomainNetConfig(FileStreamConfig):
    """Options of the stream ``domainnet``.

    Example:
        >>> DomainNetConfig(root="data/domainnet", order="B").domain_order[:2]
        ('real', 'quickdraw')
    """

    name: Literal["domainnet"] = Field(default="domainnet", description="The stream's name.")
    order: Literal["A", "B"] = Field(
        default="A",
        description=(
            "Order of the domains. A: clipart, infograph, painting, quickdraw, real, sketch; "
            "B: real, quickdraw, painting, sketch, infograph, clipart."
        ),
    )
    domains: tuple[str, ...] | None = Field(
        default=None,
        min_length=1,
        description="Domains in the order in which they arrive; none means all six in 'order'.",
    )
    lists: Literal["cleaned", "original"] = Field(
        default="cleaned", description="Official lists without or with duplicate images."
    )
    class_set: Literal["all", "domainnet-126"] = Field(
        default="all",
        description="All 345 classes, or the 126 of Saito et al. (2019); 'classes' narrows it.",
    )
    repair_painting_tshirt: bool = Field(
        default=False,
        description=(
            "painting's cleaned training list has no t-shirt: move one of its test images there, "
            "as DUCT does."
        ),
    )
    validation_fraction: float = Field(
        default=0.0,
        ge=0,
        le=0.5,
        description=(
            "Fraction of each class's training images kept for validation; published results "
            "train on all."
        ),
    )

    @field_validator("domains")
    @classmethod
    def _known_domains(cls, domains: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for domain in domains or ():
            if domain not in DOMAINS:
                raise ValueError(unknown_name("domain", domain, DOMAINS))
        repeated = sorted({d for d in domains or () if (domains or ()).count(d) > 1})
        if repeated:
            raise ValueError(f"each domain may be named once, repeated: {', '.join(repeated)}")
        return domains

    @field_validator("classes")
    @classmethod
    def _known_classes(cls, classes: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in classes or ():
            if name not in CLASSES:
                raise ValueError(unknown_name("class", name, CLASSES))
        return classes

    @property
    def domain_order(self) -> tuple[str, ...]:
        """The domains as they arrive."""
        return ORDERS[self.order] if self.domains is None else self.domains

    @property
    def chosen_classes(self) -> tuple[str, ...] | None:
        """The classes to take; ``None`` means all."""
        if self.class_set == "all":
            return self.classes
        return tuple(n for n in CLASSES_126 if self.classes is None or n in self.classes)


def build_domainnet(config: DomainNetConfig) -> Stream:
    """Read the lists and build the stream; no image is read.

    Args:
        config: the options.

    Raises:
        DataError: if lists or images are missing, or a list's labels are not DomainNet's.
    """
    problems: list[str] = []
    domains: dict[str, DomainFiles] = {}
    for domain in config.domain_order:
        parts = {}
        for part in ("train", "test"):
            path = find_list(config, domain, part)
            if path is None:
                raise DataError(
                    f"{config.folder}: there is no {domain}_{part}.txt ({config.lists} lists); "
                    f"get it with: rtl data prepare domainnet --root {config.root}"
                )
            found = read_list(path)
            problems += [*found.problems, *label_problems(found, domain)]
            if not found.names and not problems:
                raise DataError(f"{path}: the list is empty")
            parts[part] = found
        if not problems:
            train, test = (to_listing(f, np.asarray(f.labels)) for f in parts.values())
            check_first_file(config.folder, train)
            if domain == "painting" and config.repair_painting_tshirt:
                train, test = repair_tshirt(train, test)
            domains[domain] = DomainFiles(train, test)
    if problems:
        more = len(problems) - SHOWN_PROBLEMS
        tail = f"\n... and {more} more: rtl data verify domainnet --root {config.root}"
        raise DataError("\n".join(problems[:SHOWN_PROBLEMS]) + (tail if more > 0 else ""))
    chosen = config.model_copy(update={"classes": config.chosen_classes})
    form = config.image_form(upright=False)
    source: dict[str, object] = {"protocol_differences": protocol_differences(config)}
    try:
        return assemble_stream("domainnet", CLASSES, domains, chosen, form, source)
    except UntrainedClassesError as error:
        if "t-shirt" not in error.classes or config.repair_painting_tshirt:
            raise
        raise DataError(
            f"{error}; painting's cleaned training list has no t-shirt: set "
            "repair_painting_tshirt to true, add a domain that has them, or choose 'classes'"
        ) from error


def find_list(config: DomainNetConfig, domain: str, part: str) -> Path | None:
    """A list's file, where people keep it; ``None`` if it is not there."""
    name = f"{domain}_{part}.txt"
    folders = ("original",) if config.lists == "original" else ("", "splits")
    places = [config.folder / folder / name for folder in folders]
    return next((place for place in places if place.is_file()), None)


def label_problems(found: ListFile, domain: str) -> list[str]:
    """Lines whose label is not that of the class folder, or that lie in another domain."""
    problems = []
    for name, label, line in zip(found.names, found.labels, found.lines, strict=True):
        parts = name.split(b"/")
        if len(parts) == 3 and _NUMBERS.get(parts[1]) == label and parts[0] == domain.encode():
            continue
        given = name.decode("utf-8", "replace")
        if len(parts) != 3 or parts[0] != domain.encode():
            what = f"must be {domain}/<class>/<file>, got '{given}'"
        elif parts[1] not in _NUMBERS:
            what = unknown_name("class", parts[1].decode("utf-8", "replace"), CLASSES)
        else:
            right = _NUMBERS[parts[1]]
            what = f"'{given}' has label {label}, but {CLASSES[right]} is {right}"
        problems.append(f"{found.path}:{line}: {what}")
    return problems


def repair_tshirt(train: Listing, test: Listing) -> tuple[Listing, Listing]:
    """Painting's listings with one t-shirt moved from the test to the training images.

    Raises:
        DataError: if the image is not in the test list; then it is not the published list.
    """
    label = _NUMBERS[b"t-shirt"]
    if (train.targets == label).any():
        return train, test
    candidates = np.flatnonzero(test.targets == label)
    rows = [row for row in candidates.tolist() if test.names.raw(row) == TSHIRT_REPAIR]
    if not rows:
        raise DataError(
            f"repair_painting_tshirt: {TSHIRT_REPAIR.decode()} is not in painting's test list, so "
            "this is not the published one; set repair_painting_tshirt to false"
        )
    stays = np.setdiff1d(np.arange(len(test)), rows)
    return join_listings(train, test.take(np.asarray(rows))), test.take(stays)


def published_results() -> tuple[PublishedResult, ...]:
    """Results that papers report on DomainNet, best first within a backbone.

    Rows with different backbones say nothing about methods. The accuracy is the one over all test
    images together, which weighs the large domains more; where a paper gives the mean over domains,
    it is there too.

    Example:
        >>> published_results()[0].method
        'CP-Prompt'
    """
    return RESULTS


def order_name(config: DomainNetConfig) -> str | None:
    """Which published order the domains arrive in, ``None`` if in neither.

    Example:
        >>> order_name(DomainNetConfig(root="x", order="B"))
        'B'
    """
    return next((name for name, order in ORDERS.items() if order == config.domain_order), None)


PUBLISHED_SIZE = 224
"""Pixels of the images that the published rows were computed on."""


def protocol_differences(config: DomainNetConfig) -> list[str]:
    """How a run on these options differs from what :func:`published_results` ran."""
    differences = []
    if order_name(config) is None:
        differences.append(f"domains {', '.join(config.domain_order)}: neither order A nor B")
    if config.lists != "cleaned":
        differences.append("original lists, with duplicate images")
    if config.chosen_classes is not None:
        differences.append(f"{len(config.chosen_classes)} of {len(CLASSES)} classes")
    if config.image_size != PUBLISHED_SIZE:
        differences.append(f"images of {config.image_size} pixels, not {PUBLISHED_SIZE}")
    if config.images_per_class is not None:
        differences.append(f"at most {config.images_per_class} training images per class")
    if config.limit_images is not None:
        differences.append(f"at most {config.limit_images} images per domain and part")
    if config.validation_fraction:
        differences.append(f"{config.validation_fraction:g} of the training images held out")
    if config.exclude:
        differences.append(f"{len(config.exclude)} images left out")
    if config.repair_painting_tshirt:
        differences.append("one t-shirt moved from painting's test to its training images (DUCT)")
    return differences
