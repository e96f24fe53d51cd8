"""From listings of files to a stream: choose classes and images, split, name."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rtl_continual.errors import DataError, unknown_name
from rtl_continual.streams._cache import cache_folder
from rtl_continual.streams._decode import ImageForm
from rtl_continual.streams._decoded import DecodedCache
from rtl_continual.streams._files import FileSet, Listing
from rtl_continual.streams._options import FileStreamConfig
from rtl_continual.streams._stream import Experience, Stream

__all__ = ["DomainFiles", "assemble_stream", "class_ranks", "split_by_class"]

NO_EFFECT = {"root", "workers", "cache", "max_pixels"}
"""Options that do not change what the images are."""


@dataclass(frozen=True)
class DomainFiles:
    """The images of one domain; targets index all classes.

    Args:
        train: what is learned from; ``None`` for a domain that is for testing only.
        test: what is tested on.
    """

    train: Listing | None
    test: Listing


def assemble_stream(
    name: str,
    classes: Sequence[str],
    domains: Mapping[str, DomainFiles],
    config: FileStreamConfig,
    form: ImageForm,
    source: dict[str, object],
) -> Stream:
    """Build a stream with one experience for each domain that has training images.

    Args:
        name: the stream's name.
        classes: all class names.
        domains: the files by domain, in the order in which domains arrive.
        config: which classes and how many images to take.
        form: how images are decoded.
        source: facts for the results, beside the options.

    Raises:
        DataError: if an option names something that is not there, or a domain is left without
            images.
    """
    kept = _kept_classes(classes, config.classes)
    _check_excluded(domains, config.exclude)
    trains: dict[str, _Chosen] = {}
    for domain, files in domains.items():
        if files.train is not None:
            trains[domain] = _choose_train(domain, files.train, kept, config)
    seen = np.zeros(len(classes), dtype=bool)
    for chosen in trains.values():
        seen[chosen.listing.targets[chosen.train]] = True
    renumber = np.full(len(classes), -1, dtype=np.int64)
    renumber[kept] = np.arange(len(kept))
    experiences, tests = [], {}
    digest = hashlib.sha256()
    for index, (domain, files) in enumerate(domains.items()):
        test = _choose_test(domain, files.test, kept, seen, config)
        parts = [("test", files.test, test)]
        if domain in trains:
            chosen = trains[domain]
            parts += [
                ("train", chosen.listing, chosen.train),
                ("validation", chosen.listing, chosen.validation),
            ]
        sets = {}
        for part, listing, rows in parts:
            sets[part] = FileSet(
                config.folder,
                listing,
                index,
                form,
                workers=config.workers,
                cache=_cache(config, listing, form) if config.cache else None,
                rows=rows,
                targets=renumber[listing.targets[rows]],
            )
            _add(digest, f"{domain}/{part}", listing, rows, sets[part].targets)
        tests[domain] = sets["test"]
        if domain in trains:
            experiences.append(Experience(domain, sets["train"], sets["validation"]))
    if not experiences:
        raise DataError(f"stream '{name}' has no domain with training images")
    options = config.model_dump(mode="json", exclude=NO_EFFECT)
    digest.update(json.dumps(options, sort_keys=True).encode())
    return Stream(
        name=name,
        classes=tuple(classes[i] for i in kept),
        domains=tuple(domains),
        experiences=tuple(experiences),
        tests=dict(tests),
        fingerprint=digest.hexdigest(),
        source={"options": options, **source},
    )


def class_ranks(targets: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each image's place within its class, in a random order ``int64 [n]``."""
    order = rng.permutation(len(targets))
    order = order[np.argsort(targets[order], kind="stable")]
    counts = np.bincount(targets) if len(targets) else np.zeros(0, dtype=np.int64)
    starts = np.cumsum(counts) - counts
    ranks = np.empty(len(targets), dtype=np.int64)
    ranks[order] = np.arange(len(targets)) - starts[targets[order]]
    return ranks


def split_by_class(
    targets: np.ndarray, fraction: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Split rows so that each class gives ``fraction`` of its images, at least one where it can.

    A class with one image gives none.

    Returns:
        Rows that are kept and rows that are given, both ascending.
    """
    if fraction == 0 or not len(targets):
        return np.arange(len(targets)), np.arange(0)
    counts = np.bincount(targets)
    given = np.minimum(np.maximum(np.round(counts * fraction), 1), np.maximum(counts - 1, 0))
    mask = class_ranks(targets, rng) < given[targets]
    return np.flatnonzero(~mask), np.flatnonzero(mask)


@dataclass(frozen=True)
class _Chosen:
    listing: Listing
    train: np.ndarray
    validation: np.ndarray


def random_source(config: FileStreamConfig, domain: str, purpose: str) -> np.random.Generator:
    """Random numbers of one domain; they do not depend on which other domains there are."""
    return np.random.default_rng([config.seed, zlib.crc32(f"{purpose}/{domain}".encode())])


def _kept_classes(classes: Sequence[str], wanted: Sequence[str] | None) -> np.ndarray:
    """Indices of the classes to take, in the order of all classes."""
    if wanted is None:
        return np.arange(len(classes))
    for name in wanted:
        if name not in classes:
            raise DataError(unknown_name("class", name, classes))
    return np.flatnonzero(np.isin(np.asarray(classes, dtype=object), list(wanted)))


def _check_excluded(domains: Mapping[str, DomainFiles], exclude: Sequence[str]) -> None:
    missing = {name.encode() for name in exclude}
    for files in domains.values() if missing else ():
        for listing in (files.train, files.test):
            if listing is not None:
                missing -= {listing.names.raw(row) for row in range(len(listing))}
    if missing:
        names = ", ".join(sorted(name.decode() for name in missing))
        raise DataError(f"exclude names images that the stream does not have: {names}")


def _usable(listing: Listing, kept: np.ndarray, exclude: Sequence[str]) -> np.ndarray:
    """Rows of the classes to take, without the excluded files."""
    mask = np.isin(listing.targets, kept)
    if exclude:
        unwanted = {name.encode() for name in exclude}
        mask &= ~np.fromiter(
            (listing.names.raw(row) in unwanted for row in range(len(listing))),
            dtype=bool,
            count=len(listing),
        )
    return np.flatnonzero(mask)


def _choose_train(
    domain: str, listing: Listing, kept: np.ndarray, config: FileStreamConfig
) -> _Chosen:
    rows = _usable(listing, kept, config.exclude)
    rng = random_source(config, domain, "train")
    kept_rows, given_rows = split_by_class(listing.targets[rows], config.validation_fraction, rng)
    train, validation = rows[kept_rows], rows[given_rows]
    if config.images_per_class is not None:
        # Validation shrinks with training, so that it stays the same kind of data.
        share = config.validation_fraction / (1 - config.validation_fraction)
        few = max(round(config.images_per_class * share), 1)
        train = train[class_ranks(listing.targets[train], rng) < config.images_per_class]
        validation = validation[class_ranks(listing.targets[validation], rng) < few]
    if config.limit_images is not None:
        train = _limit(listing.targets, train, config.limit_images, rng)
        validation = _limit(listing.targets, validation, config.limit_images, rng)
    if not len(train):
        raise DataError(f"domain '{domain}' has no training images of the chosen classes")
    return _Chosen(listing, train, validation)


def _choose_test(
    domain: str, listing: Listing, kept: np.ndarray, seen: np.ndarray, config: FileStreamConfig
) -> np.ndarray:
    rows = _usable(listing, kept, config.exclude)
    if config.limit_images is not None:
        # A dry run may have left whole classes out of training.
        rows = rows[seen[listing.targets[rows]]]
        rng = random_source(config, domain, "test")
        rows = _limit(listing.targets, rows, config.limit_images, rng)
    if not len(rows):
        raise DataError(f"domain '{domain}' has no test images of the chosen classes")
    return rows


def _limit(
    targets: np.ndarray, rows: np.ndarray, limit: int, rng: np.random.Generator
) -> np.ndarray:
    """At most ``limit`` rows, from as many classes as possible, ascending."""
    ranks = class_ranks(targets[rows], rng)
    return np.sort(rows[np.lexsort((targets[rows], ranks))[:limit]])


def _cache(config: FileStreamConfig, listing: Listing, form: ImageForm) -> DecodedCache:
    root = str(config.folder.resolve())
    key = DecodedCache.key(root, listing.names.buffer, listing.names.ends.tobytes(), repr(form))
    return DecodedCache(cache_folder() / "decoded" / f"{key}.images", (3, form.size, form.size))


def _add(
    digest: hashlib._Hash, part: str, listing: Listing, rows: np.ndarray, targets: np.ndarray
) -> None:
    """Names and targets of a part; what the files hold is not read."""
    digest.update(f"{part}|{len(rows)}|".encode())
    if len(rows) == len(listing):
        digest.update(listing.names.buffer)
        digest.update(listing.names.ends.tobytes())
    else:
        for row in rows.tolist():
            digest.update(listing.names.raw(row) + b"\n")
    digest.update(np.ascontiguousarray(targets).data)
