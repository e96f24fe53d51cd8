"""A tiny bank whose tickets are made up, not learned."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from rtl_continual.backbones import Backbone, build_backbone
from rtl_continual.routing import FeatureMixture, FlatRouter
from rtl_continual.tasks import Classification
from rtl_continual.tickets import Mask, Ticket, TicketBank, TicketInfo, top_scores

CLASSES = 5

MakeImages = Callable[[int, int], torch.Tensor]
MakeTicket = Callable[..., Ticket]


@pytest.fixture
def backbone() -> Backbone:
    return build_backbone("glyphnet", weights="random:0", width=4)


@pytest.fixture
def make_images() -> MakeImages:
    """``count`` images of a domain; each domain has a brightness of its own."""

    def make(domain: int, count: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(100 + domain)
        noise = torch.randint(0, 40, (count, 3, 32, 32), generator=generator)
        return (noise + 30 * domain).to(torch.uint8)

    return make


@pytest.fixture
def make_ticket(make_images: MakeImages) -> MakeTicket:
    """The next ticket of a bank: random mask, norm state and head; its domain is its id."""

    def make(bank: TicketBank, *, sparsity: float = 0.7, **changes: object) -> Ticket:
        ticket_id = len(bank)
        generator = torch.Generator().manual_seed(ticket_id)
        scores = torch.rand(bank.layout.total, generator=generator)
        body = bank.backbone.body.state_dict()
        norm = {
            name: body[name] + torch.rand(body[name].shape, generator=generator)
            if body[name].is_floating_point()
            else body[name] + ticket_id
            for name in bank.norm_names
        }
        shapes = bank.task.build_head(bank.backbone.feature_dim).state_dict()
        head = {k: torch.randn(v.shape, generator=generator) for k, v in shapes.items()}
        features = bank.backbone.run_trunk(make_images(ticket_id, 40)).router_features
        parts: dict[str, object] = {
            "id": ticket_id,
            "mask": Mask.from_flat(bank.layout, top_scores(scores, bank.layout, sparsity, 0.1)),
            "norm": norm,
            "head": head,
            "statistics": FeatureMixture.fit(features).tensors(),
            "info": TicketInfo(f"ticket-{ticket_id}"),
        }
        return Ticket(**(parts | changes))  # type: ignore[arg-type]

    return make


@pytest.fixture
def bank(backbone: Backbone, make_ticket: MakeTicket) -> TicketBank:
    """Three tickets and a router that tells their domains apart."""
    bank = TicketBank(backbone, Classification(CLASSES), FlatRouter())
    for _ in range(3):
        bank.append(make_ticket(bank))
    bank.router.fit([FeatureMixture(ticket.statistics) for ticket in bank])
    return bank


@pytest.fixture
def mixed(make_images: MakeImages) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of three domains in shuffled order, and which is whose."""
    domains = torch.tensor([2, 0, 1, 1, 0, 2, 0, 2, 2, 1, 0, 0])
    images = torch.stack([make_images(int(d), 20)[i] for i, d in enumerate(domains)])
    return images, domains
