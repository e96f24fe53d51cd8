"""``report.html``: one file that needs nothing else, rendered from ``results.json``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined, UndefinedError
from markupsafe import Markup

from rtl_continual.errors import RTLError
from rtl_continual.runs import _charts
from rtl_continual.runs._files import check_keys, read_events, read_json, write_text
from rtl_continual.runs._sections import extra_sections
from rtl_continual.runs._summary import short_count, with_deviation

__all__ = ["write_report"]

_KNOWN_VERSION = 1

_LIGHT, _DARK = (247, 251, 255), (8, 69, 148)
"""Ends of the heat maps' scale: one hue, told apart by lightness alone."""

_QUIET = {"experience_learned", "evaluated", "unit_started", "unit_finished"}
"""Events that the report shows elsewhere."""


def write_report(folder: str | Path) -> Path:
    """Render ``report.html`` from a run's ``results.json`` and ``metrics.jsonl``.

    Args:
        folder: the run's.

    Returns:
        The report's path.

    Raises:
        RTLError: if the folder has no finished run, one of a newer version, or a damaged one.
    """
    folder = Path(folder)
    source = folder / "results.json"
    if not source.is_file():
        raise RTLError(f"{source}: not found; the run is not finished, or this is no run's folder")
    results = read_json(source)
    if results.get("schema_version") != _KNOWN_VERSION:
        raise RTLError(
            f"{source}: has schema version {results.get('schema_version')}, "
            f"this program reads {_KNOWN_VERSION}"
        )
    check_keys(source, results, ["methods", "scenario", "seeds", "stream"])
    events = read_events(folder / "metrics.jsonl")
    try:
        page = render(results, events)
    except (LookupError, TypeError, ValueError, AttributeError, UndefinedError) as error:
        problem = f"{type(error).__name__}: {error}"
        raise RTLError(
            f"{source}: cannot be shown ({problem}): it is damaged, or a method's entry lacks "
            "something; rtl run with --out and --resume writes it anew from units/"
        ) from error
    path = folder / "report.html"
    write_text(path, page)
    return path


def render(results: dict[str, Any], events: Sequence[Mapping[str, Any]]) -> str:
    """The report's HTML.

    Args:
        results: the content of ``results.json``.
        events: of ``metrics.jsonl``.
    """
    environment = Environment(
        loader=PackageLoader("rtl_continual.runs"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": _percent,
        "pm": _deviating,
        "pmg": _deviating_part,
        "size": short_count,
    }
    labels = results["labels"]
    return environment.get_template("report.html.j2").render(
        results=results,
        methods=[(label, results["methods"][label]) for label in labels],
        colours=_charts.colours(labels),
        best=_best(results),
        bars=Markup(_charts.domain_bars(results)),
        scatter=Markup(_charts.size_scatter(results)),
        sweep=Markup(_charts.sweep_plot(results)) if "sweep" in results else None,
        sweep_rows=_sweep_rows(results),
        matrices=_matrices(results),
        ours=[_ours(label, results) for label in labels if "tickets" in results["methods"][label]],
        events=[_event(event) for event in events if event["event"] not in _QUIET],
        sections=extra_sections(results, events),
        config=yaml.safe_dump(results["config"], sort_keys=False, allow_unicode=True),
    )


@dataclass(frozen=True)
class Cell:
    """One field of a heat map."""

    text: str
    style: str


@dataclass(frozen=True)
class HeatMap:
    """A table whose cells are coloured by value."""

    title: str
    corner: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]


def _heat(
    title: str,
    corner: str,
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float | None]],
    *,
    low: float = 0.0,
    high: float = 1.0,
    text: Callable[[float], str] = lambda value: f"{100 * value:.1f}",
) -> HeatMap:
    def cell(value: float | None) -> Cell:
        if value is None:
            return Cell("–", "")
        share = min(max((value - low) / (high - low), 0.0), 1.0) if high > low else 1.0
        rgb = [round(a + share * (b - a)) for a, b in zip(_LIGHT, _DARK, strict=True)]
        ink = "#fff" if share > 0.55 else "#1f2933"
        return Cell(text(value), f"background:rgb({rgb[0]},{rgb[1]},{rgb[2]});color:{ink}")

    lines = [(name, [cell(v) for v in row]) for name, row in zip(rows, values, strict=True)]
    return HeatMap(title, corner, columns, lines)


def _matrices(results: Mapping[str, Any]) -> list[HeatMap]:
    """Balanced accuracy after each experience, all methods on one scale."""
    stream = results["stream"]
    stages = [f"after {e['name']}" for e in stream["experiences"]]
    matrices = {
        label: results["methods"][label]["balanced_accuracy_matrix"] for label in results["labels"]
    }
    known = [v for matrix in matrices.values() for row in matrix for v in row if v is not None]
    low, high = min(known, default=0.0), max(known, default=1.0)
    maps = []
    for label, matrix in matrices.items():
        offline = results["methods"][label]["protocol"] == "offline"
        rows, values = (["offline"], matrix[-1:]) if offline else (stages, matrix)
        maps.append(_heat(label, "", rows, stream["domains"], values, low=low, high=high))
    return maps


def _ours(label: str, results: Mapping[str, Any]) -> dict[str, Any]:
    """What there is to show of a method that keeps tickets."""
    entry, domains = results["methods"][label], results["stream"]["domains"]
    tickets = entry["tickets"]
    names = [f"{t['id']} {t['cluster']}" for t in tickets]
    shown: dict[str, Any] = {"label": label, "entry": entry, "heat": []}
    confusion = entry.get("router", {}).get("confusion")
    if confusion and all(len(row) == len(names) for row in confusion):
        shares = [[n / (sum(row) or 1) for n in row] for row in confusion]
        title = "Router: share of each domain's images by ticket, %"
        shown["heat"].append(_heat(title, "", domains, names, shares))
    for key, title in (
        ("similarity", "Mask overlap (Jaccard), %"),
        ("similarity_beyond_chance", "Mask overlap beyond chance, %"),
    ):
        if entry.get(key):
            shown["heat"].append(_heat(title, "", names, names, entry[key]))
    watched = [t for t in tickets if (t.get("collapse") or {}).get("trace")]
    shown["collapse"] = Markup(_charts.collapse_plot(watched)) if watched else None
    densities = [t.get("layer_density") or {} for t in tickets]
    layers = sorted({layer for d in densities for layer in d}, key=_natural)
    if layers:
        sparsity = [[1 - d[layer] if layer in d else None for layer in layers] for d in densities]
        columns = [layer.removesuffix(".weight") for layer in layers]
        known = [v for row in sparsity for v in row if v is not None]
        low, high = min(known), max(known)
        title = "Sparsity by layer and ticket, %"
        shown["heat"].append(
            _heat(title, "", names, columns, sparsity, low=low, high=max(high, low + 0.02))
        )
    return shown


def _natural(name: str) -> list[Any]:
    """Sorts ``layer2`` before ``layer10``."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _best(results: Mapping[str, Any]) -> str | None:
    """The continual method with the highest balanced accuracy that is not told the domain."""
    scores = {
        label: entry["final"]["balanced_accuracy_domain_mean"] or 0.0
        for label, entry in results["methods"].items()
        if entry["protocol"] == "continual" and not entry["needs_domain"]
    }
    return max(scores, key=scores.__getitem__) if scores else None


def _sweep_rows(results: Mapping[str, Any]) -> list[list[str]]:
    if "sweep" not in results:
        return []
    sweep = results["sweep"]
    return [
        [
            str(value),
            *(
                with_deviation(sweep["methods"][label][i], "balanced_accuracy_domain_mean")
                for label in sweep["methods"]
            ),
            *(
                short_count(sweep["methods"][label][i]["parameters"]["effective_union"])
                for label in sweep["methods"]
            ),
        ]
        for i, value in enumerate(sweep["values"])
    ]


def _event(event: Mapping[str, Any]) -> dict[str, str]:
    hidden = ("time", "event", "unit", "seed", "method")
    facts = {key: value for key, value in event.items() if key not in hidden}
    text = ", ".join(
        f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in facts.items()
    )
    time = str(event["time"])[:19].replace("T", " ")
    return {
        "time": time,
        "unit": str(event.get("unit", "")),
        "event": event["event"],
        "facts": text,
    }


def _deviating(entry: dict[str, Any], key: str) -> Markup:
    """:func:`with_deviation`, the deviation in small print."""
    value, sign, deviation = with_deviation(entry, key).partition(" ± ")
    return Markup("{}<small>{}{}</small>").format(value, sign, deviation) if sign else Markup(value)


def _deviating_part(entry: dict[str, Any], key: str, part: str) -> Markup:
    """:func:`_deviating` of one number of a group of numbers."""
    picked = {"final": {part: entry["final"][key][part]}}
    if "std" in entry:
        picked["std"] = {part: entry["std"][key][part]}
    return _deviating(picked, part)


def _percent(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f}"
