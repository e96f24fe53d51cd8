"""What one ticket is worth on one drawing style: against a probe, and with its head solved.

    rtl data prepare emoji
    python benchmarks/emoji_ticket.py --style noto --set sparsity=0.5 --set epochs=8

Trains one ticket on the style's training images and prints one JSON with balanced accuracies on its
validation images: of a linear probe on all weights, of the ticket, and of the ticket with its head
solved on the features of its final mask. Test images are never opened.
"""

from __future__ import annotations

import argparse
import json
import time

import torch
import yaml
from torch.func import functional_call
from torch.nn import functional as F

from rtl_continual.backbones import Backbone, build_backbone
from rtl_continual.streams import EmojiConfig, ImageSet, build_stream
from rtl_continual.tasks import Classification, balanced_accuracy, confusion_matrix
from rtl_continual.tickets import TicketBank, TicketInfo
from rtl_continual.training import TicketConfig, commit_ticket, learn_ticket, solve_linear

Weights = dict[str, torch.Tensor]


@torch.no_grad()
def features(backbone: Backbone, images: ImageSet, weights: Weights) -> torch.Tensor:
    """Final features ``[n, feature_dim]`` of a set, with other weights in the body."""
    parts = []
    for start in range(0, len(images), 256):
        batch, _ = images.batch(range(start, min(start + 256, len(images))))
        activation = backbone.run_trunk(batch).activation
        parts.append(functional_call(backbone.body, weights, (activation,)))
    return torch.cat(parts)


def probe(backbone: Backbone, train: ImageSet, held_out: ImageSet, weights: Weights) -> float:
    """Balanced accuracy of a head that is solved on the training images' features."""
    weight, bias = solve_linear(
        features(backbone, train, weights),
        torch.as_tensor(train.targets),
        int(train.targets.max()) + 1,
        loss=F.cross_entropy,
        weight_decay=0.003,
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
    parser.add_argument("--style", default="noto")
    parser.add_argument("--split", default="stage5")
    parser.add_argument("--size", type=int, default=64, choices=(64, 128))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    given = parser.parse_args()
    torch.set_num_threads(1)
    options = {
        key: yaml.safe_load(value) for key, _, value in (s.partition("=") for s in given.set)
    }
    config = TicketConfig.model_validate({"sparsity": 0.5, "epochs": 8, **options})
    experience = build_stream(EmojiConfig(domains=(given.style,), size=given.size)).experiences[0]
    train, held_out = experience.train, experience.validation
    backbone = build_backbone(
        "efficientnet_lite0", weights="package", input_size=given.size, split=given.split
    )
    bank = TicketBank(backbone, Classification(int(train.targets.max()) + 1))
    dense = probe(backbone, train, held_out, dict(backbone.body.state_dict()))
    start = time.process_time()
    ticket, learner = learn_ticket(bank, train, config, info=TicketInfo("one"), seed=given.seed)
    spent = time.process_time() - start
    commit_ticket(bank, ticket, learner)
    images, _ = held_out.batch(range(len(held_out)))
    effective = bank.effective_parameters(0)
    weights = {k.removeprefix("body."): v for k, v in effective.items() if k.startswith("body.")}
    print(
        json.dumps(
            {
                "style": given.style,
                "split": backbone.split,
                "tickets": config.model_dump(mode="json"),
                "validation_images": len(held_out),
                "probe_on_all_weights": dense,
                "ticket": score(held_out, bank.predict(images, ticket_ids=0).outputs),
                "ticket_with_solved_head": probe(backbone, train, held_out, weights),
                "seconds_of_processor": round(spent, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
