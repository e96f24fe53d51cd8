"""``rtl bank add``: one night's work, for cron."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rtl_continual.threads import use_threads

if TYPE_CHECKING:
    from rtl_continual.store._addition import Addition, Candidate

__all__ = ["Plugins", "add", "printable"]

Plugins = Annotated[
    list[str] | None,
    typer.Option("--plugin", metavar="FILE.PY|MODULE", help="Not installed; may be repeated."),
]


def add(
    bank: Annotated[str, typer.Argument(help="A bank's folder, or an address such as s3://...")],
    data: Annotated[
        Path,
        typer.Option("--data", help="A folder per class, or domain/class folders, of new images."),
    ],
    labels: Annotated[
        Path | None,
        typer.Option(help="A list of files instead: lines of a path below --data and a class."),
    ] = None,
    name: Annotated[
        str, typer.Option(help="The new ticket's name; default: that of the folder.")
    ] = "",
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY.PATH=VALUE",
            help="An option, such as margin=0.05 or tickets.epochs=5; may be repeated.",
        ),
    ] = None,
    tag: Annotated[str | None, typer.Option(help="Let this tag name the new version.")] = None,
    message: Annotated[str, typer.Option(help="Kept with the version.")] = "",
    plugins: Plugins = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Do all but the commit.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Learn from new data; exit 4 if they need no ticket, or none that was learned is worth it."""
    from rtl_continual.plugins import load_plugins
    from rtl_continual.problems import load_options
    from rtl_continual.store._add_config import AddConfig
    from rtl_continual.store._open import load_bank

    load_plugins(plugins or [])
    # On cores that others share, several threads wait for each other more than they compute.
    use_threads(1)
    found = load_bank(bank).add(
        data,
        labels=labels,
        name=name,
        config=load_options("bank add", AddConfig, overrides or []),
        tag=tag,
        message=message,
        dry_run=dry_run,
        on_progress=_show if sys.stderr.isatty() else None,
    )
    if as_json:
        text = json.dumps(found.to_json(), indent=2, sort_keys=True, ensure_ascii=False)
        typer.echo(text)
    else:
        for line in _lines(found):
            typer.echo(printable(line))
    if found.outcome in ("rejected", "nothing_new"):
        raise typer.Exit(4)


def printable(text: str) -> str:
    """What a terminal may show: names in banks of others can hold its control characters."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _show(text: str) -> None:
    print(printable(text), file=sys.stderr, flush=True)  # noqa: T201 - progress, on a terminal alone


def _lines(found: Addition) -> list[str]:
    served = ", ".join(f"'{name}' {count}" for name, count in found.served.items()) or "none"
    new = sum(candidate.samples for candidate in found.candidates)
    shift = {True: "shift", False: "no shift", None: "shift not looked for"}[found.shift]
    lines = [
        f"{shift}: {new} of {found.images} images need a new ticket, {found.unassigned} resemble "
        f"nothing; those of known tickets: {served}"
    ]
    if found.broken:
        first, *others = found.broken
        more = f", and {len(others)} more" if others else ""
        lines.append(f"{len(found.broken)} images were left out: {first}{more}")
    if found.missing_classes:
        lines.append(f"classes without an image: {', '.join(found.missing_classes)}")
    for candidate in found.candidates:
        lines += _candidate_lines(candidate)
    if found.overtaken_by:
        versions = ", ".join(map(str, found.overtaken_by))
        lines.append(f"judged again, against what others had committed meanwhile: {versions}")
    lines.append(found.reason)
    if found.version is not None:
        router = "changed" if found.changes["router"]["changed"] else "unchanged"
        size = found.changes["bytes"]
        lines.append(
            f"version {found.base} -> {found.version}: "
            f"{found.changes['tickets']['unchanged']} tickets unchanged, router {router}, "
            f"{size['new']:,} new bytes"
        )
    return lines


def _candidate_lines(candidate: Candidate) -> list[str]:
    trial = candidate.trial
    domains = ", ".join(f"{name} {count}" for name, count in candidate.domain_counts.items())
    parent = f", from '{candidate.parent}'" if candidate.parent else ""
    lines = [
        f"ticket '{candidate.name}': {candidate.samples} images"
        + (f" ({domains})" if domains else "")
        + f", sparsity {candidate.sparsity:.3f}{parent}",
        f"  balanced accuracy on {trial.held_out} held-out images: "
        + (
            ""
            if trial.best_before is None
            else f"bank before {trial.bank_before:.4f}, best old ticket {trial.best_before:.4f} "
            f"('{trial.best_ticket}'), "
        )
        + f"new ticket {trial.ticket:.4f}, bank after {trial.bank_after:.4f}",
    ]
    lines += [
        f"  about to collapse at sparsity {flag['sparsity']:.3f} ({flag['score']}); target "
        f"{flag['target_before']:.3f} -> {flag['target_after']:.3f}"
        for flag in candidate.collapse
    ]
    if trial.taken:
        taken = ", ".join(f"'{name}' {share:.1%}" for name, share in trial.taken.items())
        lines.append(f"  takes from what is remembered of old data: {taken}")
    return lines
