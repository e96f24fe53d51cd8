"""What a new version changes: every input whose ticket or output changed, and why."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch

from rtl_continual.routing import FlatRouter, FlatRouterConfig, Routing
from rtl_continual.store import BankStore, replay
from rtl_continual.tickets import Ticket, TicketBank

Grow = Callable[..., Ticket]


def test_nothing_changes_between_a_version_and_itself(
    store: BankStore, images: torch.Tensor
) -> None:
    store.tag("production")
    found = replay(store, images, 1, 1)
    assert (found.images, found.same_ticket, found.bit_equal, found.changes) == (12, 12, 12, ())


def test_only_the_new_ticket_takes_inputs(
    store: BankStore, bank: TicketBank, images: torch.Tensor, grow: Grow
) -> None:
    before = bank.predict(images)
    # The newcomer's training images look like those of ticket 1.
    grow(bank, "newcomer", seed=5)
    store.commit(bank)
    after = bank.predict(images)
    moved = (before.ticket_ids != after.ticket_ids).nonzero().flatten().tolist()
    assert moved
    assert len(moved) < 12
    found = replay(store, images, 1, 2, names=[f"image {i}" for i in range(12)])
    assert [change.index for change in found.changes] == moved
    assert found.same_ticket == found.bit_equal == 12 - len(moved)
    for change in found.changes:
        assert change.name == f"image {change.index}"
        assert change.old_ticket == before.ticket_ids[change.index]
        assert change.new_label == after.labels[change.index]
        assert change.reason == "the router now prefers the new ticket 3 'newcomer'"
    reasons = json.loads(json.dumps(found.to_json()))["reasons"]
    assert reasons == {"the router now prefers the new ticket 3 'newcomer'": len(moved)}


def test_reasons(store: BankStore, bank: TicketBank, images: torch.Tensor) -> None:
    """Version 1 as fitted; in 2 the gate sends all to ticket 1; in 3 it always abstains."""
    assert isinstance(bank.router, FlatRouter)
    bank.router.bias = bank.router.bias + torch.tensor([0.0, 1e6, 0.0])
    store.commit(bank)
    shy = FlatRouter(FlatRouterConfig(abstain_below=1.0))
    shy.load_state_dict({k: 0 * v for k, v in bank.router.state_dict().items()})
    bank.router = shy
    store.commit(bank)
    moved = replay(store, images, 1, 2)
    assert {change.reason for change in moved.changes} == {
        "the router now prefers ticket 1 't1', which was there before"
    }
    silent = replay(store, images, 2, 3)
    assert {change.reason for change in silent.changes} == {"the new router abstains"}
    assert len(silent.changes) == 12
    assert {change.new_ticket for change in silent.changes} == {-1}
    back = replay(store, images, 3, 2)
    assert {change.reason for change in back.changes} == {
        "the old router abstained; the new one prefers ticket 1 't1'"
    }
    assert replay(store, images, 3, 3).changes == ()


def test_a_ticket_of_another_branch_is_named(
    store: BankStore, bank: TicketBank, images: torch.Tensor, grow: Grow
) -> None:
    """After a rollback id 3 can be another ticket; that is told apart from a damaged one."""
    grow(bank, "bad", seed=5)
    store.commit(bank)
    store.rollback(1)
    opened = store.load()
    grow(opened, "good", seed=9)
    store.commit(opened)
    found = replay(store, images, 2, 4)
    reasons = {change.reason for change in found.changes if change.new_ticket == 3}
    assert "ticket 3 is 'good', no longer 'bad'" in reasons


def test_a_router_that_mixes_otherwise(
    store: BankStore, bank: TicketBank, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two tickets per input in both versions, the same first one, other shares."""

    def mixing(self: FlatRouter, features: torch.Tensor, *, budget: int | None = None) -> Routing:
        share, count = float(self.bias[0]), len(features)
        ids = torch.tensor([[0, 1]]).expand(count, 2)
        return Routing(ids, torch.tensor([[share, 1 - share]]).expand(count, 2), torch.ones(count))

    assert isinstance(bank.router, FlatRouter)
    for share in (0.9, 0.6):
        bank.router.bias = torch.tensor([share, 0.0, 0.0])
        store.commit(bank)
    monkeypatch.setattr(FlatRouter, "route", mixing)
    found = replay(store, images, 2, 3)
    reason = "the router mixes the same tickets with other weights"
    assert {change.reason for change in found.changes} == {reason}
    assert (len(found.changes), found.bit_equal) == (12, 12)
