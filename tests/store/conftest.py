"""A tiny bank, and children that are really killed."""

from __future__ import annotations

import os
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from rtl_continual.backbones import Backbone, build_backbone
from rtl_continual.routing import FeatureMixture, FlatRouter, FlatRouterConfig
from rtl_continual.store import BankStore
from rtl_continual.tasks import Classification
from rtl_continual.tickets import Mask, Ticket, TicketBank, TicketInfo

MakeTicket = Callable[..., Ticket]
Fork = Callable[[Callable[[], None]], int]
KillAt = Callable[[int, float], bool]


@pytest.fixture(scope="session")
def backbone() -> Backbone:
    """About 4,000 weights to mask."""
    return build_backbone("glyphnet", weights="random:0", width=4)


def noise(count: int, level: int, seed: int) -> torch.Tensor:
    """Noise images ``uint8 [count, 3, 32, 32]``; their brightness tells the router the ticket."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.rand(count, 3, 32, 32, generator=generator) * min(255, 40 + 60 * level)
    return pixels.to(torch.uint8)


@pytest.fixture
def images() -> torch.Tensor:
    """Four images for each of the first three tickets, in turn."""
    return torch.stack([noise(4, level, 100) for level in range(3)], dim=1).flatten(0, 1)


@pytest.fixture(scope="session")
def make_ticket() -> MakeTicket:
    """A ticket that nothing was learned for: random mask, norm, head, and feature mixture."""

    def make(bank: TicketBank, name: str, *, seed: int = 0, parent: int | None = None) -> Ticket:
        generator = torch.Generator().manual_seed(seed)
        body = bank.backbone.body.state_dict()
        keep = torch.rand(bank.layout.total, generator=generator) > 0.9
        head = bank.task.build_head(bank.backbone.feature_dim).state_dict()
        features = bank.backbone.run_trunk(noise(12, seed % 4, seed)).router_features
        return Ticket(
            id=len(bank),
            mask=Mask.from_flat(bank.layout, keep),
            norm={
                key: body[key] + torch.rand(body[key].shape, generator=generator)
                if body[key].is_floating_point()
                else body[key]
                for key in bank.norm_names
            },
            head={key: torch.randn(t.shape, generator=generator) for key, t in head.items()},
            statistics=FeatureMixture.fit(features, rank=4, components=1).tensors(),
            info=TicketInfo(
                name=name, parent=parent, cluster=f"cluster of {name}", sparsity_target=0.9
            ),
        )

    return make


@pytest.fixture
def empty_bank(backbone: Backbone) -> TicketBank:
    return TicketBank(backbone, Classification(3))


@pytest.fixture
def grow(make_ticket: MakeTicket) -> Callable[..., Ticket]:
    """Append one more ticket, and let the router learn it."""

    def grown(bank: TicketBank, name: str, *, seed: int = 0, parent: int | None = None) -> Ticket:
        ticket = make_ticket(bank, name, seed=seed, parent=parent)
        bank.append(ticket)
        if isinstance(bank.router, FlatRouter):
            bank.router.add(FeatureMixture(ticket.statistics))
        return ticket

    return grown


@pytest.fixture
def bank(backbone: Backbone, grow: Callable[..., Ticket]) -> TicketBank:
    """Three tickets and a router."""
    router = FlatRouter(FlatRouterConfig(samples_per_ticket=16, iterations=5))
    bank = TicketBank(backbone, Classification(3), router)
    for seed in range(3):
        grow(bank, f"t{seed}", seed=seed)
    return bank


@pytest.fixture
def store(bank: TicketBank, tmp_path: Path) -> BankStore:
    """:func:`bank` on disk, as version 1."""
    return BankStore.create(tmp_path / "bank", bank)


@pytest.fixture
def fork() -> Iterator[Fork]:
    """Run a function in a forked child; what is still running at the end is killed."""
    children: list[int] = []

    def start(work: Callable[[], None]) -> int:
        with warnings.catch_warnings():
            # Children only read and write files; no thread of the parent matters to them.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            status = 1
            try:
                work()
                status = 0
            except BaseException:  # a child must never return into pytest
                traceback.print_exc()
            finally:
                os._exit(status)
        children.append(pid)
        return pid

    yield start
    for pid in children:
        try:
            ended, _ = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            continue  # the test has waited for it
        if not ended:
            os.kill(pid, 9)
            os.waitpid(pid, 0)


@pytest.fixture(scope="session")
def kill_at() -> KillAt:
    """Kill a child when it has computed so many seconds; whether it had not ended by itself.

    A moment by its own clock: that on the wall depends on who shares the machine.
    """

    def kill(pid: int, seconds: float) -> bool:
        # Linux numbers the clocks of processes like this.
        while time.clock_gettime((~pid << 3) | 2) < seconds:
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                break
            time.sleep(0.0002)
        os.kill(pid, signal.SIGKILL)
        return os.WIFSIGNALED(os.waitpid(pid, 0)[1])

    return kill
