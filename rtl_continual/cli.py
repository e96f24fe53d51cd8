"""The command line: parses, calls, prints.

What takes long to import (torch, and with it most rooms) is imported inside the commands.
"""

from __future__ import annotations

import json
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from rtl_continual import __version__
from rtl_continual.errors import RTLError
from rtl_continual.plugins_cli import PluginFiles, StrictPlugins, plugins_app
from rtl_continual.runs import ignore_known_warnings
from rtl_continual.serving import serve_command
from rtl_continual.store import bank_app
from rtl_continual.threads import use_threads

__all__ = ["app", "main"]

app = typer.Typer(
    name="rtl",
    help="Continual learning with a growable bank of lottery tickets over one frozen backbone.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
config_app = typer.Typer(help="Scenario files: what they may say, and whether one is right.")
data_app = typer.Typer(help="Streams: which there are, and getting them ready.")
for part, name in (
    (config_app, "config"),
    (data_app, "data"),
    (bank_app, "bank"),
    (plugins_app, "plugins"),
):
    app.add_typer(part, name=name, no_args_is_help=True)

app.command("serve")(serve_command)

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY.PATH=VALUE", help="Override a key; may be repeated."),
]
AsJSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def main() -> NoReturn:
    """Run the command line and exit: 0 done, 2 the user's mistake, 1 our fault, 130 interrupted."""
    ignore_known_warnings()
    try:
        app(prog_name="rtl")
    except RTLError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except SystemExit as error:
        named = _blame(error)  # a plugin must not end a command, least of all as if all were well
        if named is error:
            raise
        print(named, file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        named = _blame(error)
        if isinstance(named, RTLError):
            print(named, file=sys.stderr)
            sys.exit(2)
        if isinstance(error, OSError) and error.filename is not None:
            print(f"{error.filename}: {error.strerror or error}", file=sys.stderr)
            sys.exit(2)
        traceback.print_exc()
        print(
            f"rtl {__version__}: this is our fault, not yours; please report what stands above",
            file=sys.stderr,
        )
        sys.exit(1)
    sys.exit(0)


def _blame(error: BaseException) -> BaseException:
    """The same error, or one that names the plugin whose code raised it."""
    if "rtl_continual.plugins" not in sys.modules:  # then none has been called either
        return error
    from rtl_continual.plugins import blame

    return blame(error)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False))


def _version(asked: bool) -> None:
    if asked:
        print(f"rtl {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def run(
    scenario: Annotated[Path, typer.Argument(help="A scenario file (YAML).")],
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the results; default: runs/<name>-<time>.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run that was cut off.")
    ] = False,
    jobs: Annotated[int | None, typer.Option(min=1, help="Worker processes.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Such as 0,1,2.")] = None,
    limit_images: Annotated[
        int | None,
        typer.Option(min=1, help="Dry run: so many images per domain and part (streams of files)."),
    ] = None,
    plugins: PluginFiles = None,
    strict_plugins: StrictPlugins = False,
    as_json: AsJSON = False,
) -> None:
    """Run a scenario: results.json, metrics.jsonl, report.html and the bank."""
    from rtl_continual.plugins import load_plugins
    from rtl_continual.runs import (
        load_scenario,
        make_progress,
        results_table,
        run_scenario,
        write_report,
    )

    load_plugins(strict=strict_plugins)
    changes = [*(overrides or [])]
    if seeds is not None:
        changes.append(f"seeds=[{seeds}]")
    if jobs is not None:
        changes.append(f"jobs={jobs}")
    if limit_images is not None:
        changes.append(f"stream.limit_images={limit_images}")
    checked = load_scenario(scenario, changes, plugins=plugins or [])
    folder = out or (_latest_run(checked.name) if resume else _new_run(checked.name))
    errors = Console(stderr=True)
    try:
        results = run_scenario(checked, folder, resume=resume, progress=make_progress(errors))
    except KeyboardInterrupt:
        again = [word for word in sys.argv[1:] if word != "--resume"]
        again += [] if out else ["--out", str(folder)]
        saved = len(list((folder / "units").glob("*.json")))
        print(
            f"interrupted; {saved} finished units are saved in {folder}. Go on with:\n"
            f"  rtl {shlex.join([*again, '--resume'])}",
            file=sys.stderr,
        )
        raise typer.Exit(130) from None
    report = write_report(folder)
    if as_json:
        _print_json({"folder": str(folder), "report": str(report), "results": results})
    else:
        console = Console()
        if not console.is_terminal:
            console.width = 120
        console.print(results_table(results, width=console.width))
        for line in results.get("published", {}).get("differences", ()):
            print(f"not comparable with published results: {line}", file=sys.stderr)
        print(report)


def _new_run(name: str) -> Path:
    return Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"


def _latest_run(name: str) -> Path:
    stamp = "[0-9]" * 8 + "-" + "[0-9]" * 6
    found = sorted(Path("runs").glob(f"{name}-{stamp}"))
    if not found:
        raise RTLError(
            f"nothing to resume: there is no runs/{name}-<time>; name the folder with --out"
        )
    return found[-1]


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="A run's folder, with results.json in it.")],
    as_json: AsJSON = False,
) -> None:
    """Render report.html again from results.json."""
    from rtl_continual.runs import write_report

    path = write_report(folder)
    if as_json:
        _print_json({"report": str(path)})
    else:
        print(path)


@config_app.command("schema")
def config_schema(plugins: PluginFiles = None, strict_plugins: StrictPlugins = False) -> None:
    """Print the JSON schema of a scenario file, the sections of plugins included."""
    from rtl_continual.plugins import load_plugins
    from rtl_continual.runs import scenario_schema

    load_plugins(plugins or [], strict=strict_plugins)

    _print_json(scenario_schema())


@config_app.command("check")
def config_check(
    scenario: Annotated[Path, typer.Argument(help="A scenario file (YAML).")],
    overrides: Overrides = None,
    plugins: PluginFiles = None,
    strict_plugins: StrictPlugins = False,
    as_json: AsJSON = False,
) -> None:
    """Check a scenario file and print it with every default filled in."""
    from rtl_continual.plugins import load_plugins
    from rtl_continual.runs import load_scenario

    load_plugins(strict=strict_plugins)
    checked = load_scenario(scenario, overrides or [], plugins=plugins or [])
    if as_json:
        _print_json(checked.resolved())
    else:
        print(checked.to_yaml(), end="")


@data_app.command("list")
def data_list(plugins: PluginFiles = None, as_json: AsJSON = False) -> None:
    """List the streams."""
    from rtl_continual.plugins import load_plugins
    from rtl_continual.streams import stream_config_class, stream_names

    load_plugins(plugins or [])
    found = {
        name: _options(stream_config_class(name).model_json_schema()) for name in stream_names()
    }
    if as_json:
        _print_json(found)
        return
    for name, options in found.items():
        print(name)
        for key, text in options.items():
            print(f"  {key}: {text}")


def _options(schema: dict[str, Any]) -> dict[str, str]:
    described = {}
    for key, part in schema["properties"].items():
        if key != "name":
            default = f" (default {json.dumps(part['default'])})" if "default" in part else ""
            described[key] = part.get("description", "") + default
    return described


StreamName = Annotated[str, typer.Argument(help="A stream's name, or a scenario file.")]
StreamOptions = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="An option of the stream; may be repeated."),
]
DataRoot = Annotated[
    Path | None, typer.Option("--root", help="Folder of the data; short for --set root=...")
]


@data_app.command("prepare")
def data_prepare(
    name: StreamName,
    root: DataRoot = None,
    overrides: StreamOptions = None,
    sheet: Annotated[Path | None, typer.Option(help="Draw a contact sheet into this file.")] = None,
    as_json: AsJSON = False,
) -> None:
    """Get a stream ready: fetch, render and cache what it needs."""
    from rtl_continual.streams import build_stream, contact_sheet, prepare_stream

    config = _stream_config(name, root, overrides or [])
    with _data_progress() as progress:
        prepare_stream(config, progress)
    stream = build_stream(config)
    if sheet is not None:
        contact_sheet(stream, sheet)
    facts = {
        "name": stream.name,
        "domains": list(stream.domains),
        "classes": list(stream.classes),
        "fingerprint": stream.fingerprint,
        "experiences": [
            {"name": e.name, "train": len(e.train), "validation": len(e.validation)}
            for e in stream.experiences
        ],
        "tests": {domain: len(part) for domain, part in stream.tests.items()},
        "sheet": None if sheet is None else str(sheet),
    }
    if as_json:
        _print_json(facts)
        return
    print(f"{stream.name}: {len(stream.classes)} classes, fingerprint {stream.fingerprint[:16]}")
    for experience in stream.experiences:
        sizes = f"{len(experience.train)} train, {len(experience.validation)} validation"
        print(f"  {experience.name}: {sizes}")
    print("  test: " + ", ".join(f"{domain} {len(part)}" for domain, part in stream.tests.items()))
    if sheet is not None:
        print(sheet)


@data_app.command("verify")
def data_verify(
    name: StreamName,
    root: DataRoot = None,
    overrides: StreamOptions = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Decode every image, not a sample of each part.")
    ] = False,
    as_json: AsJSON = False,
) -> None:
    """Check a stream's files: lists, counts, missing, empty and undecodable images."""
    from rtl_continual.streams import verify_stream

    config = _stream_config(name, root, overrides or [])
    with _data_progress() as progress:
        report = verify_stream(config, sample=None if everything else 100, progress=progress)
    if as_json:
        _print_json(report.to_json())
    else:
        for domain, parts in report.images.items():
            print(f"{domain}: " + ", ".join(f"{count} {part}" for part, count in parts.items()))
        for found in report.findings:
            print(f"{found.level}: {found.check}: {found.message}: {found.count}")
            for example in found.examples[:5]:
                print(f"  {example}")
        print(f"{report.decoded} images decoded; {'passed' if report.passed else 'FAILED'}")
    if not report.passed:
        raise typer.Exit(3)


def _stream_config(name: str, root: Path | None, overrides: list[str]) -> Any:
    """The options of a stream by name, or of a scenario file's stream."""
    from rtl_continual.runs import load_scenario, load_stream_config

    # JSON quotes a path so that it is read as text whatever it looks like.
    changes = [*overrides] if root is None else [f"root={json.dumps(str(root))}", *overrides]
    if name.endswith((".yaml", ".yml")):
        return load_scenario(name, [f"stream.{change}" for change in changes]).stream
    return load_stream_config(name, changes)


@contextmanager
def _data_progress() -> Iterator[Callable[[str, int, int | None], None]]:
    """One bar on the terminal for each thing that is being done; none in a log."""
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as shown:
        tasks: dict[str, Any] = {}

        def advance(text: str, done: int, total: int | None) -> None:
            if text not in tasks:
                tasks[text] = shown.add_task(text, total=total)
            shown.update(tasks[text], completed=done)

        yield advance


OtherRouter = Annotated[
    str | None,
    typer.Option(
        "--router",
        metavar="NAME",
        help="Another router than the bank's own; it learns from the stored tickets.",
    ),
]


def _router_options(name: str | None) -> Any:
    """The options, all at their defaults, of the router that the user names."""
    from rtl_continual.routing import router_config_class

    return None if name is None else router_config_class(name)()


@app.command()
def predict(
    bank: Annotated[str, typer.Argument(help="A bank's folder, or an address such as s3://...")],
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    tag: Annotated[
        str | None, typer.Option(help="The version this tag names; default: the newest.")
    ] = None,
    router: OtherRouter = None,
    executor: Annotated[
        str, typer.Option(metavar="NAME", help="How a batch goes through the body.")
    ] = "grouped",
    plugins: PluginFiles = None,
    as_json: AsJSON = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print comma-separated values.")] = False,
) -> None:
    """Route images through a bank and print class, ticket and confidence of each."""
    import csv

    from rtl_continual.plugins import load_plugins
    from rtl_continual.store import image_files, load_bank
    from rtl_continual.tickets import build_executor, executor_config_class

    if as_csv and as_json:
        raise RTLError("--csv or --json, not both")
    load_plugins(plugins or [])
    opened = load_bank(bank, tag=tag, router=_router_options(router))
    opened.executor = build_executor(executor_config_class(executor)())
    use_threads(1)
    found = [
        {
            "image": str(file),
            "label": label,
            "class": opened.class_name(label) or None,
            "ticket": ticket,
            "ticket_name": opened.names[ticket] if ticket >= 0 else None,
            "confidence": round(confidence, 6),
            "version": opened.version,
        }
        for file, label, ticket, confidence in _answers(opened, image_files(images))
    ]
    if as_json:
        _print_json(found)
        return
    if as_csv:
        table = csv.DictWriter(sys.stdout, list(found[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(found)
        return
    for row in found:
        name = "router abstained" if row["ticket_name"] is None else row["ticket_name"]
        label = "none" if row["class"] is None else row["class"]
        print(f"{row['image']}: {label}  ({name}, confidence {row['confidence']:.3f})")


def _answers(bank: Any, files: list[Path]) -> Iterator[tuple[Path, int, int, float]]:
    """Label, ticket and confidence of each file; no more than a batch of them is in memory."""
    for start in range(0, len(files), 256):
        batch = files[start : start + 256]
        answer = bank.predict(batch)
        columns = (answer.labels, answer.ticket_ids, answer.confidence)
        yield from zip(batch, *(column.tolist() for column in columns), strict=True)


@app.command()
def export(
    bank: Annotated[str, typer.Argument(help="A bank's folder, or an address such as s3://...")],
    out: Annotated[Path, typer.Argument(help="The new file.")],
    ticket: Annotated[str, typer.Option(metavar="ID|NAME", help="Which ticket.")],
    form: Annotated[
        str | None, typer.Option("--format", help="An exporter; default: by the file's ending.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="An option of it; may be repeated."),
    ] = None,
    tag: Annotated[str | None, typer.Option(help="The version that a tag names.")] = None,
    router: OtherRouter = None,
    plugins: PluginFiles = None,
    as_json: AsJSON = False,
) -> None:
    """Write one ticket for use without this program: weights or a torch.export program."""
    from rtl_continual.export import export_ticket, exporter_config_class, exporter_for
    from rtl_continual.plugins import load_plugins
    from rtl_continual.problems import load_options
    from rtl_continual.store import load_bank

    load_plugins(plugins or [])
    name = exporter_for(out) if form is None else form
    config = load_options("exporter", exporter_config_class(name), overrides or [])
    opened = load_bank(bank, tag=tag, router=_router_options(router))
    number = int(ticket) if ticket.isdecimal() and ticket not in opened.names else ticket
    path = export_ticket(opened, number, out, config)
    if as_json:
        _print_json({"file": str(path), "format": name, "bytes": path.stat().st_size})
    else:
        print(path)
