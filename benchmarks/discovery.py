"""How well discovery finds domains that nobody names, on two built-in streams.

Cases: a clean (one new domain an experience), b mixed (two or three domains an experience), c
recurring (domains come back), d gradual (one domain fades into the next, in experiences and in
mini-batches), e class mix (no shift, but only a few classes or a long tail), f outliers (a burst of
broken images), m mixtures (every pair and every three of the domains in an experience of its own;
b has those alone that follow each other).
Only router features are needed, so no ticket is trained. The last line is one JSON object.
Offline cases have class labels, as training has; streams of mini-batches have none.

Usage: python benchmarks/discovery.py [--quick] [--streams digits,photos] [--seeds 0,1,2]
       [--cases a,b,c,d,e,f,m] [--batches 100] [--cache DIR]
       [--clusterer '{"max_class_valley": 0.1}']
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import adjusted_rand_score

from rtl_continual.backbones import Backbone, BackboneConfig, build_backbone
from rtl_continual.discovery import (
    Arrival,
    DiscoveryConfig,
    KnownTickets,
    OnlineDiscovery,
    discover,
)
from rtl_continual.streams import ImageSet, build_stream, stream_config_class
from rtl_continual.threads import use_threads

BATCH = 32
FADE = 20
"""Mini-batches over which one domain fades into the next."""

BLUR = 0.33
"""Share of an experience, on each side of a border, over which it fades into the next one."""


class Part:
    """Router features, class labels and hidden domains of some samples."""

    def __init__(self, x: torch.Tensor, y: np.ndarray, domain: np.ndarray) -> None:
        self.x, self.y, self.domain = x, y, domain

    def take(self, rows: np.ndarray) -> Part:
        return Part(self.x[torch.from_numpy(rows)], self.y[rows], self.domain[rows])


def concatenate(parts: Sequence[Part]) -> Part:
    """Several parts, one after the other."""
    return Part(
        torch.cat([p.x for p in parts]),
        np.concatenate([p.y for p in parts]),
        np.concatenate([p.domain for p in parts]),
    )


def join(parts: Sequence[Part], rng: np.random.Generator) -> Part:
    """Several parts shuffled together."""
    whole = concatenate(parts)
    return whole.take(rng.permutation(len(whole.y)))


def router_features(backbone: Backbone, images: torch.Tensor) -> torch.Tensor:
    """The trunk's statistics of ``uint8`` images."""
    with torch.no_grad():
        return torch.cat([backbone.run_trunk(part).router_features for part in images.split(256)])


def load(name: str, seed: int, backbone: Backbone, cache: Path | None) -> list[dict[str, Part]]:
    """Training, validation and test part of each domain."""
    path = None if cache is None else cache / f"{name}{seed}.npz"
    arrays: dict[str, np.ndarray] = {}
    if path is not None and path.exists():
        with np.load(path) as archive:
            arrays = dict(archive)
    else:
        stream = build_stream(stream_config_class(name).model_validate({"seed": seed}))
        for i, experience in enumerate(stream.experiences):
            sets: dict[str, ImageSet] = {
                "train": experience.train,
                "validation": experience.validation,
                "test": stream.tests[stream.domains[i]],
            }
            for part, data in sets.items():
                images, _ = data.batch(range(len(data)))
                arrays[f"{i}.{part}.x"] = router_features(backbone, images).numpy()
                arrays[f"{i}.{part}.y"] = data.targets
        if path is not None:
            np.savez(path, **arrays)  # type: ignore[arg-type]
    return [
        {
            part: Part(
                torch.from_numpy(arrays[f"{i}.{part}.x"]),
                arrays[f"{i}.{part}.y"],
                np.full(len(arrays[f"{i}.{part}.y"]), i),
            )
            for part in ("train", "validation", "test")
        }
        for i in range(sum(key.endswith("train.x") for key in arrays))
    ]


def load_gradual(name: str, seed: int, backbone: Backbone, cache: Path | None) -> list[Part]:
    """Experiences of which each fades into the next over a third of its images."""
    path = None if cache is None else cache / f"{name}{seed}-gradual.npz"
    arrays: dict[str, np.ndarray] = {}
    if path is not None and path.exists():
        with np.load(path) as archive:
            arrays = dict(archive)
    else:
        section = {"seed": seed, "blur": BLUR}
        for i, experience in enumerate(
            build_stream(stream_config_class(name).model_validate(section)).experiences
        ):
            images, _ = experience.train.batch(range(len(experience.train)))
            arrays[f"{i}.x"] = router_features(backbone, images).numpy()
            arrays[f"{i}.y"] = experience.train.targets
            arrays[f"{i}.domain"] = experience.train.domains
        if path is not None:
            np.savez(path, **arrays)  # type: ignore[arg-type]
    return [
        Part(torch.from_numpy(arrays[f"{i}.x"]), arrays[f"{i}.y"], arrays[f"{i}.domain"])
        for i in range(sum(key.endswith(".x") for key in arrays))
    ]


def offline(parts: Sequence[Part], config: DiscoveryConfig) -> dict[str, Any]:
    """Decide about one experience after the other, from an empty bank on."""
    known, decided, ids, counts, held = KnownTickets(), [], [], [], []
    waiting = parts[0].take(np.arange(0))
    for number, part in enumerate(parts, start=1):
        whole = concatenate([waiting, part])
        arrival = Arrival(len(waiting.y), last=number == len(parts))
        found = discover(whole.x, known, config, targets=whole.y, arrival=arrival)
        for ticket in found.new:
            known.learn(whole.x[torch.from_numpy(found.members(ticket))])
        rest = np.setdiff1d(np.arange(len(whole.y)), found.held)
        decided.append(whole.domain[rest])
        ids.append(found.ticket_ids[rest])
        waiting = whole.take(found.held)
        counts.append(len(known))
        held.append(len(found.held))
    assigned, hidden = np.concatenate(ids), np.concatenate(decided)
    return {
        "adjusted_rand_index": round(adjusted_rand_score(hidden, assigned), 4),
        "tickets": len(known),
        "tickets_after": counts,
        "right": len(set(hidden.tolist())),
        "held_back": held,
        "unassigned": round(float((assigned < 0).mean()), 4),
    }


def mixtures(
    train: Sequence[Part], count: int, config: DiscoveryConfig, rng: np.random.Generator
) -> dict[str, Any]:
    """Every choice of ``count`` domains, shuffled together, seen by an empty bank."""
    found = {
        chosen: offline([join([train[i] for i in chosen], rng)], config)
        for chosen in itertools.combinations(range(len(train)), count)
    }
    wrong = {"+".join(map(str, c)): r["tickets"] for c, r in found.items() if r["tickets"] != count}
    return {
        "mean_index": round(float(np.mean([r["adjusted_rand_index"] for r in found.values()])), 4),
        "mixtures": len(found),
        "right_number": len(found) - len(wrong),
        "tickets_where_wrong": wrong,
    }


def one_ticket(domain: dict[str, Part]) -> KnownTickets:
    """A bank that knows one domain."""
    known = KnownTickets()
    known.learn(domain["train"].x)
    return known


def online(batches: Sequence[Part], known: KnownTickets, config: DiscoveryConfig) -> dict[str, Any]:
    """Run mini-batches; delays count from the first one that holds a sample of a new domain."""
    finder = OnlineDiscovery(known, config)
    ids = np.empty(0, dtype=np.int64)
    alarms, was, found_at = 0, False, []
    for number, batch in enumerate(batches):
        step = finder.update(batch.x)
        alarms += step.verdict.shift and not was
        was = step.verdict.shift and step.found is None
        ids = np.concatenate([ids, step.ticket_ids])
        if step.found is not None:
            ids[len(ids) - len(step.found.ticket_ids) :] = step.found.ticket_ids
            found_at += [number] * len(step.found.new)
    hidden = np.concatenate([batch.domain for batch in batches])
    begins = [
        min(n for n, batch in enumerate(batches) if (batch.domain == domain).any())
        for domain in dict.fromkeys(hidden.tolist())
    ][1:]
    ends = [*begins[1:], len(batches)][: len(begins)]
    delays = []
    for begin, end in zip(begins, ends, strict=True):
        hits = [n for n in found_at if begin <= n < end]
        delays.append(hits[0] - begin + 1 if hits else None)
    return {
        "adjusted_rand_index": round(adjusted_rand_score(hidden, ids), 4),
        "tickets": len(finder.known),
        "right": len(begins) + len(known),
        "delay": delays,
        "alarms": int(alarms),
        "unassigned": round(float((ids < 0).mean()), 4),
    }


def fading(domains: Sequence[dict[str, Part]], rng: np.random.Generator) -> list[Part]:
    """Mini-batches: ten of each domain alone, and a fade between neighbours."""
    queues = [d["train"].take(rng.permutation(len(d["train"].y))) for d in domains]
    used = [0] * len(domains)

    def draw(domain: int, count: int) -> Part:
        rows = np.arange(used[domain], used[domain] + count) % len(queues[domain].y)
        used[domain] += count
        return queues[domain].take(rows)

    batches = []
    for i in range(len(domains)):
        batches += [draw(i, BATCH) for _ in range(10)]
        for step in range(FADE if i + 1 < len(domains) else 0):
            late = int(rng.binomial(BATCH, (step + 1) / (FADE + 1)))
            batches.append(join([draw(i, BATCH - late), draw(i + 1, late)], rng))
    return batches


def abrupt(domains: Sequence[dict[str, Part]], rng: np.random.Generator) -> list[Part]:
    """Mini-batches of one domain after the other."""
    batches = []
    for domain in domains:
        part = domain["train"].take(rng.permutation(len(domain["train"].y)))
        batches += [part.take(np.arange(n * BATCH, (n + 1) * BATCH)) for n in range(20)]
    return batches


def skewed(pool: Part, count: int, size: int, rng: np.random.Generator) -> Iterator[Part]:
    """Batches of unseen samples with one to three classes, or with a long tail."""
    classes = np.unique(pool.y)
    for number in range(count):
        order = rng.permutation(classes)
        if number % 2:
            weights = np.isin(pool.y, order[: 1 + number // 2 % 3]).astype(float)
        else:
            tail = 50.0 ** (-np.arange(len(classes)) / (len(classes) - 1))
            share = dict(zip(order.tolist(), tail.tolist(), strict=True))
            weights = np.array([share[y] for y in pool.y.tolist()])
        weights /= weights.sum()
        # A rare class may have fewer samples than a batch: then some are drawn twice.
        again = int((weights > 0).sum()) < size
        yield pool.take(rng.choice(len(pool.y), size, replace=again, p=weights))


def class_mix(
    domains: Sequence[dict[str, Part]],
    config: DiscoveryConfig,
    count: int,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """New tickets in ``count`` batches a domain; each domain has its own ticket alone."""
    with_labels, offline_alarms, online_tickets, online_alarms = [], [], [], []
    for domain in domains:
        known = one_ticket(domain)
        pool = join([domain["validation"], domain["test"]], rng)
        batches = list(skewed(pool, count, 64, rng))
        with_labels.append(
            sum(bool(discover(b.x, known, config, targets=b.y).new) for b in batches)
        )
        offline_alarms.append(sum(bool(discover(b.x, known, config).new) for b in batches))
        result = online(list(skewed(pool, count, BATCH, rng)), known, config)
        online_tickets.append(result["tickets"] - 1)
        online_alarms.append(result["alarms"])
    return {
        "batches": count,
        "false_alarms_with_labels": with_labels,
        "false_alarms_offline": offline_alarms,
        "new_tickets_online": online_tickets,
        "detector_alarms_online": online_alarms,
    }


def all_known(
    domains: Sequence[dict[str, Part]], config: DiscoveryConfig, rng: np.random.Generator
) -> dict[str, Any]:
    """New tickets where all domains are known and come back shuffled together."""
    known = KnownTickets()
    for domain in domains:
        known.learn(domain["train"].x)
    pool = join([d["validation"] for d in domains], rng)
    found = [discover(pool.x, known, config, targets=y) for y in (pool.y, None)]
    return {
        "new_tickets_with_labels": len(found[0].new),
        "new_tickets_offline": len(found[1].new),
    }


def broken(backbone: Backbone, count: int, seed: int) -> torch.Tensor:
    """Router features of broken images: noise, one flat colour, large blocks."""
    draw = torch.Generator().manual_seed(seed)
    height, width = backbone.input_spec.size or (32, 32)
    images = torch.randint(0, 256, (count, 3, height, width), generator=draw, dtype=torch.uint8)
    images[1::3] = images[1::3, :, :1, :1]
    images[2::3] = (
        images[2::3, :, ::8, ::8]
        .repeat_interleave(8, 2)
        .repeat_interleave(8, 3)[:, :, :height, :width]
    )
    return router_features(backbone, images)


def outliers(
    domains: Sequence[dict[str, Part]],
    backbone: Backbone,
    config: DiscoveryConfig,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """A burst of 24 broken images: in a stream that is known, and in the very first experience."""
    known = KnownTickets()
    for domain in domains:
        known.learn(domain["train"].x)
    pool = join([d["validation"] for d in domains], rng)
    bad = broken(backbone, 24, int(rng.integers(1 << 30)))
    burst = Part(bad, rng.choice(pool.y, 24), np.full(24, -1))
    rows = np.arange(len(pool.y) // BATCH * BATCH).reshape(-1, BATCH)
    batches = [pool.take(r) for r in rows]
    batches[5] = join([batches[5], burst], rng)
    finder = OnlineDiscovery(known, config)
    new, caught = 0, 0
    for batch in batches:
        step = finder.update(batch.x)
        new += 0 if step.found is None else len(step.found.new)
        caught += int((step.ticket_ids[batch.domain < 0] < 0).sum())
    whole = join(batches, rng)
    found = [discover(whole.x, known, config, targets=y) for y in (None, whole.y)]
    # Broken images carry labels, as they would in an experience.
    beginning = join([domains[0]["train"], burst], rng)
    first = discover(beginning.x, KnownTickets(), config, targets=beginning.y)
    return {
        "new_tickets_online": new,
        "new_tickets_offline": len(found[0].new),
        "new_tickets_with_labels": len(found[1].new),
        "left_out": caught,
        "left_out_offline": [int((f.ticket_ids[whole.domain < 0] < 0).sum()) for f in found],
        "left_out_of_the_first_experience": int((first.ticket_ids[beginning.domain < 0] < 0).sum()),
    }


def measure(
    name: str, seed: int, backbone: Backbone, options: argparse.Namespace
) -> dict[str, Any]:
    """The cases asked for on one stream with one seed; each draws from a generator of its own."""
    domains = load(name, seed, backbone, options.cache)
    train = [d["train"] for d in domains]
    clusterer = {"name": "gaussian_mixture", **options.clusterer}
    config, results = DiscoveryConfig.model_validate({"clusterer": clusterer}), {}

    def note(case: str, make: Callable[[np.random.Generator], dict[str, Any]]) -> None:
        if case[0] not in options.cases.split(","):
            return
        start = time.process_time()
        result = make(np.random.default_rng([seed, 99, ord(case[0])]))
        results[case] = result | {"seconds": round(time.process_time() - start, 2)}
        print(name, seed, case, json.dumps(results[case]), flush=True)

    def mixed(rng: np.random.Generator, count: int) -> dict[str, Any]:
        starts = range(0, len(train), count)
        return offline([join(train[i : i + count], rng) for i in starts], config)

    back = [*train[:3], domains[0]["test"], domains[1]["test"], *train[3:], domains[3]["test"]]
    note("a_clean", lambda rng: offline(train, config))
    note("b_mixed_two", lambda rng: mixed(rng, 2))
    note("b_mixed_three", lambda rng: mixed(rng, 3))
    note("c_recurring", lambda rng: offline(back, config))
    note("c_shuffled", lambda rng: all_known(domains, config, rng))
    note(
        "d_gradual_experiences",
        lambda rng: offline(load_gradual(name, seed, backbone, options.cache), config),
    )
    note("d_gradual", lambda rng: online(fading(domains, rng), one_ticket(domains[0]), config))
    note("d_abrupt", lambda rng: online(abrupt(domains, rng), one_ticket(domains[0]), config))
    note("e_class_mix", lambda rng: class_mix(domains, config, options.batches, rng))
    note("m_pairs", lambda rng: mixtures(train, 2, config, rng))
    note("m_threes", lambda rng: mixtures(train, 3, config, rng))
    note("f_outliers", lambda rng: outliers(domains, backbone, config, rng))
    return results


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one seed, fewer batches")
    parser.add_argument("--streams", default="digits,photos")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--cases", default="a,b,c,d,e,f,m")
    parser.add_argument("--batches", type=int, default=100, help="of case e, for each domain")
    parser.add_argument("--cache", type=Path, help="folder in which router features are kept")
    parser.add_argument("--clusterer", default={}, type=json.loads, help="its options, as JSON")
    options = parser.parse_args(arguments)
    if options.quick:
        options.seeds, options.batches = "0", 20
    use_threads(1)
    backbone = build_backbone(BackboneConfig(name="glyphnet", taps=("stem", "block1")))
    report = {
        name: {
            seed: measure(name, int(seed), backbone, options) for seed in options.seeds.split(",")
        }
        for name in options.streams.split(",")
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
