from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from rtl_continual.errors import BankError
from rtl_continual.tickets import Mask, MaskLayout, Ticket, TicketInfo

LAYOUT = MaskLayout({"conv.weight": (4, 3)})


def make_ticket(**changes: object) -> Ticket:
    parts: dict[str, object] = {
        "id": 0,
        "mask": Mask.from_flat(LAYOUT, torch.arange(12) % 2 == 0),
        "norm": {"bn.weight": torch.ones(4), "bn.num_batches_tracked": torch.tensor(3)},
        "head": {"weight": torch.zeros(2, 4)},
        "statistics": {"center": torch.zeros(5)},
        "info": TicketInfo("first"),
    }
    return Ticket(**(parts | changes))  # type: ignore[arg-type]


def test_a_ticket_keeps_copies() -> None:
    head = {"weight": torch.zeros(2, 4)}
    ticket = make_ticket(head=head)
    head["weight"].fill_(1)
    head["bias"] = torch.zeros(2)
    assert set(ticket.head) == {"weight"}
    assert not ticket.head["weight"].any()


@pytest.mark.parametrize("part", ["norm", "head", "statistics"])
def test_a_ticket_cannot_be_changed(part: str) -> None:
    ticket = make_ticket()
    with pytest.raises(TypeError, match="does not support item assignment"):
        getattr(ticket, part)["new"] = torch.zeros(1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(ticket, part, {})


def test_tensors_that_are_learned_arrive_detached_and_contiguous() -> None:
    weight = torch.nn.Parameter(torch.randn(4, 2).T)
    kept = make_ticket(head={"weight": weight}).head["weight"]
    assert not kept.requires_grad
    assert kept.is_contiguous()
    assert torch.equal(kept, weight)


def test_equal_parts_have_equal_fingerprints() -> None:
    assert make_ticket().fingerprint == make_ticket().fingerprint
    # Neither its place nor what is known about it changes a ticket's logits.
    renamed = make_ticket(id=4, info=TicketInfo("second", parent=1))
    assert renamed.fingerprint == make_ticket().fingerprint


@pytest.mark.parametrize(
    "changes",
    [
        {"mask": Mask.from_flat(LAYOUT, torch.arange(12) % 2 == 1)},
        {"norm": {"bn.weight": torch.ones(4), "bn.num_batches_tracked": torch.tensor(4)}},
        {"norm": {"bn.weights": torch.ones(4), "bn.num_batches_tracked": torch.tensor(3)}},
        {"head": {"weight": torch.zeros(4, 2)}},
        {"head": {"weight": torch.zeros(2, 4, dtype=torch.float64)}},
        {"statistics": {"center": torch.full((5,), 1e-30)}},
    ],
    ids=["mask", "norm value", "norm name", "head shape", "head type", "statistics"],
)
def test_every_part_counts_in_the_fingerprint(changes: dict[str, object]) -> None:
    assert make_ticket(**changes).fingerprint != make_ticket().fingerprint


def test_sizes_and_names() -> None:
    ticket = make_ticket()
    assert ticket.name == "first"
    assert ticket.num_parameters == 6 + 4 + 8  # the counter of batches is no parameter
    assert list(ticket.tensors()) == [
        "norm.bn.weight",
        "norm.bn.num_batches_tracked",
        "head.weight",
        "statistics.center",
    ]


def test_information_survives_json() -> None:
    info = TicketInfo(
        "rain",
        parent=2,
        cluster="weather/rain",
        sparsity_target=0.9,
        samples=1000,
        domain_counts={"rain": 990, "sun": 10},
        relaxations=1,
        similarity=0.31,
        provenance={"seed": 3, "config": {"epochs": 5}},
    )
    assert TicketInfo.from_json(json.loads(json.dumps(info.to_json()))) == info


def test_unknown_information_is_refused() -> None:
    with pytest.raises(BankError, match=r"unknown keys \['colour'\]"):
        TicketInfo.from_json({"name": "a", "colour": "red"})
