"""Puts the units' results together: means over seeds, deviations, and the sweep."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rtl_continual.errors import RTLError
from rtl_continual.runs._environment import environment
from rtl_continual.runs._published import published_beside
from rtl_continual.runs._scenario import Scenario
from rtl_continual.runs._units import Unit, sweep_unit

__all__ = ["SCHEMA_VERSION", "assemble"]

SCHEMA_VERSION = 1

_FIRST_SEED = ("tickets",)
"""Parts that describe single models and have no mean: those of the first seed are shown."""

_DEVIATIONS = (
    "average_accuracy",
    "average_accuracy_sample_weighted",
    "average_balanced_accuracy",
    "forgetting",
    "balanced_forgetting",
    "backward_transfer",
    "balanced_backward_transfer",
)


def assemble(scenario: Scenario, unit_results: Mapping[Unit, dict[str, Any]]) -> dict[str, Any]:
    """The content of ``results.json``; docs/results-format.md defines it.

    Args:
        scenario: what ran.
        unit_results: what each unit's file holds.

    Raises:
        RTLError: if units of one run were made with different data, backbones or versions.
    """
    shared = {
        key: _same(key, unit_results, scenario)
        for key in ("stream", "backbone", "device", "versions")
    }

    def entry(label: str, value: int | None) -> dict[str, Any]:
        units = [Unit(seed, label, value) for seed in scenario.seeds]
        if value is not None:
            units = [sweep_unit(scenario, unit) for unit in units]
        return over_seeds(scenario.seeds, [unit_results[unit]["entry"] for unit in units])

    results: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "scenario": scenario.name,
        "description": scenario.description,
        "seeds": list(scenario.seeds),
        "labels": list(scenario.methods),
        "evaluated_on": scenario.evaluate_on,
        **shared,
        "environment": environment(scenario.threads, scenario.jobs, _gpu(shared["device"])),
        "config": scenario.resolved(),
        "methods": {label: entry(label, None) for label in scenario.methods},
    }
    compare_with_naive(results["methods"])
    published = published_beside(scenario.stream, shared["backbone"])
    if published is not None:
        results["published"] = published
    if scenario.sweep is not None:
        results["sweep"] = {
            "key": scenario.sweep.key,
            "values": list(scenario.sweep.values),
            "methods": {
                label: [entry(label, i) for i in range(len(scenario.sweep.values))]
                for label in scenario.sweep.methods
            },
        }
    return results


def compare_with_naive(methods: Mapping[str, dict[str, Any]]) -> None:
    """Add each method's learning time as a ratio to plain fine-tuning's, where that ran too.

    Example:
        >>> methods = {
        ...     "naive": {"method": "naive", "seconds": {"train": 4.0}},
        ...     "slow": {"method": "rtl", "seconds": {"train": 6.0}},
        ... }
        >>> compare_with_naive(methods)
        >>> methods["slow"]["seconds"]["train_vs_naive"]
        1.5
    """
    naive = next((m["seconds"]["train"] for m in methods.values() if m["method"] == "naive"), None)
    for entry in methods.values() if naive else ():
        entry["seconds"]["train_vs_naive"] = entry["seconds"]["train"] / naive


def _gpu(device: str) -> str | None:
    if device != "cuda":
        return None
    import torch

    return torch.cuda.get_device_name()


def _same(key: str, unit_results: Mapping[Unit, dict[str, Any]], scenario: Scenario) -> Any:
    """What all units share. A sweep over the backbone changes that on purpose."""
    base = {unit: result for unit, result in unit_results.items() if unit.value is None}
    swept = scenario.sweep is not None and scenario.sweep.key.startswith(f"{key}.")
    compared = base if swept else unit_results
    first = next(iter(base))
    for unit, result in compared.items():
        if result[key] != base[first][key]:
            raise RTLError(
                f"units {first.id} and {unit.id} of this run differ in their {key}: "
                f"{_difference(base[first][key], result[key])}; run anew in another folder"
            )
    return base[first][key]


def _difference(a: Any, b: Any) -> str:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        keys = [k for k in sorted({*a, *b}) if a.get(k) != b.get(k)]
        return f"{keys[0]} was {a.get(keys[0])}, is {b.get(keys[0])}"
    return f"was {a}, is {b}"


def over_seeds(seeds: Sequence[int], entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One method's entry: the single run, or means with ``std`` and ``per_seed``."""
    if len(entries) == 1:
        return entries[0]
    merged: dict[str, Any] = combine(entries, _mean)
    for key in _FIRST_SEED:
        if key in entries[0]:
            merged[key] = entries[0][key]
    spread = combine([entry["final"] for entry in entries], statistics.stdev)
    spread |= combine([{k: entry[k] for k in _DEVIATIONS} for entry in entries], statistics.stdev)
    merged["std"] = spread
    merged["per_seed"] = [{"seed": s, **e} for s, e in zip(seeds, entries, strict=True)]
    return merged


def _mean(values: list[float]) -> float:
    """The mean; where all agree their own value, so that a count stays a whole number."""
    return values[0] if len(set(values)) == 1 else statistics.fmean(values)


def combine(values: Sequence[Any], number: Callable[[list[float]], float]) -> Any:
    """Combine numbers position by position.

    What is no number stays where all agree, and is ``None`` where they do not; so are numbers that
    one of the values lacks.

    Example:
        >>> combine([{"a": 1, "b": ["x", 2.0]}, {"a": 3, "b": ["x", 4.0]}], statistics.fmean)
        {'a': 2.0, 'b': ['x', 3.0]}
    """
    first = values[0]
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        return number(list(values))
    if all(isinstance(v, Mapping) for v in values):
        keys = [key for key in first if all(key in v for v in values)]
        return {key: combine([v[key] for v in values], number) for key in keys}
    if all(isinstance(v, list) and len(v) == len(first) for v in values):
        return [combine(list(parts), number) for parts in zip(*values, strict=True)]
    return first if all(v == first for v in values) else None
