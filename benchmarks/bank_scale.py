"""What a stored bank costs as tickets come by the thousand.

Ratios compare a bank of N tickets with one of 10: opening it, predicting with one ticket, and
committing one more (the manifest names all tickets, so it grows). Bytes on disk are per ticket.

Usage: python benchmarks/bank_scale.py [--quick] [--sizes 100,1000,10000]
"""

from __future__ import annotations

import tempfile
from functools import partial
from itertools import count
from pathlib import Path

import torch
from _banks import CLASSES, made_up_ticket
from _timing import Report, parser

from rtl_continual.backbones import Backbone, build_backbone
from rtl_continual.store import load_bank, save_bank
from rtl_continual.tasks import Classification
from rtl_continual.tickets import LazyTickets, Ticket, TicketBank, TicketInfo

SMALL = 10


def stored(backbone: Backbone, tickets: int, folder: Path) -> Path:
    """A bank on disk whose tickets share a mask and differ in their heads."""
    first = made_up_ticket(TicketBank(backbone, Classification(CLASSES)))

    def make(index: int) -> Ticket:
        head = {name: t + index for name, t in first.head.items()}
        return Ticket(index, first.mask, first.norm, head, {}, TicketInfo(f"ticket-{index}"))

    names = [f"ticket-{index}" for index in range(tickets)]
    bank = TicketBank(backbone, Classification(CLASSES), tickets=LazyTickets(names, make))
    save_bank(bank, folder / str(tickets))
    return folder / str(tickets)


def open_and_predict(path: Path, backbone: Backbone, images: torch.Tensor) -> None:
    """One answer from a bank on disk."""
    bank = load_bank(path, backbone=backbone)
    bank.predict(images, ticket_ids=len(bank) // 2)


def commit(path: Path, backbone: Backbone, numbers: count) -> None:
    """One ticket more."""
    bank = load_bank(path, backbone=backbone)
    first = bank[0]
    info = TicketInfo(f"more-{next(numbers)}")
    bank.append(Ticket(len(bank), first.mask, first.norm, first.head, {}, info))
    save_bank(bank, path)


def main() -> None:
    """Run it."""
    line = parser(__doc__)
    line.add_argument("--sizes", help="numbers of tickets, separated by commas")
    options = line.parse_args()
    report = Report("bank_scale", options)
    sizes = options.sizes or ("100,300" if options.quick else "100,1000,10000")
    backbone = build_backbone("glyphnet", weights="random:0", width=4)
    images = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    numbers = count()
    with tempfile.TemporaryDirectory() as name:
        small = stored(backbone, SMALL, Path(name))
        for size in map(int, sizes.split(",")):
            large = stored(backbone, size, Path(name))
            used = sum(file.stat().st_size for file in large.rglob("*") if file.is_file())
            report.add_value(f"{size}/bytes_per_ticket", used / size, "bytes")
            cases = {"small": small, "large": large}
            report.compare(
                f"{size}/open_and_predict",
                {k: partial(open_and_predict, path, backbone, images) for k, path in cases.items()},
                "small",
            )
            report.compare(
                f"{size}/commit",
                {k: partial(commit, path, backbone, numbers) for k, path in cases.items()},
                "small",
            )
    report.finish()


if __name__ == "__main__":
    main()
