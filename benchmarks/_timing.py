"""How every speed benchmark here measures and prints.

A figure is a ratio of two things run in turn in one process: each round runs every case once, in
an order that rotates, and gives one ratio per case. What takes less than 50 ms runs so often in a
row that it takes them, as the first run after something else finds nothing in the caches. Reported
are the median of the rounds' ratios and their quartiles. On a processor with one thread the clock
counts this process's own time, so that other work on the machine adds little; otherwise it is the
wall's. On a CUDA device the clock waits for all work before it is read.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

__all__ = ["Report", "compare", "parser", "seconds_of_one"]

ROUNDS = 15
"""Measured rounds of a full run, after the warm-up."""


def parser(doc: str | None) -> argparse.ArgumentParser:
    """A command line with the options that all benchmarks share."""
    line = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    line.add_argument("--quick", action="store_true", help="smaller sizes, five rounds")
    line.add_argument("--rounds", type=int, help=f"default {ROUNDS}, quick 5")
    line.add_argument("--threads", type=int, default=1, help="of torch; default 1")
    line.add_argument(
        "--device", default="cpu", choices=("cpu", "cuda", "auto"), help="default cpu"
    )
    return line


class Report:
    """Collects figures and prints them; the last line is one JSON object.

    Args:
        name: of the benchmark.
        options: the parsed command line.
    """

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        torch.set_num_threads(options.threads)
        torch.manual_seed(0)
        if options.device == "auto":
            options.device = "cuda" if torch.cuda.is_available() else "cpu"
        if options.device == "cuda" and not torch.cuda.is_available():
            sys.exit(f"{name}: --device cuda, but torch sees no CUDA device")
        self.name = name
        self.rounds = options.rounds or (5 if options.quick else ROUNDS)
        self.options = options
        self.ratios: dict[str, dict[str, Any]] = {}
        self.values: dict[str, dict[str, Any]] = {}

    def compare(
        self,
        key: str,
        cases: Mapping[str, Callable[[], object]],
        baseline: str,
        *,
        at_most: Mapping[str, float] | None = None,
        rounds: int | None = None,
        warm_up: int = 2,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """Time the cases against one of them.

        Args:
            key: begins the names of the ratios.
            cases: what to run, by name.
            baseline: the case that the others are divided by.
            at_most: a case's highest ratio that the project aims at.
            rounds: fewer or more than usual.
            warm_up: rounds that do not count.
            clock: in seconds, instead of the usual one.
        """
        clock = clock or _clock(self.options)
        seconds = compare(cases, rounds or self.rounds, warm_up, clock)
        for name, times in seconds.items():
            if name == baseline:
                continue
            pairs = [a / b for a, b in zip(times, seconds[baseline], strict=True)]
            self.add_ratio(f"{key}/{name}", pairs, (at_most or {}).get(name))
            row = self.ratios[f"{key}/{name}"]
            row["ms"] = round(1e3 * statistics.median(times), 3)
            row["baseline_ms"] = round(1e3 * statistics.median(seconds[baseline]), 3)

    def add_ratio(self, key: str, pairs: list[float], at_most: float | None = None) -> None:
        """Keep one ratio, given as its pairs."""
        low, middle, high = statistics.quantiles(pairs, n=4) if len(pairs) > 1 else pairs * 3
        row = {"ratio": middle, "low": low, "high": high}
        self.ratios[key] = {k: round(v, 4) for k, v in row.items()} | {"pairs": len(pairs)}
        if at_most is not None:
            self.ratios[key] |= {"at_most": at_most, "met": middle <= at_most}
        self._say(key, self.ratios[key])

    def add_value(self, key: str, value: float, unit: str, *, at_most: float | None = None) -> None:
        """Keep a figure that is no ratio: it holds on this machine alone."""
        self.values[key] = {"value": float(f"{value:.4g}"), "unit": unit}
        if at_most is not None:
            self.values[key] |= {"at_most": at_most, "met": value <= at_most}
        self._say(key, self.values[key])

    def _say(self, key: str, row: Mapping[str, Any]) -> None:
        print(f"{self.name}/{key}: {json.dumps(row)}", flush=True)

    def finish(self) -> None:
        """Print the JSON object."""
        print(
            json.dumps(
                {
                    "benchmark": self.name,
                    "command": " ".join(["python", f"benchmarks/{self.name}.py", *sys.argv[1:]]),
                    "quick": self.options.quick,
                    "machine": _machine(self.options),
                    "ratios": self.ratios,
                    "values": self.values,
                }
            ),
            flush=True,
        )


def compare(
    cases: Mapping[str, Callable[[], object]],
    rounds: int,
    warm_up: int,
    clock: Callable[[], float],
) -> dict[str, list[float]]:
    """Seconds of each case in each round after the warm-up."""
    names = list(cases)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for index in range(warm_up + rounds):
        turn = index % len(names)
        for name in names[turn:] + names[:turn]:
            spent = seconds_of_one(cases[name], clock)
            if index >= warm_up:
                seconds[name].append(spent)
    return seconds


def seconds_of_one(
    work: Callable[[], object], clock: Callable[[], float], least: float = 0.05
) -> float:
    """Seconds of one run, over as many as take ``least`` seconds together."""
    start, runs = clock(), 0
    while True:
        work()
        runs += 1
        spent = clock() - start
        if spent >= least:
            return spent / runs


def _clock(options: argparse.Namespace) -> Callable[[], float]:
    if options.device == "cpu":
        return time.process_time if options.threads == 1 else time.perf_counter

    def synchronised() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return synchronised


def _machine(options: argparse.Namespace) -> dict[str, Any]:
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        processor = lines[0].partition(":")[2].strip() if lines else processor
    cuda = options.device == "cuda"
    return {
        "device": torch.cuda.get_device_name() if cuda else processor,
        "cores": os.cpu_count(),
        "threads": options.threads,
        "clock": "wall" if cuda or options.threads > 1 else "process",
        "python": platform.python_version(),
        "torch": torch.__version__,
        **({"tf32_convolutions": torch.backends.cudnn.allow_tf32} if cuda else {}),
    }
