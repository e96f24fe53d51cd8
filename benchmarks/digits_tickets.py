"""What one option does to tickets on `digits`: learned in turn, judged on validation images.

    python benchmarks/digits_tickets.py --seed 0 --set sparsity_weight=0
    python benchmarks/digits_tickets.py --images 80 --domains handwritten,photo --set epochs=5
    python benchmarks/digits_tickets.py --trials          # warm and cold starts, short and whole

Every ticket answers on its own domain (an oracle routes). Prints one JSON: balanced accuracies,
their mean, and the share of the body that at least one ticket keeps. Test images are never opened.
"""

from __future__ import annotations

import argparse
import json

import torch
import yaml

from rtl_continual.backbones import build_backbone
from rtl_continual.routing import FlatRouter
from rtl_continual.streams import DigitsConfig, Experience, ImageSet, build_stream
from rtl_continual.tasks import Classification, balanced_accuracy, confusion_matrix
from rtl_continual.tickets import Ticket, TicketBank, TicketInfo
from rtl_continual.training import (
    TicketConfig,
    TrunkCache,
    choose_parent,
    commit_ticket,
    learn_ticket,
    trial_losses,
)


def judge(bank: TicketBank, ticket: Ticket, images: ImageSet) -> tuple[float, float]:
    """Balanced accuracy and loss of a ticket that may be in another copy of the bank."""
    batch, targets = images.batch(range(len(images)))
    trial = TicketBank(bank.backbone, bank.task, tickets=[*bank.tickets[: ticket.id], ticket])
    outputs = trial.predict(batch, ticket_ids=ticket.id).outputs
    matrix = confusion_matrix(images.targets, outputs.argmax(dim=1).numpy(), 10)
    loss = float(bank.task.loss(outputs, torch.as_tensor(targets)))
    return round(balanced_accuracy(matrix), 4), round(loss, 4)


def compare_starts(
    bank: TicketBank, experience: Experience, options: TicketConfig, seed: int
) -> dict[str, object]:
    """Held-out losses of the trials of a warm and a cold start, and what each comes to in full."""
    cache = TrunkCache(bank, experience.train, options.cache_bytes)
    parent = choose_parent(bank, cache)
    if parent is None:
        return {}
    facts: dict[str, object] = {
        "trial": trial_losses(bank, cache, options, [parent, None], epochs=1, seed=seed)
    }
    for start in ("nearest", "cold"):
        whole = options.model_copy(update={"start": start, "start_trial": 0.0})
        info = TicketInfo(name=experience.name)
        ticket, _ = learn_ticket(bank, experience.train, whole, info=info, seed=seed)
        facts[start] = judge(bank, ticket, experience.validation)
    return facts


def main() -> None:
    """Parse, learn, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, help="images of each domain; all if not given")
    parser.add_argument("--domains", help="separated by commas; all five if not given")
    parser.add_argument("--trials", action="store_true", help="compare warm and cold starts")
    parser.add_argument("--set", action="append", default=[], metavar="OPTION=VALUE")
    given = parser.parse_args()
    torch.set_num_threads(1)
    options = TicketConfig.model_validate(
        {key: yaml.safe_load(value) for key, _, value in (x.partition("=") for x in given.set)}
    )
    chosen: dict[str, object] = {}
    if given.images:
        chosen["images_per_domain"] = given.images
    if given.domains:
        chosen["domains"] = tuple(given.domains.split(","))
    stream = build_stream(DigitsConfig.model_validate(chosen))
    backbone = build_backbone("glyphnet", taps=("stem", "block1"))
    bank = TicketBank(backbone, Classification(10), FlatRouter())
    accuracies, starts = {}, {}
    for experience in stream.experiences:
        if given.trials:
            starts[experience.name] = compare_starts(bank, experience, options, given.seed)
        info = TicketInfo(name=experience.name)
        ticket, learner = learn_ticket(bank, experience.train, options, info=info, seed=given.seed)
        commit_ticket(bank, ticket, learner)
        accuracies[experience.name] = judge(bank, ticket, experience.validation)[0]
    print(
        json.dumps(
            {
                "benchmark": "digits_tickets",
                "options": options.model_dump(exclude_defaults=True),
                "seed": given.seed,
                "balanced_accuracy": accuracies,
                "mean": round(sum(accuracies.values()) / len(accuracies), 4),
                "union": round(bank.union_mask().kept / bank.layout.total, 4),
                "starts": starts,
            }
        )
    )


if __name__ == "__main__":
    main()
