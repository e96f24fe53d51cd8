"""What routed prediction costs beside the bare backbone.

Baseline: the bare frozen network with one head, same weights, images, memory order and threads, in
inference mode. Cases: ``routed`` is ``bank.predict``; ``two_pass`` runs the backbone once to
route and once, grouped by ticket, to predict; ``pass_per_domain`` runs the whole batch through
every ticket and picks afterwards; ``merged`` (with ``--merged``) is ``bank.predict`` where heads
read the unmasked body's features as well. Tickets' weights are in the cache, unless a name ends in
``cold_cache``.
Image sizes are small so that a run ends on two slow cores; overheads that do not depend on
the image (weights that are read once for each group) weigh more than at 224 pixels
(``--pixels 224``, which a CUDA device has anyway). ``memory`` and
``cold`` are about a bank of 100 tickets on ResNet-50, and about processors alone.

Usage: python benchmarks/inference.py [--quick] [--threads N] [--device cuda] [--models A,B]
    [--grid 1x1,6x64] [--pixels N] [--merged] [--no-designs] [--no-memory]
"""

from __future__ import annotations

import copy
import hashlib
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import safetensors.torch
import torch
from _banks import CLASSES, made_up_bank, made_up_ticket, speed_backbone
from _timing import Report, parser

from rtl_continual.backbones import Backbone
from rtl_continual.store import load_bank, save_bank
from rtl_continual.tasks import Classification
from rtl_continual.tickets import TicketBank

PIXELS = {
    "resnet18": 64,
    "resnet50": 64,
    "mobilenet_v2": 64,
    "efficientnet_lite0": 128,
    "vit_b_16": 224,
}
GRIDS = {
    "resnet18": "1x1,1x8,1x64,6x8,6x64,6x256,24x64,100x64",
    "resnet50": "1x1,1x64,6x64,6x256,24x64,100x64",
    "mobilenet_v2": "1x1,1x64,6x64,6x256,24x64,100x64",
    "efficientnet_lite0": "1x1,1x64,6x64,6x256,24x64",
    "vit_b_16": "1x1,1x8,6x8",
}
"""TICKETSxBATCH of a full run on a processor; what takes hours there is left out."""
CACHE = 4 * 2**30


def bare(bank: TicketBank, images: torch.Tensor) -> Callable[[], torch.Tensor]:
    """The plain network with one head."""
    backbone = bank.backbone
    head = copy.deepcopy(bank._head).to(images.device)

    @torch.inference_mode()
    def run() -> torch.Tensor:
        return head(backbone.body(backbone.trunk(backbone.normalise(images)))).cpu()

    return run


def two_pass(bank: TicketBank, images: torch.Tensor) -> Callable[[], torch.Tensor]:
    """The whole backbone finds the domain, then trunk and body predict."""
    backbone = bank.backbone

    @torch.inference_mode()
    def run() -> torch.Tensor:
        backbone.body(backbone.trunk(backbone.normalise(images)))
        return bank.predict(images).outputs

    return run


def pass_per_domain(bank: TicketBank, images: torch.Tensor) -> Callable[[], torch.Tensor]:
    """The whole network once for each ticket, on the kernels that we use."""

    @torch.inference_mode()
    def run() -> torch.Tensor:
        answers = [bank.run_ticket(i, bank.run_trunk(images).activation) for i in range(len(bank))]
        return torch.stack(answers).cpu()

    return run


def measure_model(report: Report, name: str) -> None:
    """Ratios of one network over the grid."""
    options = report.options
    pixels = options.pixels or (224 if options.device == "cuda" else PIXELS[name])
    backbone = speed_backbone(name, pixels, options.device)
    grid = options.grid or ("1x1,1x64,6x64" if options.quick else GRIDS[name])
    banks: dict[int, list[TicketBank]] = {}
    for cell in grid.split(","):
        tickets, batch = map(int, cell.split("x"))
        if tickets not in banks:
            kinds = (False, True) if options.merged else (False,)
            banks = {
                tickets: [
                    made_up_bank(backbone, tickets, cache_bytes=CACHE, merged=kind)
                    for kind in kinds
                ]
            }
        bank, *merged = banks[tickets]
        images = torch.rand(batch, 3, pixels, pixels, device=options.device)
        images = images.contiguous(memory_format=torch.channels_last)
        cases = {"bare": bare(bank, images), "routed": partial(bank.predict, images)}
        if merged:
            cases["merged"] = partial(merged[0].predict, images)
        if tickets == 6 and batch in (8, 64) and not options.no_designs:
            cases["two_pass"] = two_pass(bank, images)
            cases["pass_per_domain"] = pass_per_domain(bank, images)
        one = sum(t.numel() * 4 for t in bank.effective_parameters(0).values())
        key = f"{name}/{pixels}px/batch{batch}/tickets{tickets}"
        key += "" if one * min(tickets, batch) <= CACHE else "/cold_cache"
        report.compare(key, cases, "bare", at_most=aims(tickets, batch))
        if "two_pass" in cases:
            add_designs(report, key)


def aims(tickets: int, batch: int) -> dict[str, float]:
    """What routed prediction may cost, where the project has said so."""
    if batch == 1:
        return {"routed": 1.05}
    return {"routed": 1.03 if tickets == 1 else 1.10} if batch == 64 and tickets <= 6 else {}


def add_designs(report: Report, key: str) -> None:
    """How many times cheaper we are than the two designs of the same run."""
    ours = report.ratios.get(f"{key}/routed")
    for design in ("two_pass", "pass_per_domain"):
        theirs = report.ratios.get(f"{key}/{design}")
        if ours and theirs:
            report.add_value(
                f"{key}/{design}_over_routed", theirs["ratio"] / ours["ratio"], "times"
            )


def measure_memory(report: Report) -> None:
    """A bank of 100 tickets on ResNet-50, and a ticket's way from the disk to its first answer."""
    tickets = 10 if report.options.quick else 100
    backbone: Backbone = speed_backbone("resnet50", 64)
    with tempfile.TemporaryDirectory() as folder:
        bank = TicketBank(backbone, Classification(CLASSES))
        for _ in range(tickets):
            bank.append(made_up_ticket(bank))
        save_bank(bank, folder, embed_backbone=False)
        packed = sum(ticket.mask.bits.nbytes for ticket in bank)
        budget = 256 * 2**20
        opened = load_bank(folder, backbone=backbone, cache_bytes=budget)
        activation = backbone.run_trunk(torch.rand(1, 3, 64, 64)).activation
        with torch.inference_mode():
            for ticket_id in range(tickets):
                opened.run_ticket(ticket_id, activation)
        held = opened._cache.used + opened._lazy._cache.used
        report.add_value("memory/tickets_resident", held / 2**20, "MiB")
        report.add_value("memory/allowed", (packed + budget) / 2**20, "MiB")
        report.add_value("memory/resident_over_allowed", held / (packed + budget), "", at_most=1.0)
        measure_cold(report, folder, backbone, activation)


@torch.inference_mode()
def measure_cold(report: Report, folder: str, backbone: Backbone, activation: torch.Tensor) -> None:
    """Read, verify, unpack, multiply, beside the dense weights.

    ``copy`` copies them in memory; ``file`` reads them from a file, verifies its hash and takes
    the tensors out, which is what a cold dense model would need.
    """
    weights = {name: t for name, t in backbone.body.state_dict().items() if t.ndim > 1}
    file = Path(folder) / "dense.safetensors"
    safetensors.torch.save_file({n: t.contiguous() for n, t in weights.items()}, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    opened = load_bank(folder, backbone=backbone, cache_bytes=0)
    count = len(opened)
    assert count > 1, "with a single ticket the cache would answer"
    turn = iter(range(10**6))

    def copy() -> object:
        return {name: t.clone() for name, t in weights.items()}

    def cold() -> object:
        return opened.effective_parameters(next(turn) % count)

    def from_file() -> object:
        data = file.read_bytes()
        assert hashlib.sha256(data).hexdigest() == digest
        return safetensors.torch.load(data)

    cases = {"copy": copy, "ticket": cold, "file": from_file}
    report.compare("cold/resnet50", cases, "copy", at_most={"ticket": 1.5})
    ticket, dense = (report.ratios[f"cold/resnet50/{name}"]["ratio"] for name in ("ticket", "file"))
    report.add_value("cold/resnet50/ticket_over_file", ticket / dense, "times", at_most=1.5)


def main() -> None:
    """Run it."""
    line = parser(__doc__)
    line.add_argument("--models", help="names, separated by commas, or none; quick: ResNets")
    line.add_argument("--grid", help=f"TICKETSxBATCH, by commas; default {GRIDS}")
    line.add_argument("--pixels", type=int, help=f"of all models' images; default {PIXELS} or 224")
    line.add_argument("--merged", action="store_true", help="time merged features as well")
    line.add_argument("--no-designs", action="store_true", help="leave the other designs out")
    line.add_argument("--no-memory", action="store_true", help="leave memory and cold out")
    options = line.parse_args()
    report = Report("inference", options)
    models = options.models or ("resnet18,resnet50" if options.quick else ",".join(PIXELS))
    for name in models.split(",") if models != "none" else ():
        measure_model(report, name)
    if not options.no_memory and options.device == "cpu":
        measure_memory(report)
    report.finish()


if __name__ == "__main__":
    main()
