"""All routers on the same tickets: accuracy, oracle gap, abstention, cost, bytes, time to add.

Banks: ``digits`` (five domains, a ticket each), ``photos`` (five), and ``digits by class`` (a
ticket for each class of each domain, fifty that lie close together). A ticket's statistics are
those that training would store. With ``--bank`` the tickets of a trained bank over the default
``digits`` stream answer, which gives balanced accuracies and the gap to an oracle.

Abstention: each confidence is judged by the area under the curve (AUC) of telling wrong routes
from right ones, and inputs of a domain that has no ticket (each domain left out in turn) from the
others'. ``kept`` is the share of known inputs answered, ``refused`` the share of unknown ones
refused, with ``abstain_below: 0.5``. The last line is one JSON object.

``--statistics`` looks instead at what a ticket stores: how routing depends on the mixtures'
components, axes and precision.

Usage: python benchmarks/routers.py [--quick] [--bank RUN/bank] [--cache DIR] [--statistics]
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from rtl_continual import load_bank
from rtl_continual.backbones import (
    BackboneConfig,
    backbone_flops,
    build_backbone,
    statistics_flops,
)
from rtl_continual.routing import FeatureMixture, Router, build_router, router_config_class
from rtl_continual.streams import Stream, build_stream, stream_config_class
from rtl_continual.tasks import balanced_accuracy, confusion_matrix
from rtl_continual.threads import use_threads

ROUTERS: dict[str, dict[str, Any]] = {
    "flat": {"name": "flat"},
    "flat, closed form": {"name": "flat", "discriminant_above": 4},
    "prototype": {"name": "prototype"},
    "kmeans": {"name": "kmeans"},
    "mahalanobis": {"name": "mahalanobis"},
    "mahalanobis, one Gaussian": {"name": "mahalanobis", "covariance": "ticket"},
    "mahalanobis, shared": {"name": "mahalanobis", "covariance": "shared"},
    "hierarchical": {"name": "hierarchical"},
}

TAPS = ["stem", "block1"]

Part = tuple[torch.Tensor, np.ndarray]
"""Router features and class labels."""


def build(options: dict[str, Any]) -> Router:
    """A router by its name and options."""
    return build_router(router_config_class(options["name"]).model_validate(options))


def load(name: str, cache: Path | None) -> tuple[Stream, dict[str, list[Part]]]:
    """A stream, and training and test part of each of its domains as the router sees them."""
    stream = build_stream(stream_config_class(name).model_validate({}))
    path = None if cache is None else cache / f"routers-{stream.fingerprint[:16]}.pt"
    if path is not None and path.exists():
        features = torch.load(path, weights_only=True)
    else:
        backbone = build_backbone(BackboneConfig(name="glyphnet", taps=TAPS))
        sets = {
            "train": [experience.train for experience in stream.experiences],
            "test": [stream.tests[domain] for domain in stream.domains],
        }
        features = {}
        for part, members in sets.items():
            features[part] = []
            for images in members:
                with torch.no_grad():
                    rows = [range(i, min(i + 256, len(images))) for i in range(0, len(images), 256)]
                    found = [backbone.run_trunk(images.batch(r)[0]).router_features for r in rows]
                features[part].append(torch.cat(found))
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(features, path)
    targets = {
        "train": [np.asarray(experience.train.targets) for experience in stream.experiences],
        "test": [np.asarray(stream.tests[domain].targets) for domain in stream.domains],
    }
    parts = {part: list(zip(features[part], targets[part], strict=True)) for part in features}
    return stream, parts


def by_class(parts: list[Part]) -> list[Part]:
    """A part for each class of each domain."""
    return [(x[torch.from_numpy(y == c)], y[y == c]) for x, y in parts for c in np.unique(y)]


def auc(positive: torch.Tensor, negative: torch.Tensor) -> float | None:
    """How well a confidence tells two sets apart; ``None`` if one of them is tiny."""
    if min(len(positive), len(negative)) < 5:
        return None
    truth = np.r_[np.ones(len(positive)), np.zeros(len(negative))]
    return float(roc_auc_score(truth, torch.cat([positive, negative]).numpy()))


def judge(
    options: dict[str, Any], mixtures: list[FeatureMixture], tests: list[Part], group: int
) -> dict[str, Any]:
    """One router on one bank; ``group`` tickets in a row belong to the same domain."""
    router = build(options)
    start = time.process_time()
    router.fit(mixtures[:-1])
    fitted = time.process_time()
    router.add(mixtures[-1])
    added = time.process_time()
    x = torch.cat([features for features, _ in tests])
    right = torch.arange(len(tests)).repeat_interleave(torch.tensor([len(t[0]) for t in tests]))
    answer = router.route(x)
    hit = answer.ticket_ids[:, 0] == right
    known = answer.confidence
    unknown = []
    for first in range(0, len(tests), group):
        others = build(options)
        others.fit(mixtures[:first] + mixtures[first + group :])
        left_out = torch.cat([features for features, _ in tests[first : first + group]])
        unknown.append(others.route(left_out).confidence)
    state = router.state_dict().values()
    return {
        "accuracy": float(hit.float().mean()),
        "auc_wrong": auc(known[hit], known[~hit]),
        "auc_unknown": float(np.mean([auc(known, part) for part in unknown])),
        "kept": float((known >= 0.5).float().mean()),
        "refused": float((torch.cat(unknown) < 0.5).float().mean()),
        "flops": router.flops(),
        "bytes": sum(t.numel() * t.element_size() for t in state),
        "fit_ms": 1e3 * (fitted - start),
        "add_ms": 1e3 * (added - fitted),
    }


def with_bank(
    folder: Path, stream: Stream, routers: dict[str, Router], tests: list[Part]
) -> dict[str, dict[str, float]]:
    """Balanced accuracy of a trained bank's tickets under each router, mean over the domains."""
    bank = load_bank(folder)
    classes, tickets = len(stream.classes), len(bank)
    table = []
    for domain in stream.domains:
        images = stream.tests[domain]
        batch, _ = images.batch(range(len(images)))
        table.append([bank.predict(batch, ticket_ids=t).labels.numpy() for t in range(tickets)])
    seen = [[t.info.domain_counts.get(domain, 0) for t in bank] for domain in stream.domains]
    right = [counts.index(max(counts)) for counts in seen]

    def score(chosen: list[np.ndarray]) -> float:
        values = []
        for index, ids in enumerate(chosen):
            labels = np.stack(table[index])[ids, np.arange(len(ids))]
            values.append(balanced_accuracy(confusion_matrix(tests[index][1], labels, classes)))
        return float(np.mean(values))

    oracle = score([np.full(len(tests[i][1]), right[i]) for i in range(len(right))])
    found = {}
    for name, router in routers.items():
        ids = [np.array(right)[router.route(x).ticket_ids[:, 0].numpy()] for x, _ in tests]
        value = score(ids)
        found[name] = {"balanced_accuracy": value, "oracle_gap": oracle - value}
    return found


SHAPES = [(4, 64), (4, 32), (4, 16), (4, 8), (1, 32)]
"""Components and axes."""


def statistics(train: list[Part], tests: list[Part]) -> list[dict[str, Any]]:
    """Routing accuracy by the shape and precision of the tickets' mixtures."""
    right = torch.arange(len(tests)).repeat_interleave(torch.tensor([len(t[0]) for t in tests]))
    x = torch.cat([features for features, _ in tests])
    entries = []
    for components, rank in SHAPES:
        fitted = [FeatureMixture.fit(part, components=components, rank=rank) for part, _ in train]
        for precision in (torch.float32, torch.float16):
            stored = []
            for mixture in fitted:
                tensors = mixture.tensors()
                small = {n for n, t in tensors.items() if t.dtype == torch.float16}
                stored.append({n: t.to(precision) if n in small else t for n, t in tensors.items()})
            entry: dict[str, Any] = {"components": components, "rank": rank}
            entry["precision"] = str(precision).removeprefix("torch.")
            entry["bytes"] = sum(t.numel() * t.element_size() for t in stored[0].values())
            for name in ("mahalanobis", "flat"):
                router = build({"name": name})
                router.fit([FeatureMixture(tensors) for tensors in stored])
                hits = router.route(x).ticket_ids[:, 0] == right
                entry[name] = float(hits.float().mean())
            entries.append(entry)
            print(
                f"{components} components, {rank} axes, {entry['precision']}: {entry['bytes']} "
                f"bytes, mahalanobis {100 * entry['mahalanobis']:.2f}, flat "
                f"{100 * entry['flat']:.2f} % routed right",
                flush=True,
            )
    return entries


def main() -> None:
    """Every router on every bank, as tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="digits alone")
    parser.add_argument("--bank", type=Path, default=None)
    parser.add_argument("--cache", type=Path, default=None, help="keep router features here")
    parser.add_argument("--statistics", action="store_true")
    args = parser.parse_args()
    use_threads(1)
    if args.statistics:
        parts = load("digits", args.cache)[1]
        shapes = statistics(parts["train"], parts["test"])
        print(json.dumps({"benchmark": "routers", "statistics": shapes}))
        return
    backbone = build_backbone(BackboneConfig(name="glyphnet", taps=TAPS))
    total, reading = backbone_flops(backbone)["total"], statistics_flops(backbone)
    streams = {name: load(name, args.cache) for name in ("digits", "photos")[: 2 - args.quick]}
    banks = {name: (parts["train"], parts["test"], 1) for name, (_, parts) in streams.items()}
    if not args.quick:
        digits = streams["digits"][1]
        banks["digits by class"] = (by_class(digits["train"]), by_class(digits["test"]), 10)
    result: dict[str, Any] = {
        "benchmark": "routers",
        "statistics_flops": reading,
        "backbone_flops": total,
        "banks": {},
    }
    for bank, (train, tests, group) in banks.items():
        mixtures = [FeatureMixture.fit(x, components=4) for x, _ in train]
        stored = sum(t.numel() * t.element_size() for t in mixtures[0].tensors().values())
        print(f"\n{bank}: {len(mixtures)} tickets, statistics of {stored} bytes each")
        entries = {name: judge(o, mixtures, tests, group) for name, o in ROUTERS.items()}
        if bank == "digits" and args.bank is not None:
            routers = {name: build(options) for name, options in ROUTERS.items()}
            for router in routers.values():
                router.fit(mixtures)
            found = with_bank(args.bank, streams["digits"][0], routers, tests)
            entries = {name: entry | found[name] for name, entry in entries.items()}
        result["banks"][bank] = entries
        for name, entry in entries.items():
            wrong = entry["auc_wrong"]
            share = 100 * (entry["flops"] + reading) / total
            answered = (
                f"{100 * entry['balanced_accuracy']:.2f}, oracle gap "
                f"{100 * entry['oracle_gap']:.2f}, "
                if "oracle_gap" in entry
                else ""
            )
            print(
                f"{name:26s} {100 * entry['accuracy']:6.2f} % routed right, {answered}AUC wrong "
                f"{'-' if wrong is None else f'{wrong:.3f}'}, unknown {entry['auc_unknown']:.3f}, "
                f"kept {100 * entry['kept']:.1f}, refused {100 * entry['refused']:.1f}, "
                f"{entry['flops']} FLOPs ({share:.2f} % with statistics), {entry['bytes']} bytes, "
                f"add {entry['add_ms']:.1f} ms",
                flush=True,
            )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
