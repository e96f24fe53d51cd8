"""``rtl bank``: what is in a bank, whether it is sound, and going through its versions.

torch is imported only by the commands that need it, so that the others answer at once.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from rtl_continual.errors import BankError
from rtl_continual.store._add_command import Plugins, add, printable

__all__ = ["bank_app"]

bank_app = typer.Typer(
    help="Banks on disk: what is in them, proofs, history.", no_args_is_help=True
)

Bank = Annotated[str, typer.Argument(help="A bank's folder, or an address such as s3://...")]
AsJSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Version = Annotated[
    str | None, typer.Option("--version", metavar="N|TAG", help="Default: the newest.")
]
Given = Annotated[str, typer.Argument(metavar="N|TAG", help="A version's number, or a tag.")]
Message = Annotated[str, typer.Option(help="Kept with the version.")]


bank_app.command("add")(add)

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _open(path: str) -> Any:
    from rtl_continual.store._files import BankFiles
    from rtl_continual.store._storage import open_storage

    files = BankFiles(open_storage(path))
    files.head()
    return files


def _number(files: Any, given: str | None) -> int:
    """The number of the version that the user means."""
    if given is None:
        return int(files.head())
    if re.fullmatch(r"[0-9]{1,15}", given):
        return int(given)
    return int(files.tagged(given))


def _print(value: Any, as_json: bool, *lines: str) -> None:
    if as_json:
        typer.echo(json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False))
    else:
        for line in lines:
            typer.echo(printable(line))


@bank_app.command("list")
def list_tickets(bank: Bank, version: Version = None, as_json: AsJSON = False) -> None:
    """List a bank's tickets."""
    files = _open(bank)
    rows = [_ticket(files, manifest, i) for manifest, i in _tickets(files, version)]
    _print(
        rows,
        as_json,
        *(
            f"{row['id']:3d}  {row['name']}  sparsity {row['sparsity']:.3f}  "
            f"{row['samples']} samples  {row['bytes']:,} bytes  {row['fingerprint'][:12]}"
            for row in rows
        ),
    )


def _tickets(files: Any, version: str | None) -> list[tuple[Any, int]]:
    manifest = files.read(_number(files, version))
    return [(manifest, index) for index in range(len(manifest.tickets))]


def _ticket(files: Any, manifest: Any, index: int) -> dict[str, Any]:
    """What is known of a ticket; its blob is checked against its hash on the way."""
    import math

    from rtl_continual.store._metadata import read_metadata

    entry = manifest.tickets[index]
    what = f"ticket {index} '{entry.name}'"
    facts = read_metadata("ticket", files.blob(entry.blob, entry.bytes, what), what)
    return {
        **facts["info"],
        "id": index,
        "bytes": entry.bytes,
        "fingerprint": entry.fingerprint,
        "sparsity": round(1 - entry.kept / manifest.backbone.maskable, 6),
        "layer_density": {
            layer["name"]: layer["kept"] / math.prod(layer["shape"]) for layer in facts["mask"]
        },
    }


@bank_app.command()
def inspect(
    bank: Bank,
    ticket: Annotated[int | None, typer.Option(help="One ticket alone.")] = None,
    version: Version = None,
    as_json: AsJSON = False,
) -> None:
    """Show what a bank holds: backbone, router, sizes, and each ticket's facts."""
    from rtl_continual.store._sizes import sizes

    files = _open(bank)
    manifest = files.read(_number(files, version))
    count = len(manifest.tickets)
    if ticket is not None and not 0 <= ticket < count:
        raise BankError(f"no ticket {ticket}; the bank has {count}")
    facts = {
        "version": manifest.version,
        "created": manifest.created,
        "writer": manifest.writer,
        "backbone": manifest.backbone.model_dump(mode="json"),
        "task": manifest.task.model_dump(mode="json"),
        "router": manifest.router.name if manifest.router else None,
        "sizes": sizes(files, manifest),
        "tickets": [
            _ticket(files, manifest, index)
            for index in (range(count) if ticket is None else [ticket])
        ],
    }
    if as_json:
        _print(facts, as_json)
        return
    import yaml

    typer.echo(yaml.safe_dump(facts, sort_keys=False, allow_unicode=True), nl=False)


@bank_app.command()
def verify(bank: Bank, as_json: AsJSON = False) -> None:
    """Hash everything again and prove that no stored ticket has changed; exit 3 if not so."""
    from rtl_continual.store._verify import verify as check

    report = check(_open(bank))
    found = (
        f"{report.versions} versions, {report.tickets} tickets, {report.blobs} blobs, "
        f"{report.bytes:,} bytes"
    )
    lines = [f"sound: {found}" if report.ok else f"DAMAGED: {found}", *report.problems]
    if report.ok and (report.unused or report.unfinished):
        left = f"{report.unused} unused blobs and {report.unfinished} unfinished files"
        lines.append(f"{left}; 'rtl bank gc' removes them")
    _print(report.to_json(), as_json, *lines)
    if not report.ok:
        raise typer.Exit(3)


@bank_app.command()
def history(bank: Bank, as_json: AsJSON = False) -> None:
    """List the versions, newest first, and what each one brought."""
    from rtl_continual.store._history import history as versions

    rows = versions(_open(bank))[::-1]
    _print(rows, as_json, *(_history_line(row) for row in rows))


def _history_line(row: dict[str, Any]) -> str:
    what = row["operation"] + (f" to {row['source']}" if row["operation"] == "rollback" else "")
    changes = [f"+{name}" for name in row["added"]] + [f"-{name}" for name in row["removed"]]
    notes = row["tags"] + (["retired"] if row["retired"] else [])
    return "  ".join(
        part
        for part in (
            f"{row['version']:4d}",
            row["created"],
            what,
            f"{row['tickets']} tickets",
            " ".join(changes),
            f"{row['bytes']:,} bytes",
            f"[{', '.join(notes)}]" if notes else "",
            row["message"],
        )
        if part
    )


@bank_app.command()
def rollback(
    bank: Bank,
    to: Annotated[str, typer.Option("--to", metavar="N|TAG", help="The version to go back to.")],
    message: Message = "",
    as_json: AsJSON = False,
) -> None:
    """Append a version whose content is that of an older one; nothing is removed."""
    from rtl_continual.store._history import rollback as go_back

    files = _open(bank)
    target = _number(files, to)
    manifest = go_back(files, target, message)
    _print(
        {"version": manifest.version, "to": target, "sha256": manifest.sha256},
        as_json,
        f"version {manifest.version} has the content of version {target}: "
        f"{len(manifest.tickets)} tickets",
    )


@bank_app.command()
def gc(
    bank: Bank,
    grace: Annotated[
        str, typer.Option(metavar="TIME", help="Spare what is younger: 7d, 12h, 30m, 45s.")
    ] = "7d",
    keep: Annotated[
        int | None,
        typer.Option(
            min=1, help="Retire all but so many of the newest versions (and tagged ones)."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: AsJSON = False,
) -> None:
    """Remove what no kept version refers to, after a grace period."""
    from rtl_continual.store._collect import collect

    match = re.fullmatch(r"([0-9]{1,9})([smhd])", grace)
    if not match:
        raise BankError(
            f"--grace: expected a number and one of s, m, h, d, as in 7d; got '{grace}'"
        )
    seconds = float(int(match[1]) * _UNITS[match[2]])
    found = collect(_open(bank), grace=seconds, keep=keep, dry_run=dry_run)
    would = "would be " if dry_run else ""
    lines = [f"{would}removed: {entry['file']}" for entry in found["removed"]]
    lines.append(
        f"{len(found['removed'])} files {would}removed, {found['bytes']:,} bytes; "
        f"{found['within_grace']} unused ones are within the grace period; "
        f"{len(found['retired'])} versions {would}retired"
    )
    _print(found, as_json, *lines)


@bank_app.command()
def diff(bank: Bank, old: Given, new: Given, as_json: AsJSON = False) -> None:
    """Show what differs between two versions: tickets, router, sizes."""
    from rtl_continual.store._history import diff as compare

    files = _open(bank)
    found = compare(files, _number(files, old), _number(files, new))
    tickets, router, size = found["tickets"], found["router"], found["bytes"]
    lines = [f"{tickets['unchanged']} tickets unchanged"]
    lines += [f"+ {t['id']} {t['name']} ({t['bytes']:,} bytes)" for t in tickets["added"]]
    lines += [f"- {t['id']} {t['name']} ({t['bytes']:,} bytes)" for t in tickets["removed"]]
    lines.append(f"router {'changed' if router['changed'] else 'unchanged'} ({router['to']})")
    lines.append(f"{size['from']:,} -> {size['to']:,} bytes ({size['new']:,} new)")
    _print(found, as_json, *lines)


@bank_app.command()
def replay(
    bank: Bank,
    old: Given,
    new: Given,
    images: Annotated[list[Path], typer.Option("--images", help="Files or folders; repeatable.")],
    batch_size: Annotated[int, typer.Option(min=1, help="Images per pass.")] = 256,
    plugins: Plugins = None,
    as_json: AsJSON = False,
) -> None:
    """Predict with two versions; list every input whose ticket or output changed, and why."""
    from rtl_continual.plugins import load_plugins
    from rtl_continual.store._images import read_images
    from rtl_continual.store._replay import replay as run
    from rtl_continual.store._store import BankStore

    load_plugins(plugins or [])
    store = BankStore.open(bank)
    numbers = _number(store, old), _number(store, new)
    backbone = store.load_backbone(numbers[0])
    pixels, names = read_images(images, backbone.input_spec)
    found = run(store, pixels, *numbers, names=names, batch_size=batch_size, backbone=backbone)
    lines = [
        f"{c.name}: ticket {c.old_ticket} -> {c.new_ticket}, label {c.old_label} -> "
        f"{c.new_label}: {c.reason}"
        for c in found.changes
    ]
    lines.append(
        f"{len(found.changes)} of {found.images} inputs changed; {found.bit_equal} of the "
        f"{found.same_ticket} that kept their ticket got the same bits"
    )
    _print(found.to_json(), as_json, *lines)


@bank_app.command("export-version")
def export_version(
    bank: Bank,
    folder: Annotated[str, typer.Argument(help="A new or empty folder, or an address.")],
    version: Version = None,
    as_json: AsJSON = False,
) -> None:
    """Copy one version to a new bank in another folder."""
    from rtl_continual.store._files import BankFiles
    from rtl_continual.store._history import export
    from rtl_continual.store._storage import open_storage

    files = _open(bank)
    number = _number(files, version)
    manifest = export(files, files.read(number), BankFiles(open_storage(folder)))
    facts = {"folder": folder, "from": number, "tickets": len(manifest.tickets)}
    _print(facts, as_json, f"{folder}: version {number}, {len(manifest.tickets)} tickets")


@bank_app.command()
def tag(
    bank: Bank,
    name: Annotated[str | None, typer.Argument(help="Without a name: list the tags.")] = None,
    version: Version = None,
    delete: Annotated[bool, typer.Option("--delete", help="Remove the tag.")] = False,
    as_json: AsJSON = False,
) -> None:
    """Let a tag name a version (the newest by default), remove it, or list the tags."""
    files = _open(bank)
    if name is None:
        if delete or version is not None:
            raise BankError("name the tag")
    elif delete:
        files.untag(name)
    else:
        files.tag(name, _number(files, version))
    tags: dict[str, int | None] = {}
    problems = []
    for found in files.tag_names():
        try:
            tags[found] = files.tagged(found)
        except BankError as error:
            tags[found] = None
            problems.append(error)
    _print(tags, as_json, *(f"{tag}: {number or 'damaged'}" for tag, number in tags.items()))
    if name is None and problems:
        raise problems[0]  # what was asked for beside the list has been done
