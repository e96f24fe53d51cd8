"""Any multi-domain data set of image files: nested folders, or list files.

One domain is one experience, in the order of ``domains``. Office-Home, PACS, CORe50 and CDDB have
scenario files that use this stream; ``docs/your-data.md`` shows how to describe one's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from rtl_continual.errors import DataError, unknown_name
from rtl_continual.streams._assemble import (
    DomainFiles,
    assemble_stream,
    random_source,
    split_by_class,
)
from rtl_continual.streams._files import FileNames, Listing
from rtl_continual.streams._lists import (
    Layout,
    ListFile,
    check_first_file,
    read_list,
    readable,
    scan_layout,
    to_listing,
)
from rtl_continual.streams._options import FileStreamConfig
from rtl_continual.streams._stream import Stream

__all__ = ["DomainLists", "FoldersConfig", "build_folders", "read_folders"]

SHOWN_PROBLEMS = 10


class DomainLists(BaseModel):
    """List files of one domain, as paths below the root.

    Example:
        >>> DomainLists(train="photo_train.txt", test="photo_test.txt").test
        'photo_test.txt'
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: str | None = Field(
        default=None, description="Training images; none makes a domain for testing only."
    )
    test: str | None = Field(
        default=None, description="Test images; none splits them off the training list."
    )

    @model_validator(mode="after")
    def _not_empty(self) -> DomainLists:
        if self.train is None and self.test is None:
            raise ValueError("a domain needs a train or a test list")
        return self


class FoldersConfig(FileStreamConfig):
    """Options of the stream ``folders``.

    Example:
        >>> FoldersConfig(root="data/office_home", domains=["Art", "Clipart"]).layout
        '{domain}/{class}'
    """

    name: Literal["folders"] = Field(default="folders", description="The stream's name.")
    layout: str = Field(
        default="{domain}/{class}",
        description=(
            "How folders are nested: {domain}, {split}, {class}, * (any one folder), ** (any "
            "number of folders) or a name, separated by /; {class} is last."
        ),
    )
    train_folder: str = Field(default="train", description="What {split} is for training images.")
    test_folder: str = Field(default="test", description="What {split} is for test images.")
    lists: dict[str, DomainLists] | None = Field(
        default=None,
        min_length=1,
        description="List files by domain (lines of path and label) instead of a layout.",
    )
    label_names: tuple[str, ...] | None = Field(
        default=None,
        min_length=1,
        description=(
            "Class names of the labels 0, 1, ... in list files; none takes the name of the "
            "folder that an image lies in."
        ),
    )
    domains: tuple[str, ...] | None = Field(
        default=None,
        min_length=1,
        description="Domains in the order in which they arrive; none means all, sorted.",
    )
    test_domains: tuple[str, ...] = Field(
        default=(), description="Domains that nothing is learned from: all their images are tests."
    )
    test_fraction: float = Field(
        default=0.3,
        gt=0,
        lt=1,
        description="Fraction of each class for testing, where the data has no split of its own.",
    )
    upright: bool = Field(
        default=True, description="Turn photographs as their EXIF orientation says."
    )

    @field_validator("layout")
    @classmethod
    def _known_layout(cls, layout: str) -> str:
        Layout.parse(layout)
        return layout

    @model_validator(mode="after")
    def _fits_together(self) -> FoldersConfig:
        domains = (*(self.domains or ()), *self.test_domains)
        repeated = sorted({domain for domain in domains if domains.count(domain) > 1})
        if repeated:
            raise ValueError(f"each domain may be named once, repeated: {', '.join(repeated)}")
        if self.lists is None and self.label_names is not None:
            raise ValueError("label_names belongs to lists; folders carry their class names")
        for domain in domains if self.lists is not None else ():
            if domain not in self.lists:  # type: ignore[operator]
                raise ValueError(unknown_name("domain", domain, self.lists or ()))
        return self


def build_folders(config: FoldersConfig) -> Stream:
    """Find the files and build the stream; no image is read.

    Args:
        config: the options.

    Raises:
        DataError: if folders, files or lists are missing, or what is asked for is not in them.
    """
    classes, domains = read_folders(config)
    form = config.image_form(upright=config.upright)
    return assemble_stream("folders", classes, domains, config, form, source={})


def read_folders(
    config: FoldersConfig, problems: list[str] | None = None
) -> tuple[tuple[str, ...], dict[str, DomainFiles]]:
    """All class names, and the files of each domain in its order.

    Args:
        config: the options.
        problems: takes what is wrong with names and lines, so that all else can be looked at;
            ``None`` raises it.

    Raises:
        DataError: if folders, files or lists are missing or wrong.
    """
    if config.lists is not None:
        return _from_lists(config, problems)
    layout = Layout.parse(config.layout)
    wanted = None if config.domains is None else (*config.domains, *config.test_domains)
    found = scan_layout(config.folder, layout, wanted)
    where = f"{config.folder} with layout {config.layout}"
    for domain in wanted or ():
        if domain not in found.folders:
            raise DataError(f"{where}: {unknown_name('domain', domain, found.folders)}")
    _report([_misnamed(config.folder / folder) for folder in found.misnamed], problems)
    names = _domain_order(config, found.domains(), where)
    classes = found.classes()
    numbers = {name: number for number, name in enumerate(classes)}
    domains: dict[str, DomainFiles] = {}
    for domain in names:
        parts = {
            split: _listing(part, numbers)
            for (owner, split), part in found.images.items()
            if owner == domain
        }
        if not layout.has_split:
            domains[domain] = _split(config, domain, parts[""], None)
            continue
        wanted_parts = {config.train_folder, config.test_folder}
        if not wanted_parts <= set(parts) and domain not in config.test_domains:
            raise DataError(
                f"domain '{domain}' under {config.folder} needs images in '{config.train_folder}' "
                f"and '{config.test_folder}' (train_folder, test_folder), it has: "
                f"{', '.join(sorted(parts))}"
            )
        domains[domain] = _split(
            config, domain, parts.get(config.train_folder), parts.get(config.test_folder)
        )
    return classes, domains


def _misnamed(folder: Path) -> str:
    return (
        f"{readable(str(folder))}: the name of a domain's or a class's folder is no UTF-8 text; "
        "rename it"
    )


def _report(found: Sequence[str], problems: list[str] | None) -> None:
    """Hand over what was found wrong, or raise it."""
    if problems is not None:
        problems += found
    elif found:
        more = len(found) - SHOWN_PROBLEMS
        tail = [f"... and {more} more"] if more > 0 else []
        raise DataError("\n".join([*found[:SHOWN_PROBLEMS], *tail]))


def _domain_order(config: FoldersConfig, found: Sequence[str], where: str) -> tuple[str, ...]:
    """The domains that learn in their order, then those for testing only."""
    if not found:
        raise DataError(f"no images under {where}")
    learning = config.domains
    if learning is None:
        learning = tuple(name for name in found if name not in config.test_domains)
    names = (*learning, *config.test_domains)
    for name in names:
        if name not in found:
            raise DataError(f"domain '{name}' has no images under {where}")
    return names


def _listing(part: dict[str, list[bytes]], numbers: dict[str, int]) -> Listing:
    names = [name for group in part.values() for name in group]
    targets = np.repeat(
        np.array([numbers[name] for name in part], dtype=np.int64),
        [len(group) for group in part.values()],
    )
    return Listing(
        FileNames.pack(names),
        targets,
        (),
        np.full(len(names), -1, dtype=np.int16),
        np.zeros(len(names), dtype=np.int32),
    )


def _split(
    config: FoldersConfig, domain: str, train: Listing | None, test: Listing | None
) -> DomainFiles:
    """Give a domain its test images if it has none of its own."""
    if domain in config.test_domains:
        only = test if test is not None else train
        assert only is not None
        return DomainFiles(None, only)
    if test is None:
        assert train is not None
        rng = random_source(config, domain, "split")
        kept, given = split_by_class(train.targets, config.test_fraction, rng)
        return DomainFiles(train.take(kept), train.take(given))
    return DomainFiles(train, test)


def _from_lists(
    config: FoldersConfig, problems: list[str] | None
) -> tuple[tuple[str, ...], dict[str, DomainFiles]]:
    lists = config.lists or {}
    found = tuple(lists) if config.domains is None else tuple(sorted(lists))
    names = _domain_order(config, found, "lists")
    files = {
        (domain, part): read_list(config.folder / path)
        for domain in names
        for part, path in (("train", lists[domain].train), ("test", lists[domain].test))
        if path is not None
    }
    wrong = [line for file in files.values() for line in file.problems]
    classes, numbers = _label_names(config, list(files.values()), wrong)
    _report(wrong, problems)
    # A label without a name is among the problems.
    last = len(classes) - 1
    listings = {
        key: to_listing(
            file, np.array([numbers.get(label, last) for label in file.labels], dtype=np.int64)
        )
        for key, file in files.items()
    }
    for listing in listings.values() if problems is None else ():
        check_first_file(config.folder, listing)
    return classes, {
        domain: _split(
            config, domain, listings.get((domain, "train")), listings.get((domain, "test"))
        )
        for domain in names
    }


def _label_names(
    config: FoldersConfig, files: Sequence[ListFile], problems: list[str]
) -> tuple[tuple[str, ...], dict[int, int]]:
    """Class names, and the class index of each label that occurs."""
    if config.label_names is not None:
        count = len(config.label_names)
        for file in files:
            problems += [
                f"{file.path}:{line}: label {label} has no name: label_names has {count}"
                for label, line in zip(file.labels, file.lines, strict=True)
                if label >= count
            ]
        return config.label_names, {label: label for label in range(count)}
    names: dict[int, bytes] = {}
    owner: dict[bytes, int] = {}
    for file in files:
        for path, label, line in zip(file.names, file.labels, file.lines, strict=True):
            folder = path.rsplit(b"/", 2)[-2] if b"/" in path else b""
            if folder not in owner and readable(folder).encode() != folder:
                problems.append(
                    f"{file.path}:{line}: the name of the class's folder '{readable(folder)}' is "
                    "no UTF-8 text; rename it, and write the list in UTF-8"
                )
            same_name = names.setdefault(label, folder) == folder
            if not (same_name and owner.setdefault(folder, label) == label):
                problems.append(
                    f"{file.path}:{line}: label {label} lies in folder '{readable(folder)}', but "
                    f"label {label} is '{readable(names[label])}' elsewhere; if folders are no "
                    "classes, give label_names"
                )
    labels = sorted(names)
    classes = tuple(readable(names[label]) for label in labels)
    return classes, {label: index for index, label in enumerate(labels)}
