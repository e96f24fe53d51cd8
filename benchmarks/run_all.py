"""Run every speed benchmark; write their figures down, or compare them with the committed ones.

``--write`` puts the figures between two marks into ``docs/results.md`` and adds the ratios to
``benchmarks/baseline.json``. A ratio's name says what was measured, so quick and full runs have
some in common. ``--check`` compares each ratio with the one of its name in that file and fails
(exit code 1) if one is worse by more than the noise margin: a quarter, plus half the width
between the quartiles of both. It wants a machine that does nothing else. Where torch sees a CUDA
device, ``inference``, ``training_step`` and ``slim_tickets`` run on it too, as
``inference:cuda`` and so on.

Usage: python benchmarks/run_all.py [--quick] (--write | --check) [--only A,B]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
RESULTS = HERE.parent / "docs" / "results.md"
BASELINE = HERE / "baseline.json"
NAMES = (
    "inference",
    "training_step",
    "router_scale",
    "bank_scale",
    "bank_store",
    "startup",
    "data_loading",
    "slim_tickets",
)
ON_CUDA = ("inference", "training_step", "slim_tickets")
BEGIN, END = "<!-- speed: begin -->", "<!-- speed: end -->"
MARGIN = 0.25


def run(name: str, quick: bool) -> dict[str, Any] | None:
    """One benchmark's JSON object, or nothing if it failed.

    Args:
        name: of the benchmark, with ``:cuda`` behind it for a run on that device.
        quick: smaller sizes.
    """
    script, _, device = name.partition(":")
    command = [sys.executable, str(HERE / f"{script}.py"), *["--quick"] * quick]
    command += ["--device", device] if device else []
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    print(f"run_all: {name}", flush=True)
    out = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=False)
    if out.returncode:
        print(f"run_all: {name} failed with exit code {out.returncode}", flush=True)
        return None
    found: dict[str, Any] = json.loads(out.stdout.strip().splitlines()[-1])
    return found


def section(found: dict[str, Any]) -> list[str]:
    """One benchmark as Markdown."""
    machine = found.get("machine", {})
    shown = ", ".join(f"{key} {value}" for key, value in machine.items())
    command = found.get("command", f"python benchmarks/{found.get('benchmark')}.py")
    title = found.get("benchmark", "benchmark") + (":cuda" if "--device cuda" in command else "")
    lines = [f"### {title}", "", f"`{command}`. {shown}", ""]
    if found.get("ratios"):
        lines += ["| ratio | median | quartiles | pairs | aim |", "|---|---|---|---|---|"]
        lines += [
            f"| {key} | {row['ratio']:.3f} | {row['low']:.3f} to {row['high']:.3f} | "
            f"{row['pairs']} | {aim(row)} |"
            for key, row in found["ratios"].items()
        ]
        lines.append("")
    if found.get("values"):
        lines += ["| figure | value | aim |", "|---|---|---|"]
        lines += [
            f"| {key} | {row['value']:g} {row['unit']} | {aim(row)} |"
            for key, row in found["values"].items()
        ]
        lines.append("")
    return lines


def aim(row: dict[str, Any]) -> str:
    """What was wanted, and whether it came."""
    if "at_most" not in row:
        return ""
    return f"at most {row['at_most']:g}: {'met' if row['met'] else '**missed**'}"


def write(results: dict[str, dict[str, Any]]) -> None:
    """Figures into the results page, ratios into the baseline; other benchmarks' stay there."""
    text = RESULTS.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        text = f"{text.rstrip()}\n\n## Speed\n\n{BEGIN}\n\n{END}\n"
    start, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    parts = text[start:end].strip().split("### ")
    sections = {part.split("\n", 1)[0]: f"### {part.rstrip()}\n" for part in parts if part}
    sections |= {name: "\n".join(section(f)) for name, f in results.items() if "ratios" in f}
    block = "\n".join(["", "", *sections.values(), ""]).rstrip("\n") + "\n\n"
    RESULTS.write_text(text[:start] + block + text[end:], encoding="utf-8")
    kept = json.loads(BASELINE.read_text()) if BASELINE.is_file() else {}
    for name, found in results.items():
        if "ratios" in found:
            ratios = kept.get(name, {}).get("ratios", {}) | found["ratios"]
            kept[name] = {"machine": found["machine"], "ratios": ratios}
    BASELINE.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
    print(f"run_all: wrote {RESULTS} and {BASELINE}")


def check(results: dict[str, dict[str, Any]]) -> int:
    """How many ratios are worse than the committed ones beyond the margin; 1 if none compare."""
    committed = json.loads(BASELINE.read_text()) if BASELINE.is_file() else {}
    worse = compared = 0
    for name, found in results.items():
        theirs = committed.get(name, {}).get("ratios", {})
        for key in sorted(found.get("ratios", {}).keys() & theirs.keys()):
            now, then = found["ratios"][key], theirs[key]
            noise = (now["high"] - now["low"] + then["high"] - then["low"]) / 4
            limit = then["ratio"] * (1 + MARGIN) + noise
            compared += 1
            if now["ratio"] > limit:
                worse += 1
                print(
                    f"run_all: {name}/{key}: {now['ratio']:.3f}, committed {then['ratio']:.3f}, "
                    f"limit {limit:.3f}"
                )
    print(f"run_all: {worse} of {compared} ratios are worse than the committed ones")
    return worse if compared else 1


def main() -> int:
    """Run it."""
    line = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    line.add_argument("--quick", action="store_true", help="pass --quick to every benchmark")
    cuda = [f"{name}:cuda" for name in ON_CUDA if torch.cuda.is_available()]
    line.add_argument(
        "--only", default=",".join([*NAMES, *cuda]), help="names, separated by commas"
    )
    what = line.add_mutually_exclusive_group(required=True)
    what.add_argument("--write", action="store_true", help="into docs and baseline.json")
    what.add_argument("--check", action="store_true", help="against baseline.json")
    options = line.parse_args()
    names = options.only.split(",")
    results = {name: found for name in names if (found := run(name, options.quick)) is not None}
    failed = len(names) - len(results)
    if options.write:
        write(results)
        return 1 if failed else 0
    return 1 if check(results) or failed else 0


if __name__ == "__main__":
    sys.exit(main())
