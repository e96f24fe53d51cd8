"""The report's pictures, as inline SVG that is the same for the same results."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from rtl_continual.runs._summary import short_count

__all__ = ["collapse_plot", "colours", "domain_bars", "size_scatter", "sweep_plot"]

_PALETTE = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#6B4C9A",
    "#7F7F7F",
    "#A0522D",
)
"""Okabe and Ito (2008), told apart with every kind of colour vision; three darker ones added."""

_MARKERS = "osD^vPX<>*"

_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "rtl_continual",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.edgecolor": "#8a939e",
    "axes.labelcolor": "#3b444d",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "xtick.color": "#56606b",
    "ytick.color": "#56606b",
    "text.color": "#1f2933",
    "legend.frameon": False,
}


def colours(labels: Sequence[str]) -> dict[str, str]:
    """One colour for each method, the same in every picture."""
    return {label: _PALETTE[i % len(_PALETTE)] for i, label in enumerate(labels)}


def domain_bars(results: Mapping[str, Any]) -> str:
    """Balanced accuracy of each method: one panel for each domain, one bar for each method."""
    domains, labels = results["stream"]["domains"], list(results["labels"])
    paint = colours(labels)
    columns = min(len(domains), 6)
    rows = -(-len(domains) // columns)
    height = 0.24 * len(labels) + 0.5
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(11, rows * height + 0.2), layout="constrained")
        panels = figure.subplots(rows, columns, sharey=True, squeeze=False)
        for index, panel in enumerate(panels.flat):
            if index >= len(domains):
                panel.set_visible(False)
                continue
            _bars(panel, results, domains[index], labels, paint)
        return _svg(figure, "Balanced accuracy by domain and method")


def _bars(
    panel: Axes, results: Mapping[str, Any], domain: str, labels: list[str], paint: dict[str, str]
) -> None:
    for place, label in enumerate(labels):
        entry = results["methods"][label]
        value = entry["final"]["balanced_accuracy_by_domain"][domain]
        if value is None:
            continue
        error = entry.get("std", {}).get("balanced_accuracy_by_domain", {}).get(domain)
        panel.barh(
            place,
            100 * value,
            0.72,
            color=paint[label],
            xerr=None if error is None else 100 * error,
            error_kw={"elinewidth": 1, "ecolor": "#1f2933"},
        )
        end = 100 * (value + (error or 0)) + 3
        panel.text(end, place, f"{100 * value:.1f}", va="center", fontsize=8)
    panel.set_title(domain)
    panel.set_yticks(range(len(labels)), labels)
    panel.set_ylim(len(labels) - 0.4, -0.6)
    panel.set_xlim(0, 128)
    panel.set_xticks([0, 50, 100])
    panel.tick_params(axis="y", length=0)
    panel.spines["left"].set_visible(False)


def size_scatter(results: Mapping[str, Any]) -> str:
    """Balanced accuracy against what serving all domains takes, in parameters and in bytes."""
    labels = list(results["labels"])
    paint = colours(labels)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(11, 3.3), layout="constrained")
        for panel, (key, title) in zip(
            figure.subplots(1, 2, sharey=True),
            (("effective_union", "parameters"), ("bytes_on_disk", "bytes on disk")),
            strict=True,
        ):
            for place, label in enumerate(labels):
                entry = results["methods"][label]
                value = entry["final"]["balanced_accuracy_domain_mean"]
                size = entry["parameters"].get(key)
                if value is not None and size:
                    panel.scatter(
                        size,
                        100 * value,
                        s=64,
                        color=paint[label],
                        marker=_MARKERS[place % len(_MARKERS)],
                        edgecolors="white",
                        linewidths=0.8,
                        label=label,
                        zorder=3,
                    )
            panel.margins(0.12)
            _count_axis(panel)
            panel.set_xlabel(f"{title} (log scale)")
            panel.grid(color="#e4e7eb", linewidth=0.7)
        figure.axes[0].set_ylabel("balanced accuracy, mean, %")
        handles, names = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside right center")
        return _svg(figure, "Balanced accuracy against size")


def sweep_plot(results: Mapping[str, Any]) -> str:
    """Balanced accuracy over the sweep: at equal active weights, and at equal stored weights."""
    sweep = results["sweep"]
    labels = list(sweep["methods"])
    paint = colours(results["labels"])
    sparsity = sweep["key"].endswith("sparsity")
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(11, 3.4), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        for label in labels:
            entries = sweep["methods"][label]
            marker = _MARKERS[results["labels"].index(label) % len(_MARKERS)]
            scores = [_percent(e["final"]["balanced_accuracy_domain_mean"]) for e in entries]
            spread = [
                _percent(e.get("std", {}).get("balanced_accuracy_domain_mean")) or 0
                for e in entries
            ]
            stored = [e["parameters"]["effective_union"] for e in entries]
            order = sorted(range(len(stored)), key=stored.__getitem__)
            style = {"color": paint[label], "marker": marker, "label": label, "capsize": 2}
            left.errorbar(range(len(scores)), scores, yerr=spread, **style)
            right.errorbar(
                [stored[i] for i in order],
                [scores[i] for i in order],
                yerr=[spread[i] for i in order],
                **style,
            )
        names = [f"{100 * v:g} %" if sparsity else str(v) for v in sweep["values"]]
        left.set_xticks(range(len(names)), names)
        left.set_xlabel(
            "sparsity (equal: equal active weights per input)" if sparsity else sweep["key"]
        )
        left.set_ylabel("balanced accuracy, mean, %")
        _count_axis(right)
        right.set_xlabel("stored parameters: union of masks, norms, heads, trunk (log scale)")
        for panel in (left, right):
            panel.grid(color="#e4e7eb", linewidth=0.7)
        handles, shown = left.get_legend_handles_labels()
        figure.legend(handles, shown, loc="outside right center")
        return _svg(figure, f"Sweep over {sweep['key']}")


def collapse_plot(tickets: Sequence[Mapping[str, Any]]) -> str:
    """What the monitors of tickets saw: the watched score, its learned bounds, and flags.

    Args:
        tickets: of ``results.json``, each with its ``collapse`` trace.
    """
    columns = min(len(tickets), 5)
    rows = -(-len(tickets) // columns)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(11, 2.3 * rows + 0.5), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for index, panel in enumerate(panels.flat):
            if index >= len(tickets):
                panel.set_visible(False)
                continue
            seen = tickets[index]["collapse"]
            known = [row for row in seen["trace"] if row["score"] is not None]
            _trace(panel, known, seen.get("direction", "drop"))
            panel.set_title(f"{tickets[index]['id']} {tickets[index]['cluster']}")
            panel.set_xlabel("update")
        panels[0, 0].set_ylabel(tickets[0]["collapse"]["score"])
        handles, shown = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, shown, loc="outside right center")
        return _svg(figure, "Score, learned bounds and flags while tickets were pruned")


def _trace(panel: Axes, trace: Sequence[Mapping[str, Any]], direction: str) -> None:
    steps = [row["step"] for row in trace]
    panel.plot(steps, [row["sparsity"] for row in trace], "--", color="#8a939e", label="sparsity")
    panel.plot(steps, [row["score"] for row in trace], ".-", color=_PALETTE[0], label="score")
    known = [row for row in trace if row["low"] is not None]
    bounds = [("low", "lower bound")] if direction != "rise" else []
    bounds += [("high", "upper bound")] if direction != "drop" else []
    for (key, label), style in zip(bounds, (":", "-."), strict=False):
        panel.plot(
            [row["step"] for row in known],
            [row[key] for row in known],
            style,
            color=_PALETTE[1],
            label=label,
        )
    flags = [row for row in trace if row["flagged"]]
    panel.plot(
        [row["step"] for row in flags],
        [row["score"] for row in flags],
        "v",
        color=_PALETTE[1],
        label="flag",
    )
    panel.set_ylim(-0.05, 1.05)
    panel.grid(color="#e4e7eb", linewidth=0.7)


def _count_axis(panel: Axes) -> None:
    """A logarithmic axis marked 20 k, 50 k, 100 k."""
    panel.set_xscale("log")
    panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_count(value)))
    panel.xaxis.set_minor_formatter(NullFormatter())


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _svg(figure: Figure, title: str) -> str:
    """Inline SVG without prolog, names that nothing refers to, or addresses."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r"<!--.*?-->\n?", "", text, flags=re.DOTALL)
    text = re.sub(r'<svg width="[^"]*" height="[^"]*"', "<svg", text)
    text = re.sub(r"<svg([^>]*?) width=\"[^\"]*\"", r"<svg\1", text)
    text = re.sub(r"<svg([^>]*?) height=\"[^\"]*\"", r"<svg\1", text)
    return text.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)
