"""What a bank takes on disk, and what a night's work on it costs.

Sizes: the bytes of masks over the entropy of as many kept weights among as many, for random masks
on several networks' layouts and for those that tickets learn on ``digits`` (four domains, 90 %
sparsity); whole tickets against a dense copy of the network.

Times: ``bank.add`` with the fifth domain, by its parts, and proving and opening the bank after it.

Usage: python benchmarks/bank_store.py [--quick]
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from _timing import Report, parser

from rtl_continual.backbones import build_backbone
from rtl_continual.routing import FlatRouter
from rtl_continual.store import AddConfig, BankStore, load_bank, save_bank
from rtl_continual.store._codec import encode_mask
from rtl_continual.store._sizes import entropy_bytes
from rtl_continual.streams import ImageSet, build_stream
from rtl_continual.streams.digits import DigitsConfig
from rtl_continual.tasks import Classification
from rtl_continual.tickets import Mask, MaskLayout, TicketBank, TicketInfo
from rtl_continual.training import TicketConfig, commit_ticket, learn_ticket

NETWORKS = ("glyphnet", "efficientnet_lite0", "resnet18", "resnet50")
SPARSITY = 0.9
RANDOM_AT_MOST, REAL_AT_MOST = 1.25, 1.05


def random_sizes(report: Report, networks: tuple[str, ...]) -> None:
    """Random masks: how close the code comes to what no code can beat."""
    for name in networks:
        layout = MaskLayout.of(build_backbone(name, weights="random:0").body)
        draw = torch.Generator().manual_seed(0)
        mask = Mask.from_flat(layout, torch.rand(layout.total, generator=draw) > SPARSITY)
        size = len(encode_mask(mask)[0])
        ratio = size / entropy_bytes(mask.kept, layout.total)
        report.add_value(f"random/{name}/mask_bytes", size, "bytes")
        report.add_value(f"random/{name}/over_entropy", ratio, "times", at_most=RANDOM_AT_MOST)


def learned_bank(folder: Path, config: TicketConfig, quick: bool) -> ImageSet:
    """A bank of four domains in a folder; gives the fifth one's images."""
    stream = build_stream(DigitsConfig(images_per_domain=200 if quick else None))
    backbone = build_backbone("glyphnet", taps=["stem", "block1"])
    bank = TicketBank(backbone, Classification(10, stream.classes), FlatRouter())
    *known, new = stream.experiences
    for seed, experience in enumerate(known):
        info = TicketInfo(experience.name)
        commit_ticket(bank, *learn_ticket(bank, experience.train, config, info=info, seed=seed))
    save_bank(bank, folder)
    return new.train


def real_sizes(report: Report, folder: Path) -> None:
    """The tickets of a bank."""
    sizes = BankStore.open(folder).sizes()
    tickets = sizes["tickets"]
    worst = max(ticket["ratio"] for ticket in tickets)
    dense, count = sizes["dense_copy_bytes"], len(tickets)
    report.add_value("real/mask_bytes", sum(t["mask_bytes"] for t in tickets) / count, "bytes")
    report.add_value("real/over_entropy_worst", worst, "times", at_most=REAL_AT_MOST)
    report.add_value("real/ticket_bytes", sizes["ticket_bytes"] / count, "bytes")
    report.add_value("real/dense_copy_bytes", dense, "bytes")
    report.add_value("real/dense_copy_over_ticket", dense * count / sizes["ticket_bytes"], "times")


def night(report: Report, folder: Path, data: ImageSet, config: AddConfig) -> None:
    """One addition, by what it says it is doing."""
    parts: dict[str, float] = {}
    doing, since = "opening", time.process_time()

    def heard(text: str) -> None:
        nonlocal doing, since
        now = time.process_time()
        parts[doing] = parts.get(doing, 0) + now - since
        words = ("looking", "learning", "judging", "committing")
        doing, since = next((word for word in words if word in text), doing), now

    found = load_bank(folder).add(data, name="night", config=config, on_progress=heard)
    assert found.outcome == "added", found.reason
    heard("end")
    report.add_value("add/images", len(data), "images")
    report.add_value("add/seconds", sum(parts.values()), "s CPU")
    for part, spent in parts.items():
        report.add_value(f"add/{part}_share", spent / sum(parts.values()), "of it")


def main() -> None:
    """Run it."""
    options = parser(__doc__).parse_args()
    report = Report("bank_store", options)
    random_sizes(report, NETWORKS[:1] if options.quick else NETWORKS)
    tickets = TicketConfig(sparsity=SPARSITY, epochs=2 if options.quick else 15)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "bank"
        new = learned_bank(folder, tickets, options.quick)
        real_sizes(report, folder)
        adding = AddConfig().tickets.model_copy(update=tickets.model_dump(include={"epochs"}))
        night(report, folder, new, AddConfig(tickets=adding, margin=0))
        store, images = BankStore.open(folder), torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
        report.add_value("verify/seconds", seconds(store.verify), "s CPU")
        report.add_value(
            "open_and_predict/seconds", seconds(lambda: load_bank(folder).predict(images)), "s CPU"
        )
    report.finish()


def seconds(work: Callable[[], object]) -> float:
    """Of the process's time, once."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


if __name__ == "__main__":
    main()
