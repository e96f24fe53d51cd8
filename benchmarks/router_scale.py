"""What routing costs as tickets come by the thousand: the tree against one matrix product.

Tickets are synthetic, their statistics are not arbitrary. On the two built-in streams, whitened by
the covariance within tickets (96 features), the means of domains have a total variance of 74
(``photos``) and 86 (``digits``), the means of classes inside a domain 33 and 11; variances along
the axes fall about like 1 / rank, and 32 axes hold 99.6 % or more of them. Correlations within a
ticket have eigenvalues that fall about like 0.4 times the width / rank^1.5. So it is here: the cube
root of the number of tickets is the number of families (variance 80), as many branches divide each
(variance 33), and a ticket lies around its branch (variance 33); sizes of families and branches
fall like 1 / rank. ``--spread 11`` brings the tickets of a branch closer together, so that many
overlap. Features are 512, as with a ResNet-50's first stage; ``--width 96`` is as with the digits'
backbone. Inputs are drawn from the tickets' own Gaussians, all tickets equally often.

``flat`` is the router of that name: above 64 tickets a linear discriminant, one matrix product.
Both routers measure distances the same way, so their answers differ where the tree misses the
nearest mean. Each ratio is the median of pairs of timings (processor time) taken in turn in one
process, one thread, with the quartiles beside it; a timing of single inputs routes 20 different
ones, one at a time.
The last line is one JSON object.

Usage: python benchmarks/router_scale.py [--quick] [--sizes 10,100,...] [--pairs 15] [--spread 33]
       [--width 512] [--set beam=12 branching=64 ...]
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from _timing import seconds_of_one

from rtl_continual.routing import (
    FeatureMixture,
    FlatRouter,
    HierarchicalRouter,
    HierarchicalRouterConfig,
    Router,
)
from rtl_continual.threads import use_threads

RANK = 16
FAMILY, BRANCH = 80.0, 33.0


def spread_over_axes(total: float, axes: int = 32) -> np.ndarray:
    """Deviations along the axes: variances fall like 1 / rank and sum to ``total``."""
    variance = 1 / np.arange(1, axes + 1)
    return np.sqrt(total * variance / variance.sum())


def rotation(rng: np.random.Generator, width: int) -> np.ndarray:
    """A random orthogonal matrix."""
    return np.linalg.qr(rng.normal(size=(width, width)))[0]


def uneven(rng: np.random.Generator, groups: int, count: int) -> np.ndarray:
    """A group for each of ``count`` members; sizes fall like 1 / rank."""
    share = 1 / np.arange(1, groups + 1)
    return rng.choice(groups, size=count, p=share / share.sum())


class Tickets(Sequence[FeatureMixture]):
    """Feature mixtures of clustered tickets, made when they are looked at."""

    def __init__(self, count: int, spread: float, width: int = 512, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        groups = max(1, round(count ** (1 / 3)))
        turn = rotation(rng, width)[:32]

        def offsets(number: int, total: float) -> np.ndarray:
            return (rng.normal(size=(number, 32)) * spread_over_axes(total)) @ turn

        family = uneven(rng, groups, count)
        branch = family * groups + uneven(rng, groups, count)
        white = offsets(groups, FAMILY)[family] + offsets(groups**2, BRANCH)[branch]
        white += offsets(count, spread)
        # From whitened coordinates back to features: correlated, and of different scales.
        axes = rotation(rng, width)[:RANK]
        values = 0.4 * width * np.arange(1, RANK + 1) ** -1.5
        rest = 1 - values.sum() / width
        scale = np.exp(rng.normal(size=width))
        root = np.sqrt(rest) * np.eye(width)
        root += axes.T @ np.diag(np.sqrt(values + rest) - np.sqrt(rest)) @ axes
        self.colour = root * scale
        self.means = torch.from_numpy(white @ self.colour).float()
        self.loose = np.exp(0.2 * rng.normal(size=count))
        self.loose /= np.sqrt(np.mean(self.loose**2))
        self._axes = torch.from_numpy(axes).float()
        self._residual = torch.full((width,), math.sqrt(rest))
        rows, columns = torch.tril_indices(RANK, RANK)
        factor = torch.diag(torch.from_numpy(np.sqrt(values)).float())
        self._cholesky = factor[rows, columns][None]
        self._scale = torch.from_numpy(scale).float()

    def __len__(self) -> int:
        return len(self.means)

    def __getitem__(self, index: Any) -> Any:
        return FeatureMixture(
            {
                "center": self.means[index],
                "scale": self._scale * float(self.loose[index]),
                "axes": self._axes,
                "residual": self._residual,
                "weights": torch.ones(1),
                "means": torch.zeros(1, RANK),
                "cholesky": self._cholesky,
                "count": torch.tensor(1000),
            }
        )

    def draw(self, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and the tickets they come from."""
        rng = np.random.default_rng(seed)
        ticket = rng.integers(len(self), size=count)
        noise = rng.normal(size=(count, len(self.colour))) * self.loose[ticket][:, None]
        features = self.means[ticket] + torch.from_numpy(noise @ self.colour).float()
        return features, torch.from_numpy(ticket)


def compare(
    one: Callable[[], Any], other: Callable[[], Any], pairs: int
) -> tuple[dict[str, float], float, float]:
    """Ratio of times, one by the other, and both medians; timed in turn."""
    one(), other()
    times = np.array(
        [[seconds_of_one(f, time.process_time, 0.002) for f in (one, other)] for _ in range(pairs)]
    )
    low, middle, high = np.quantile(times[:, 0] / times[:, 1], [0.25, 0.5, 0.75])
    ratio = {"median": float(middle), "low": float(low), "high": float(high)}
    first, second = np.median(times, axis=0)
    return ratio, float(first), float(second)


def singles(router: Router, x: torch.Tensor) -> Callable[[], None]:
    """Routes twenty inputs, one at a time."""
    rows = [row[None] for row in x[:20]]

    def work() -> None:
        for row in rows:
            router.route(row)

    return work


def accuracy(router: Router, x: torch.Tensor, right: torch.Tensor) -> float:
    """Share of inputs that find their ticket."""
    return float((router.route(x).ticket_ids[:, 0] == right).float().mean())


def measure(count: int, args: argparse.Namespace, options: dict[str, Any]) -> dict[str, Any]:
    """Everything about one number of tickets."""
    tickets = Tickets(count, args.spread, args.width)
    flat, chosen = FlatRouter(), HierarchicalRouter(HierarchicalRouterConfig(**options))
    start = time.perf_counter()
    flat.fit(tickets)
    fitted = time.perf_counter()
    chosen.fit(tickets)
    entry: dict[str, Any] = {
        "tickets": count,
        "fit_seconds": {"flat": fitted - start, "hierarchical": time.perf_counter() - fitted},
    }
    routers: dict[str, Router] = {"flat": flat, "hierarchical": chosen}
    entry["searches"] = "tree" if "tree.axes" in chosen.state_dict() else "all"
    if entry["searches"] == "all":
        tree = HierarchicalRouter(HierarchicalRouterConfig(**{**options, "exact_below": 0}))
        tree.fit(tickets)
        routers["tree"] = tree
    x, right = tickets.draw(args.inputs, seed=1)
    entry["accuracy"] = {name: accuracy(router, x, right) for name, router in routers.items()}
    entry["flops"] = {name: router.flops() for name, router in routers.items()}
    state = chosen.state_dict().values()
    entry["bytes"] = {
        "flat": sum(t.numel() * t.element_size() for t in flat.state_dict().values()),
        "hierarchical": sum(t.numel() * t.element_size() for t in state),
    }
    for name, router in routers.items():
        if name == "flat":
            continue
        single = compare(singles(flat, x), singles(router, x), args.pairs)
        batch = compare(partial(flat.route, x[:256]), partial(router.route, x[:256]), args.pairs)
        entry[name] = {
            "single": single[0],
            "batch256": batch[0],
            "single_ms": {"flat": 50 * single[1], name: 50 * single[2]},
            "batch256_ms": {"flat": 1e3 * batch[1], name: 1e3 * batch[2]},
        }
    entry["add_ms"] = add_time(chosen, tickets)
    return entry


def add_time(router: Router, tickets: Tickets, repeats: int = 40) -> dict[str, float]:
    """Milliseconds to add a ticket to this many, as a bank does: a copy of the router learns it.

    The tickets added are copies of earlier ones, moved a little.
    """
    times = []
    for number in range(repeats):
        mixture = tickets[(7919 * number) % len(tickets)]
        mixture.center = mixture.center + 0.5 * mixture.scale
        start = time.process_time()
        router = copy.deepcopy(router)
        router.add(mixture)
        times.append(1e3 * (time.process_time() - start))
    return {"median": float(np.median(times)), "most": max(times)}


AIMS = {(10_000, "single"): 5, (10_000, "batch256"): 5, (100_000, "single"): 30}
AIMS[100_000, "batch256"] = 5
"""How many times cheaper than the flat router."""


def ratios(entries: list[dict[str, Any]], pairs: int) -> dict[str, dict[str, Any]]:
    """Cost of the hierarchical router over the flat one's, and what was wanted."""
    found: dict[str, dict[str, Any]] = {}
    for entry in entries:
        for kind in ("single", "batch256"):
            times = entry["hierarchical"][kind]
            row = {"ratio": 1 / times["median"], "low": 1 / times["high"], "high": 1 / times["low"]}
            row["pairs"] = pairs
            if (entry["tickets"], kind) in AIMS:
                row["at_most"] = 1 / AIMS[entry["tickets"], kind]
                row["met"] = row["ratio"] <= row["at_most"]
            found[f"{entry['tickets']} tickets/{kind}/hierarchical to flat"] = row
    return found


def exponent(entries: list[dict[str, Any]], value: Callable[[dict[str, Any]], float]) -> float:
    """Slope of the logarithm of a cost over that of the number of tickets."""
    x = [math.log(entry["tickets"]) for entry in entries]
    return float(np.polyfit(x, [math.log(value(entry)) for entry in entries], 1)[0])


def main() -> None:
    """Measure each size and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="up to 10,000 tickets, fewer inputs")
    parser.add_argument("--sizes", default=None)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--spread", type=float, default=33.0)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--inputs", type=int, default=None)
    parser.add_argument("--set", nargs="*", default=[], help="options of the router, name=value")
    args = parser.parse_args()
    use_threads(1)
    sizes = "10,100,1000,10000" if args.quick else "10,100,300,1000,3000,10000,30000,100000"
    args.inputs = args.inputs or (1024 if args.quick else 8192)
    options = {key: json.loads(value) for key, value in (part.split("=") for part in args.set)}
    entries = []
    for count in map(int, (args.sizes or sizes).split(",")):
        entry = measure(count, args, options)
        entries.append(entry)
        hits, flops = entry["accuracy"], entry["flops"]
        for name in [name for name in ("hierarchical", "tree") if name in entry]:
            print(
                f"{count:7d} tickets, {name:12s}: {entry[name]['single']['median']:6.2f} times "
                f"cheaper for single inputs ({entry[name]['single_ms'][name]:.3f} ms), "
                f"{entry[name]['batch256']['median']:6.2f} in batches of 256 "
                f"({entry[name]['batch256_ms'][name]:.2f} ms), FLOPs / "
                f"{flops['flat'] / flops[name]:.1f}, accuracy {100 * hits[name]:.2f} "
                f"against {100 * hits['flat']:.2f}, add {entry['add_ms']['median']:.2f} ms",
                flush=True,
            )
    large = [entry for entry in entries if entry["searches"] == "tree"]
    result = {
        "benchmark": "router_scale",
        "command": f"python benchmarks/router_scale.py{' --quick' * args.quick}",
        "quick": args.quick,
        "machine": {"cores": os.cpu_count(), "threads": 1, "clock": "process"},
        "ratios": ratios(entries, args.pairs),
        "pairs": args.pairs,
        "spread": args.spread,
        "width": args.width,
        "options": options,
        "entries": entries,
    }
    if len(large) > 1:
        result["growth_exponent"] = {
            "from": large[0]["tickets"],
            "flops": exponent(large, lambda e: e["flops"]["hierarchical"]),
            "single": exponent(large, lambda e: e["hierarchical"]["single_ms"]["hierarchical"]),
            "batch256": exponent(large, lambda e: e["hierarchical"]["batch256_ms"]["hierarchical"]),
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
