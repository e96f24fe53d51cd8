"""How long it takes until something happens.

``help``: CPU seconds of ``rtl --help`` in a fresh process. ``import``: CPU seconds that
``import rtl_continual`` with its bank adds to ``import torch``. ``bank``: opening a bank of many
tickets and predicting with one of them, beyond the imports, and how many tickets were read.
Processes find compiled bytecode, as an installed package's are: the first round, which leaves
it behind, is not counted.

Usage: python benchmarks/startup.py [--quick] [--tickets N]
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from _banks import CLASSES, made_up_ticket
from _timing import Report, parser

from rtl_continual.backbones import build_backbone
from rtl_continual.routing import FlatRouter
from rtl_continual.store import save_bank
from rtl_continual.tasks import Classification
from rtl_continual.tickets import LazyTickets, Ticket, TicketBank, TicketInfo

CPU = """
import resource, subprocess, sys
before = resource.getrusage(resource.RUSAGE_CHILDREN)
subprocess.run({command!r}, check=True, stdout=subprocess.DEVNULL)
after = resource.getrusage(resource.RUSAGE_CHILDREN)
print(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
"""

OPEN = """
import json, sys, time
import torch
torch.set_num_threads(1)
import rtl_continual.store._open, rtl_continual.store._load, rtl_continual.backbones
import rtl_continual.routing, rtl_continual.tasks, rtl_continual.tickets
from rtl_continual.store import _files
read = []
blob = _files.BankFiles.blob
def counted(self, *args, **kwargs):
    read.append(args[0])
    return blob(self, *args, **kwargs)
_files.BankFiles.blob = counted
start, wall = time.process_time(), time.perf_counter()
bank = rtl_continual.load_bank(sys.argv[1])
bank.predict(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), ticket_ids=len(bank) // 2)
print(json.dumps([time.process_time() - start, time.perf_counter() - wall, len(read)]))
"""


def cpu_seconds(command: list[str]) -> float:
    """User and system time of one process."""
    code = CPU.format(command=command)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, env=environment
    )
    return float(done.stdout)


def measure_processes(report: Report) -> None:
    """Fresh processes, in turn."""
    rounds = 3 if report.options.quick else 7
    script = Path(sys.executable).with_name("rtl")
    commands = {
        "help": [str(script), "--help"],
        "torch": [sys.executable, "-c", "import torch"],
        "ours": [
            sys.executable,
            "-c",
            "import torch, rtl_continual; rtl_continual.TicketBank, rtl_continual.load_bank",
        ],
    }
    spent: dict[str, list[float]] = {name: [] for name in commands}
    for index in range(rounds + 1):
        for name, command in commands.items():
            seconds = cpu_seconds(command)
            if index:
                spent[name].append(seconds)
    report.add_value("help", statistics.median(spent["help"]), "s CPU", at_most=0.4)
    added = [a - b for a, b in zip(spent["ours"], spent["torch"], strict=True)]
    report.add_value("import_torch", statistics.median(spent["torch"]), "s CPU")
    report.add_value("import_adds", statistics.median(added), "s CPU", at_most=0.2)
    pairs = [a / b for a, b in zip(spent["ours"], spent["torch"], strict=True)]
    report.add_ratio("import_ours_over_torch", pairs)


def measure_bank(report: Report, tickets: int) -> None:
    """A bank of many tickets on the smallest backbone."""
    backbone = build_backbone("glyphnet", weights="random:0", width=4)
    bank = TicketBank(backbone, Classification(CLASSES))
    first = made_up_ticket(bank)

    def make(index: int) -> Ticket:
        return Ticket(
            id=index,
            mask=first.mask,
            norm=first.norm,
            head={name: t + index for name, t in first.head.items()},
            statistics={},
            info=TicketInfo(f"ticket-{index}"),
        )

    names = [f"ticket-{index}" for index in range(tickets)]
    bank = TicketBank(backbone, bank.task, tickets=LazyTickets(names, make))
    router = FlatRouter()
    router.weight = torch.zeros(tickets, backbone.router_feature_dim)
    router.bias = torch.zeros(tickets)
    bank.router = router
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        save_bank(bank, folder)
        report.add_value(f"bank/{tickets}/written_in", time.perf_counter() - start, "s")
        cpu, wall, blobs = [], [], 0
        for _ in range(3 if report.options.quick else 7):
            out = subprocess.run(
                [sys.executable, "-c", OPEN, folder], capture_output=True, check=True
            ).stdout
            seconds, elapsed, blobs = json.loads(out)
            cpu.append(seconds)
            wall.append(elapsed)
        report.add_value(
            f"bank/{tickets}/open_and_predict", statistics.median(cpu), "s CPU", at_most=1
        )
        report.add_value(f"bank/{tickets}/open_and_predict_wall", statistics.median(wall), "s")
        # The backbone is random and by reference, so: the router and one ticket.
        report.add_value(f"bank/{tickets}/blobs_read", blobs, "blobs", at_most=3)


def main() -> None:
    """Run it."""
    line = parser(__doc__)
    line.add_argument("--tickets", type=int, help="default 10,000; quick 1,000")
    options = line.parse_args()
    report = Report("startup", options)
    measure_processes(report)
    measure_bank(report, options.tickets or (1000 if options.quick else 10_000))
    report.finish()


if __name__ == "__main__":
    main()
