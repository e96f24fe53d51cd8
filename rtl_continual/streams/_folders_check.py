"""Checks a data set of folders or list files."""

from __future__ import annotations

from collections.abc import Mapping

from rtl_continual.streams._assemble import DomainFiles
from rtl_continual.streams._files import Listing
from rtl_continual.streams._lists import Layout, scan_layout
from rtl_continual.streams._prepare import Progress
from rtl_continual.streams._verify import (
    Finding,
    VerifyReport,
    check_classes,
    check_decoding,
    check_files,
    check_repeats,
    finding,
)
from rtl_continual.streams.folders import FoldersConfig, read_folders

__all__ = ["verify_folders"]


def verify_folders(
    config: FoldersConfig, *, sample: int | None = 100, progress: Progress | None = None
) -> VerifyReport:
    """Check that files are there, whole and listed once.

    Args:
        config: what to check.
        sample: how many images of each domain and part to decode; ``None`` decodes all.
        progress: hears how far it is.

    Raises:
        DataError: if folders or lists that the options name are missing.
    """
    problems: list[str] = []
    classes, domains = read_folders(config, problems)
    parts: dict[tuple[str, str], Listing] = {}
    images: dict[str, dict[str, int]] = {}
    for domain, files in domains.items():
        for part, listing in (("train", files.train), ("test", files.test)):
            if listing is not None:
                parts[domain, part] = listing
                images.setdefault(domain, {})[part] = len(listing)
    what = "names" if config.lists is None else "lists"
    findings = [
        *finding(what, "error", "cannot be used", problems),
        *_empty_parts(config, domains),
        *check_repeats(parts),
        *check_classes(parts, classes, {}),
        *check_files(config.folder, parts),
    ]
    if config.lists is None:
        other = scan_layout(config.folder, Layout.parse(config.layout)).other_files
        findings += finding("files", "note", "files in class folders that are no images", other)
    form = config.image_form(upright=config.upright)
    broken, decoded = check_decoding(
        config.folder, parts, form, sample=sample, workers=config.workers, progress=progress
    )
    findings = sorted([*findings, *broken], key=lambda one: one.level != "error")
    return VerifyReport("folders", str(config.folder), images, decoded, tuple(findings))


def _empty_parts(config: FoldersConfig, domains: Mapping[str, DomainFiles]) -> list[Finding]:
    """Domains without images to learn from, where they should have some, or to test on."""
    findings: list[Finding] = []
    for domain, files in domains.items():
        for part, listing in (("train", files.train), ("test", files.test)):
            if listing is not None and not len(listing):
                own = None if config.lists is None else getattr(config.lists[domain], part)
                place = f"domain '{domain}'" if own is None else str(config.folder / own)
                findings += finding("counts", "error", f"{domain}: no images to {part}", [place])
    return findings
