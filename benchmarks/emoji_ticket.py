"""What tickets are worth on drawing styles: against a probe, and with their heads solved.

    rtl data prepare emoji --set size=128
    python benchmarks/emoji_ticket.py --styles noto,openmoji_black --set features=own
    python benchmarks/emoji_ticket.py --end none --readout final --probe-only

Trains a ticket on each style's training images, one after the other, with the options of
`scenarios/emoji.yaml` unless told otherwise, and prints one JSON with balanced accuracies on the
styles' validation images, each answered by its own ticket: of a linear probe on all weights, and of
the ticket. Test images are never opened.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.func import functional_call
from torch.nn import functional as F

from rtl_continual.backbones import Backbone, BackboneConfig, build_backbone
from rtl_continual.streams import EmojiConfig, ImageSet, build_stream
from rtl_continual.tasks import Classification, balanced_accuracy, confusion_matrix
from rtl_continual.tickets import TicketBank, TicketInfo
from rtl_continual.training import (
    TicketConfig,
    balanced_loss,
    commit_ticket,
    learn_ticket,
    solve_linear,
)

Weights = dict[str, torch.Tensor]

SCENARIO = Path(__file__).parent.parent / "scenarios" / "emoji.yaml"


@torch.no_grad()
def features(backbone: Backbone, images: ImageSet, weights: Weights) -> torch.Tensor:
    """Final features ``[n, feature_dim]`` of a set, with other weights in the body."""
    parts = []
    for start in range(0, len(images), 256):
        batch, _ = images.batch(range(start, min(start + 256, len(images))))
        activation = backbone.run_trunk(batch).activation
        parts.append(functional_call(backbone.body, weights, (activation,)))
    return torch.cat(parts)


def probe(
    backbone: Backbone, train: ImageSet, held_out: ImageSet, weights: Weights, config: TicketConfig
) -> float:
    """Balanced accuracy of a head that is solved on the training images' features."""
    targets = torch.as_tensor(train.targets)
    classes = int(targets.max()) + 1
    weight, bias = solve_linear(
        features(backbone, train, weights),
        targets,
        classes,
        loss=balanced_loss(F.cross_entropy, targets, classes, config.class_balance),
        weight_decay=config.head_decay,
        shrinkage=config.head_shrinkage,
        iterations=60,
    )
    return score(held_out, features(backbone, held_out, weights) @ weight.T + bias)


def score(images: ImageSet, outputs: torch.Tensor) -> float:
    """Balanced accuracy of outputs ``[n, classes]``."""
    matrix = confusion_matrix(images.targets, outputs.argmax(dim=1).numpy(), outputs.shape[1])
    return round(balanced_accuracy(matrix), 4)


def main() -> None:
    """Parse, train, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--styles", default=",".join(EmojiConfig.all_domains))
    parser.add_argument("--split", help="default: the scenario's")
    parser.add_argument("--readout", choices=("final", "blocks"), help="default: the scenario's")
    parser.add_argument("--end", help="none: the whole network; default: the scenario's")
    parser.add_argument("--probe-only", action="store_true", help="no tickets")
    parser.add_argument("--size", type=int, choices=(64, 128), help="default: the scenario's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    given = parser.parse_args()
    torch.set_num_threads(1)
    scenario = yaml.safe_load(SCENARIO.read_text(encoding="utf-8"))
    options = scenario["tickets"] | {
        key: yaml.safe_load(value) for key, _, value in (s.partition("=") for s in given.set)
    }
    config = TicketConfig.model_validate(options)
    size = given.size or scenario["stream"]["size"]
    stream = build_stream(EmojiConfig(domains=tuple(given.styles.split(",")), size=size))
    overrides = {"input_size": size, "split": given.split, "readout": given.readout}
    overrides = {key: value for key, value in overrides.items() if value is not None}
    if given.end is not None:
        overrides["end"] = None if given.end == "none" else given.end
    backbone = build_backbone(BackboneConfig.model_validate(scenario["backbone"] | overrides))
    bank = TicketBank(backbone, Classification(len(stream.classes)))
    dense = dict(backbone.body.state_dict())
    start = time.process_time()
    probes: dict[str, float] = {}
    tickets: dict[str, float] = {}
    for number, experience in enumerate(stream.experiences):
        held_out, style = experience.validation, experience.name
        probes[style] = probe(backbone, experience.train, held_out, dense, config)
        if given.probe_only:
            continue
        ticket, learner = learn_ticket(
            bank, experience.train, config, info=TicketInfo(style), seed=given.seed
        )
        commit_ticket(bank, ticket, learner)
        images, _ = held_out.batch(range(len(held_out)))
        tickets[style] = score(held_out, bank.predict(images, ticket_ids=number).outputs)
    facts: dict[str, Any] = {
        "split": backbone.split,
        "readout": backbone.readout,
        "end": backbone.end,
        "seed": given.seed,
        "tickets": config.model_dump(mode="json", include={*options}),
        "probe": probes,
        "probe_mean": round(sum(probes.values()) / len(probes), 4),
    }
    if tickets:
        facts["ticket"] = tickets
        facts["ticket_mean"] = round(sum(tickets.values()) / len(tickets), 4)
        facts["body_weights_kept"] = round(bank.union_mask().kept / bank.layout.total, 3)
    facts["seconds_of_processor"] = round(time.process_time() - start, 1)
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
