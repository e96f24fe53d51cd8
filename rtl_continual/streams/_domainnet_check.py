"""Getting DomainNet, and checking it against what its publisher says."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from rtl_continual.errors import DataError
from rtl_continual.streams._domainnet_facts import (
    CLASSES,
    CLEANED_COUNTS,
    ORIGINAL_TOTALS,
    PUBLISHED_FILES,
    PUBLISHED_GAPS,
    PublishedFile,
    list_url,
)
from rtl_continual.streams._files import Listing
from rtl_continual.streams._lists import ListFile, read_list, to_listing
from rtl_continual.streams._prepare import Progress, download, sha256_of, unpack_zip
from rtl_continual.streams._verify import (
    Finding,
    VerifyReport,
    check_classes,
    check_decoding,
    check_files,
    check_repeats,
    finding,
    sizes_on_disk,
)
from rtl_continual.streams.domainnet import (
    DomainNetConfig,
    find_list,
    label_problems,
    repair_tshirt,
)

__all__ = ["prepare_domainnet", "verify_domainnet"]

PARTS = ("train", "test")


def prepare_domainnet(config: DomainNetConfig, progress: Progress | None = None) -> None:
    """Download and unpack what is missing of the chosen domains; what is there is left alone.

    Args:
        config: where to, which domains, which lists.
        progress: hears how far it is.

    Raises:
        DataError: if something cannot be had; the message lists which files to put where.
    """
    try:
        config.folder.mkdir(parents=True, exist_ok=True)
        for domain in config.domain_order:
            for part in PARTS:
                if find_list(config, domain, part) is None:
                    _get(config, _list_file(config, domain, part), progress)
            if not _missing(config, domain):
                continue
            archive = config.folder / f"{domain}.zip"
            if archive.is_file():
                _check_archive(archive, progress)
            else:
                _get(config, (archive, *_published(archive.name)), progress)
            unpack_zip(archive, config.folder, only=domain, progress=progress)
            missing = _missing(config, domain)
            if missing:
                raise DataError(
                    f"{archive}: is unpacked, but {len(missing)} images of {domain}'s lists are "
                    f"not in it, such as {missing[0]}"
                )
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be written: {error.strerror}") from error


Wanted = tuple[Path, str, PublishedFile | None]
"""Where a file belongs, where it comes from, and what is known about it."""


def _published(name: str) -> tuple[str, PublishedFile]:
    return PUBLISHED_FILES[name].url, PUBLISHED_FILES[name]


def _list_file(config: DomainNetConfig, domain: str, part: str) -> Wanted:
    name = f"{domain}_{part}.txt"
    if config.lists == "original":
        return config.folder / "original" / name, list_url(domain, part, "original"), None
    return (config.folder / name, *_published(name))


def _get(config: DomainNetConfig, wanted: Wanted, progress: Progress | None) -> None:
    target, url, known = wanted
    try:
        download(
            url,
            target,
            size=known.size if known else None,
            sha256=known.sha256 if known else None,
            progress=progress,
        )
    except DataError as error:
        raise DataError(f"{error}\n{_by_hand(config)}") from error


def _by_hand(config: DomainNetConfig) -> str:
    """What is still missing, and where it belongs."""
    wanted: list[Wanted] = []
    for domain in config.domain_order:
        wanted += [
            _list_file(config, domain, part)
            for part in PARTS
            if find_list(config, domain, part) is None
        ]
        archive = config.folder / f"{domain}.zip"
        if not archive.is_file() and _missing(config, domain):
            wanted.append((archive, *_published(archive.name)))
    lines = [
        f"  {url}{f'  ({known.size / 1e6:.0f} MB)' if known else ''}\n    -> {target}"
        for target, url, known in wanted
    ]
    return (
        "Run the same command again to go on. Where there is no network, put these files there "
        "(a folder <domain>/<class>/ with the images instead of an archive will do), and then run "
        "it again:\n" + "\n".join(lines)
    )


def _missing(config: DomainNetConfig, domain: str) -> list[str]:
    """Listed images that are not on disk; without lists, the domain's name if its folder is not."""
    paths = [find_list(config, domain, part) for part in PARTS]
    if None in paths:
        return [] if (config.folder / domain).is_dir() else [domain]
    names = [name for path in paths if path is not None for name in read_list(path).names]
    sizes = sizes_on_disk(config.folder, names)
    return [name.decode("utf-8", "replace") for name in names if name not in sizes]


def _check_archive(archive: Path, progress: Progress | None) -> None:
    known = PUBLISHED_FILES[archive.name]
    size = archive.stat().st_size
    if size != known.size or sha256_of(archive, progress) != known.sha256:
        raise DataError(
            f"{archive}: is not the published file ({size} bytes, published {known.size}); "
            "delete it and run the same command again"
        )


def verify_domainnet(
    config: DomainNetConfig,
    *,
    sample: int | None = 100,
    progress: Progress | None = None,
    counts: Mapping[str, tuple[int, int]] = CLEANED_COUNTS,
    totals: Mapping[str, int] = ORIGINAL_TOTALS,
    files: Mapping[str, PublishedFile] = PUBLISHED_FILES,
) -> VerifyReport:
    """Check lists and images.

    Args:
        config: what to check.
        sample: how many images of each domain and part to decode; ``None`` decodes all.
        progress: hears how far it is.
        counts: published training and test images of the cleaned lists, by domain.
        totals: published images of the original lists, by domain.
        files: published files by name.
    """
    if not config.folder.is_dir():
        what = "there is no such folder; get the data with: rtl data prepare domainnet --root DIR"
        nothing = finding("files", "error", what, [str(config.folder)])
        return VerifyReport("domainnet", str(config.folder), {}, 0, tuple(nothing))
    findings: list[Finding] = []
    parts: dict[tuple[str, str], Listing] = {}
    for domain in config.domain_order:
        found: dict[str, ListFile] = {}
        for part in PARTS:
            path = find_list(config, domain, part)
            if path is None:
                name = f"{domain}_{part}.txt"
                findings += finding("lists", "error", "missing list", [name])
                continue
            found[part] = read_list(path)
            findings += _check_list(found[part], domain, config, files)
        findings += _check_counts(found, domain, config, counts, totals)
        for part, file in found.items():
            targets = np.minimum(np.asarray(file.labels, dtype=np.int64), len(CLASSES) - 1)
            parts[domain, part] = to_listing(file, targets)
        if domain == "painting" and config.repair_painting_tshirt and len(found) == len(PARTS):
            try:
                train, test = repair_tshirt(parts[domain, "train"], parts[domain, "test"])
            except DataError as error:
                findings += finding("lists", "error", "painting: cannot be repaired", [str(error)])
            else:
                parts[domain, "train"], parts[domain, "test"] = train, test
    findings += check_repeats(parts)
    findings += check_classes(parts, CLASSES, PUBLISHED_GAPS)
    findings += check_files(config.folder, parts)
    form = config.image_form(upright=False)
    broken, decoded = check_decoding(
        config.folder, parts, form, sample=sample, workers=config.workers, progress=progress
    )
    images: dict[str, dict[str, int]] = {}
    for (domain, part), listing in parts.items():
        images.setdefault(domain, {})[part] = len(listing)
    findings = sorted([*findings, *broken], key=lambda one: one.level != "error")
    return VerifyReport("domainnet", str(config.folder), images, decoded, tuple(findings))


def _check_list(
    found: ListFile, domain: str, config: DomainNetConfig, files: Mapping[str, PublishedFile]
) -> list[Finding]:
    name = found.path.name
    findings = finding("lists", "error", f"{name}: lines that cannot be used", found.problems)
    wrong = label_problems(found, domain)
    findings += finding("labels", "error", f"{name}: label and class folder disagree", wrong)
    if config.lists == "original":
        return findings
    data = found.path.read_bytes()
    if hashlib.sha256(data).hexdigest() == files[name].sha256:
        return findings
    # An editor or a transfer may have changed line ends, which changes nothing that is read.
    lines = b"".join(b"%s %d\n" % pair for pair in zip(found.names, found.labels, strict=True))
    same = hashlib.sha256(lines).hexdigest() == files[name].sha256
    message = "line ends differ from the published list" if same else "is not the published list"
    return findings + finding("lists", "note" if same else "error", message, [name])


def _check_counts(
    found: Mapping[str, ListFile],
    domain: str,
    config: DomainNetConfig,
    counts: Mapping[str, tuple[int, int]],
    totals: Mapping[str, int],
) -> list[Finding]:
    if config.lists == "cleaned":
        wrong = [
            f"{domain} {part}: {len(found[part].names)}, published {published}"
            for part, published in zip(PARTS, counts[domain], strict=True)
            if part in found and len(found[part].names) != published
        ]
    else:
        total = sum(len(file.names) for file in found.values())
        wrong = (
            [f"{domain}: {total}, published {totals[domain]}"] if total != totals[domain] else []
        )
    return finding("counts", "error", "images listed", wrong)
