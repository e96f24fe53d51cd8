"""Banks of made-up tickets for speed benchmarks: random weights and random masks."""

from __future__ import annotations

from functools import cache

import torch

from rtl_continual.backbones import Backbone, build_backbone
from rtl_continual.routing import FeatureMixture, FlatRouter
from rtl_continual.tasks import Classification
from rtl_continual.tickets import Mask, Ticket, TicketBank, TicketInfo

__all__ = ["SpreadRouter", "made_up_bank", "made_up_ticket", "speed_backbone"]

CLASSES = 10


class SpreadRouter(FlatRouter):
    """Does a flat router's work, then answers by position: tickets in turn, shuffled.

    Random weights tell no domains apart, and a mixed batch is what is to be timed.
    """

    def __init__(self, tickets: int, features: int) -> None:
        super().__init__()
        self.weight, self.bias = torch.zeros(tickets, features), torch.zeros(tickets)

    def route(self, features: torch.Tensor, *, budget: int | None = None):
        answer = super().route(features, budget=budget)
        return answer._replace(ticket_ids=self._turns(len(features)))

    @cache  # noqa: B019 - lives as long as the benchmark
    def _turns(self, count: int) -> torch.Tensor:
        order = torch.randperm(count, generator=torch.Generator().manual_seed(1))
        return (torch.arange(count) % self.num_tickets)[order, None]


def speed_backbone(name: str, pixels: int, device: str = "cpu") -> Backbone:
    """A backbone with random weights in the memory order that is fastest for it."""
    backbone = build_backbone(name, weights="random:0", input_size=pixels)
    return backbone.to(device, memory_format=torch.channels_last)


def made_up_ticket(
    bank: TicketBank, *, density: float = 0.1, merged: bool = False, **parts: object
) -> Ticket:
    """The next ticket of a bank: a random mask, the backbone's norm state, a random head.

    The head of a merged one reads the unmasked body's features too.
    """
    generator = torch.Generator().manual_seed(len(bank))
    keep = torch.rand(bank.layout.total, generator=generator) < density
    state = bank.backbone.body.state_dict()
    head = bank.task.build_head((1 + merged) * bank.backbone.feature_dim).state_dict()
    given = {
        "mask": Mask.from_flat(bank.layout, keep),
        "norm": {name: state[name] for name in bank.norm_names},
        "head": head,
        "statistics": {},
        "info": TicketInfo(f"ticket-{len(bank)}"),
    }
    return Ticket(id=len(bank), **(given | parts))  # type: ignore[arg-type]


def made_up_bank(
    backbone: Backbone, tickets: int, *, cache_bytes: int = 2**30, merged: bool = False
) -> TicketBank:
    """A bank whose router spreads every batch evenly over its tickets."""
    bank = TicketBank(backbone, Classification(CLASSES), cache_bytes=cache_bytes)
    for _ in range(tickets):
        bank.append(made_up_ticket(bank, merged=merged))
    bank.router = SpreadRouter(tickets, backbone.router_feature_dim)
    return bank


def random_mixture(features: int, seed: int) -> FeatureMixture:
    """A mixture of made-up router features."""
    generator = torch.Generator().manual_seed(seed)
    return FeatureMixture.fit(torch.randn(64, features, generator=generator), components=1)
