"""``rtl plugins``: which there are, whether one keeps its contract, and beginning a new one."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from rtl_continual.threads import use_threads

__all__ = ["PluginFiles", "StrictPlugins", "plugins_app"]

plugins_app = typer.Typer(
    help="Plugins: which there are, checking one, beginning a new one.", no_args_is_help=True
)

PluginFiles = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin",
        metavar="FILE.PY|MODULE",
        help="Load one that is not installed; repeatable.",
    ),
]
StrictPlugins = Annotated[
    bool,
    typer.Option("--strict-plugins", help="A broken installed plugin is an error."),
]
AsJSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False))


@plugins_app.command("list")
def plugins_list(
    plugins: PluginFiles = None, strict_plugins: StrictPlugins = False, as_json: AsJSON = False
) -> None:
    """List all plugins: distribution, version, what each registers, and which are broken."""
    from rtl_continual.plugins import Manager, load_plugins

    logging.getLogger("rtl_continual.plugins").setLevel(logging.ERROR)  # they are listed below
    manager: Manager = load_plugins(plugins or [], strict=strict_plugins)
    for hook in manager.registration_hooks:
        manager.registered(hook)
    found: list[dict[str, Any]] = [
        {
            "name": plugin.name,
            "distribution": plugin.origin.distribution,
            "version": plugin.origin.version,
            "built_in": plugin.origin.built_in,
            "hooks": list(manager.hooks_of(plugin)),
            "registers": {
                hook.removeprefix("register_"): sorted(names)
                for hook, names in sorted(plugin.registrations.items())
                if names
            },
        }
        for plugin in manager.plugins
    ]
    if as_json:
        _print_json({"plugins": found, "broken": manager.problems})
        return
    for row in found:
        typer.echo(f"{row['name']}  {_source(row)}")
        for kind, names in row["registers"].items():
            typer.echo(f"  {kind.replace('_', ' ')}: {', '.join(names)}")
        others = [hook for hook in row["hooks"] if not hook.startswith("register_")]
        if others:
            typer.echo(f"  hooks: {', '.join(others)}")
    for problem in manager.problems:
        typer.echo(f"left out: {problem}")


def _source(row: dict[str, Any]) -> str:
    return f"{row['distribution']} {row['version']}" if row["distribution"] else "not installed"


@plugins_app.command("check")
def plugins_check(
    name: Annotated[
        str,
        typer.Argument(help="A plugin, its distribution, or one router, stream ... of a plugin."),
    ],
    plugins: PluginFiles = None,
    as_json: AsJSON = False,
) -> None:
    """Run the conformance suite over what a plugin brings; exit code 3 if something fails."""
    from rtl_continual.plugins import load_plugins
    from rtl_continual.testing import check_plugin, subjects_of

    use_threads(1)
    subjects = subjects_of(load_plugins(plugins or []), name)
    rows = []
    for subject in subjects:
        found = [
            {
                "kind": subject.kind,
                "name": subject.name,
                "property": outcome.name,
                "problem": outcome.problem or None,
                "skipped": outcome.skipped or None,
            }
            for outcome in check_plugin(subject)
        ]
        if not as_json:
            _print_outcomes(found)
        rows += found
    failed = [row for row in rows if row["problem"]]
    if as_json:
        _print_json({"checked": rows, "failed": len(failed)})
    else:
        skipped = sum(bool(row["skipped"]) for row in rows)
        passed = len(rows) - len(failed) - skipped
        typer.echo(f"{passed} hold, {len(failed)} fail, {skipped} skipped")
        if not subjects:
            typer.echo("the plugin registers nothing that there is a suite for")
    if failed:
        raise typer.Exit(3)


def _print_outcomes(rows: Sequence[dict[str, Any]]) -> None:
    for row in rows:
        what = f"{row['kind']} {row['name']}: {row['property']}"
        if row["problem"]:
            typer.echo(f"FAIL  {what}: {row['problem']}")
        elif row["skipped"]:
            typer.echo(f"skip  {what}: {row['skipped']}")
        else:
            typer.echo(f"ok    {what}")


@plugins_app.command("new")
def plugins_new(
    name: Annotated[str, typer.Argument(help="Lower case letters, digits and -.")],
    kind: Annotated[
        str,
        typer.Option(
            help="What it brings: backbone, clusterer, executor, exporter, relaxation-policy, "
            "report-section, router, shift-detector, sparsity-schedule, stream or task."
        ),
    ] = "router",
    out: Annotated[
        Path | None, typer.Option(help="The new folder; default: the distribution's name.")
    ] = None,
    as_json: AsJSON = False,
) -> None:
    """Write a new plugin package: it works, and its tests pass."""
    from rtl_continual.plugins import write_skeleton

    folder, files = write_skeleton(name, kind, out)
    if as_json:
        _print_json({"folder": str(folder), "files": [str(path) for path in files]})
        return
    for path in files:
        typer.echo(str(path))
    typer.echo(f"install it:  pip install --editable {folder}")
    typer.echo(f"test it:     python -m pytest {folder}")
