"""A bank gives a router that asks for outputs those of the tickets and rows it names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from rtl_continual.backbones import Backbone, InputSpec
from rtl_continual.routing import FeatureMixture, FlatRouterConfig, OutputRouter, OutputsOf, Routing
from rtl_continual.tasks import Classification
from rtl_continual.tickets import Mask, Ticket, TicketBank, TicketInfo


class Surest(OutputRouter):
    """The ticket with the largest output; asks each ticket about every image."""

    name = "surest"
    config_class = FlatRouterConfig

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    @property
    def num_tickets(self) -> int:
        return 2

    def fit(self, statistics: Sequence[FeatureMixture], samples: Any = None) -> None:
        raise NotImplementedError

    def add(self, statistics: FeatureMixture, samples: Any = None) -> None:
        raise NotImplementedError

    def route(self, features: torch.Tensor, *, budget: int | None = None) -> Routing:
        raise AssertionError("a bank can say more than features")

    def route_by_outputs(
        self, features: torch.Tensor, outputs_of: OutputsOf, *, budget: int | None = None
    ) -> Routing:
        best = torch.full((len(features), 2), -torch.inf)
        for ticket, rows in ((0, torch.arange(len(features))), (1, torch.arange(1, len(features)))):
            outputs = outputs_of(ticket, rows)
            self.asked.append((ticket, len(outputs)))
            best[rows, ticket] = outputs.amax(dim=1)
        confidence, ids = best.softmax(dim=1).max(dim=1)
        return Routing(ids[:, None], torch.ones(len(ids), 1), confidence)

    def flops(self) -> int:
        return 1

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        return None


def make_bank() -> TicketBank:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = nn.Sequential(nn.Conv2d(4, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        backbone = Backbone(
            "toy", nn.Conv2d(3, 4, 3), body, feature_dim=6, input_spec=InputSpec(size=(8, 8))
        )
        bank = TicketBank(backbone, Classification(2))
        for number in range(2):
            mask = Mask.from_flat(bank.layout, torch.rand(bank.layout.total) > 0.5)
            head = bank.task.build_head(6).state_dict()
            info = TicketInfo(f"t{number}")
            bank.append(Ticket(number, mask, {}, head, {"weights": torch.ones(1)}, info))
    return bank


def test_a_bank_answers_a_routers_questions() -> None:
    bank, router = make_bank(), Surest()
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (40, 3, 8, 8), generator=generator, dtype=torch.uint8)
    by_ticket = torch.stack([bank.predict(images, ticket_ids=i).outputs for i in range(2)], dim=1)
    right = by_ticket.amax(dim=2).argmax(dim=1)
    right[0] = 0  # ticket 1 was not asked about the first image
    bank.router = router
    answer = bank.predict(images)
    assert router.asked == [(0, 40), (1, 39)]
    assert answer.ticket_ids.tolist() == right.tolist()
    assert right.unique().tolist() == [0, 1]
    chosen = by_ticket[torch.arange(40), right]
    assert torch.allclose(answer.outputs, chosen, atol=1e-5)
