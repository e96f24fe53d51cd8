"""The table that a run prints at its end."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table

__all__ = ["results_table", "short_count", "with_deviation"]


def with_deviation(entry: dict[str, Any], key: str, *, digits: int = 2) -> str:
    """A measure in per cent, with its deviation over seeds where there are several.

    Args:
        entry: a method's entry of ``results.json``.
        key: a number of ``final``, or of the entry itself.
        digits: after the point.

    Example:
        >>> with_deviation({"final": {"a": 0.9}, "std": {"a": 0.011}}, "a", digits=1)
        '90.0 ± 1.1'
    """
    value = entry["final"][key] if key in entry["final"] else entry.get(key)
    if value is None:
        return "–"
    text = f"{100 * value:.{digits}f}"
    deviation = entry.get("std", {}).get(key)
    return text if deviation is None else f"{text} ± {100 * deviation:.{digits}f}"


def results_table(results: dict[str, Any], *, width: int = 120) -> Table:
    """Methods down, what matters most across; accuracies in per cent.

    Args:
        results: the content of ``results.json``.
        width: of the terminal, in characters; a narrow one gets no column for each domain.
    """
    domains = results["stream"]["domains"]
    published = "published" in results  # papers count all images alike
    if sum(max(len(name), 5) + 3 for name in domains) + (93 if published else 80) > width:
        domains = []
    seeds = len(results["seeds"])
    table = Table(
        title=f"{results['scenario']}: balanced accuracy after the last experience, in per cent "
        f"({results['evaluated_on']} images, {seeds} seed{'s' if seeds > 1 else ''})",
        title_justify="left",
        caption="parameters: what serving all domains takes; smaller: than a model for each domain",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("method", no_wrap=True)
    pooled = ["accuracy, all"] if published else []
    for name in (*domains, "mean", *pooled, "forgetting", "parameters", "smaller", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    for label in results["labels"]:
        entry = results["methods"][label]
        parameters = entry["parameters"]
        by_domain = entry["final"]["balanced_accuracy_by_domain"]
        offline = entry["protocol"] == "offline"
        table.add_row(
            label,
            *(_percent(by_domain[name]) for name in domains),
            with_deviation(entry, "balanced_accuracy_domain_mean"),
            *(with_deviation(entry, "accuracy_sample_weighted") for _ in pooled),
            "–" if offline else with_deviation(entry, "balanced_forgetting"),
            f"{parameters['effective_union']:,.0f}",
            f"{parameters['ratio_vs_separate']:.1f}x",
            f"{entry['seconds']['train'] + entry['seconds']['eval']:,.0f}",
        )
    return table


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def short_count(value: float | None) -> str:
    """A count with a unit: 12.3 k, 4.56 M.

    Example:
        >>> short_count(172_000), short_count(950)
        ('172 k', '950')
    """
    if value is None:
        return "–"
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value:.0f}"
