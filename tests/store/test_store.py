"""Saving, loading, appending: what goes in comes out, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from rtl_continual import load_bank
from rtl_continual.backbones import Backbone, InputSpec, build_backbone
from rtl_continual.errors import BankError
from rtl_continual.store import BankStore, save_bank
from rtl_continual.store._storage import LocalStorage
from rtl_continual.tasks import Classification
from rtl_continual.tickets import Ticket, TicketBank

Grow = Callable[..., Ticket]


def test_a_loaded_bank_predicts_the_same_bits(
    bank: TicketBank, store: BankStore, images: torch.Tensor
) -> None:
    loaded = load_bank(store.storage.root)
    a, b = bank.predict(images), loaded.predict(images)
    assert len(set(a.ticket_ids.tolist())) > 1
    for one, other in zip(
        (a.outputs, a.ticket_ids, a.confidence, a.labels),
        (b.outputs, b.ticket_ids, b.confidence, b.labels),
        strict=True,
    ):
        assert torch.equal(one, other)
    assert [t.info for t in loaded] == [t.info for t in bank]
    assert [t.fingerprint for t in loaded] == [t.fingerprint for t in bank]
    assert (loaded.version, loaded.manifest) == (1, store.read().sha256)


def test_opening_reads_no_ticket(store: BankStore, monkeypatch: pytest.MonkeyPatch) -> None:
    tickets = {f"blobs/{e.blob}.safetensors" for e in store.read().tickets}
    read: list[str] = []
    original = LocalStorage.read

    def counted(self: LocalStorage, name: str, limit: int) -> bytes:
        read.append(name)
        return original(self, name, limit)

    monkeypatch.setattr(LocalStorage, "read", counted)
    bank = load_bank(store.storage.root)
    assert bank.names == ("t0", "t1", "t2")
    assert len(bank) == 3
    assert not tickets.intersection(read)
    bank.effective_parameters(1)
    bank.effective_parameters(1)
    assert [name for name in read if name in tickets] == [
        f"blobs/{store.read().tickets[1].blob}.safetensors"
    ]


def test_twenty_additions_leave_old_outputs_and_files_as_they_were(
    bank: TicketBank, store: BankStore, images: torch.Tensor, grow: Grow
) -> None:
    """Every ticket, in every version that has it, opened as another process would open it."""
    root = store.storage.root
    wanted = [bank.predict(images, ticket_ids=i).outputs for i in range(3)]
    before = {path: path.read_bytes() for path in (root / "blobs").iterdir()}
    for i in range(20):
        opened = store.load(backbone=bank.backbone)
        grow(opened, f"later{i}", seed=10 + i)
        wanted.append(opened.predict(images, ticket_ids=3 + i).outputs)
        store.commit(opened)
        loaded = load_bank(root)
        assert len(loaded) == len(wanted)
        for ticket, outputs in enumerate(wanted):
            assert torch.equal(loaded.predict(images, ticket_ids=ticket).outputs, outputs)
    assert store.versions() == list(range(1, 22))
    assert {path: path.read_bytes() for path in before} == before
    assert store.verify().problems == ()


def test_saving_twice_appends_what_is_new_and_nothing_else(
    bank: TicketBank, tmp_path: Path, grow: Grow
) -> None:
    path = tmp_path / "bank"
    assert save_bank(bank, path, message="first").version == 1
    assert save_bank(bank, path).version == 1
    grow(bank, "t3", seed=3)
    manifest = save_bank(bank, path, message="fourth ticket")
    assert (manifest.version, len(manifest.tickets), manifest.message) == (2, 4, "fourth ticket")
    assert bank.version == 2
    bank.router = None
    assert save_bank(bank, path).router is None
    assert BankStore.open(path).versions() == [1, 2, 3]


def test_a_bank_that_was_never_loaded_may_append_if_the_stored_tickets_are_its_first(
    backbone: Backbone, store: BankStore, grow: Grow
) -> None:
    twin = TicketBank(backbone, Classification(3))
    for seed in range(4):
        grow(twin, f"t{seed}", seed=seed)
    # The twin's head starts elsewhere in memory, but holds the same values.
    assert store.commit(twin).version == 2
    other = TicketBank(backbone, Classification(3))
    grow(other, "t0", seed=99)
    with pytest.raises(BankError, match=r"holds 4 tickets, and ticket 0 \('t0'\) is not that"):
        save_bank(other, store.storage.root)
    assert store.versions() == [1, 2]


def test_tickets_of_two_writers_both_stay(
    bank: TicketBank, store: BankStore, grow: Grow, images: torch.Tensor
) -> None:
    one, two = store.load(), store.load()
    grow(one, "mine", seed=7)
    grow(two, "yours", seed=8)
    grow(two, "yours too", seed=9, parent=3)
    store.commit(one)
    manifest = store.commit(two)
    assert [entry.name for entry in manifest.tickets] == [
        "t0",
        "t1",
        "t2",
        "mine",
        "yours",
        "yours too",
    ]
    loaded = store.load()
    assert loaded.router is not None
    assert loaded.router.num_tickets == 6
    # A parent among the tickets that moved behind another's has moved with them.
    assert [t.info.parent for t in loaded][-1] == 4
    assert torch.equal(
        loaded.predict(images, ticket_ids=4).outputs, two.predict(images, ticket_ids=3).outputs
    )
    loaded.predict(images)
    with pytest.raises(BankError, match="has got a ticket named 'yours' since"):
        store.commit(two)
    assert store.verify().ok


def test_a_writer_that_only_changed_the_router_must_load_again(
    store: BankStore, grow: Grow
) -> None:
    one, two = store.load(), store.load()
    assert store.commit(two).version == 1
    grow(one, "new", seed=7)
    store.commit(one)
    assert store.commit(two).version == 2, "nothing new is no conflict"
    two.router = two.router.__class__(two.router.config)
    two.router.fit(list(store.load().router._mixtures[:3]))
    two.router.bias = two.router.bias + 1
    with pytest.raises(BankError, match="has got 1 tickets since it was loaded"):
        store.commit(two)


def test_a_writer_does_not_undo_a_rollback(store: BankStore, grow: Grow) -> None:
    opened = store.load()
    grow(opened, "t3", seed=3)
    store.commit(opened)
    store.rollback(1)
    grow(opened, "t4", seed=4)
    with pytest.raises(BankError, match=r"rolled back since it was loaded \(version 2\)"):
        store.commit(opened)
    assert len(store.read().tickets) == 3


def test_a_bank_of_another_store_is_refused(
    store: BankStore, empty_bank: TicketBank, tmp_path: Path, grow: Grow
) -> None:
    foreign = BankStore.create(tmp_path / "other", empty_bank).load()
    grow(foreign, "x")
    with pytest.raises(BankError, match="loaded from another bank"):
        store.commit(foreign)


def test_a_loaded_bank_can_grow_its_router(store: BankStore, grow: Grow) -> None:
    opened = store.load()
    grow(opened, "t3", seed=3)
    assert opened.router.num_tickets == 4
    assert store.load(store.commit(opened).version).router.num_tickets == 4


@pytest.mark.parametrize("embed", [None, True])
def test_backbones_by_reference_and_embedded(
    bank: TicketBank, tmp_path: Path, images: torch.Tensor, embed: bool | None
) -> None:
    save_bank(bank, tmp_path / "bank", embed_backbone=embed)
    entry = BankStore.open(tmp_path / "bank").read().backbone
    assert (entry.blob is not None) == bool(embed)
    assert entry.config["weights"] == "random:0"
    loaded = load_bank(tmp_path / "bank")
    assert loaded.backbone is not bank.backbone
    assert loaded.backbone.input_spec == bank.backbone.input_spec
    assert torch.equal(loaded.predict(images).outputs, bank.predict(images).outputs)


def test_weights_of_a_file_are_embedded_and_the_path_is_not_stored(
    backbone: Backbone, tmp_path: Path, images: torch.Tensor, grow: Grow
) -> None:
    from safetensors.torch import save_file

    network = {**backbone.trunk.state_dict(), **backbone.body.state_dict()}
    save_file(network, tmp_path / "own.safetensors")
    own = build_backbone("glyphnet", weights=str(tmp_path / "own.safetensors"), width=4)
    bank = TicketBank(own, Classification(3))
    grow(bank, "t0")
    store = BankStore.create(tmp_path / "bank", bank)
    (tmp_path / "own.safetensors").unlink()
    loaded = load_bank(tmp_path / "bank")
    assert torch.equal(
        loaded.predict(images, ticket_ids=0).outputs, bank.predict(images, ticket_ids=0).outputs
    )
    for path in store.storage.root.rglob("*.*"):
        assert b"own.safetensors" not in path.read_bytes()


def test_a_network_of_the_users_must_be_given(tmp_path: Path, grow: Grow) -> None:
    def network(scale: float) -> Backbone:
        torch.manual_seed(0)
        body = nn.Sequential(nn.Flatten(), nn.Linear(3600, 5))
        made = Backbone(
            "toy", nn.Conv2d(3, 4, 3), body, feature_dim=5, input_spec=InputSpec(size=(32, 32))
        )
        with torch.no_grad():
            body[1].weight.mul_(scale)
        return made

    bank = TicketBank(network(1.0), Classification(3))
    grow(bank, "t0")
    with pytest.raises(BankError, match="cannot be embedded"):
        save_bank(bank, tmp_path / "bank", embed_backbone=True)
    save_bank(bank, tmp_path / "bank")
    with pytest.raises(BankError, match=r"a network of its owner's \('toy'\)"):
        load_bank(tmp_path / "bank")
    assert len(load_bank(tmp_path / "bank", backbone=network(1.0))) == 1
    with pytest.raises(BankError, match=r"the backbone given is .*weights, split or taps differ"):
        load_bank(tmp_path / "bank", backbone=network(2.0))


def test_a_reference_that_builds_another_backbone_here_is_refused(
    store: BankStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = build_backbone("glyphnet", weights="random:1", width=4)
    monkeypatch.setattr("rtl_continual.store._parts.build_backbone", lambda *_: other)
    with pytest.raises(
        BankError, match=r"'glyphnet' with weights 'random:0' is .*: weights, split"
    ):
        store.load()


def test_a_backbone_that_was_changed_is_not_stored(tmp_path: Path) -> None:
    backbone = build_backbone("glyphnet", weights="random:0", width=4)
    bank = TicketBank(backbone, Classification(3))
    assert backbone.identity
    next(backbone.body.parameters()).data.add_(1)
    with pytest.raises(BankError, match="have changed since it was made"):
        save_bank(bank, tmp_path / "bank")


@pytest.mark.parametrize("wrong", ["backbone", "task"])
def test_tickets_of_another_kind_are_refused(
    backbone: Backbone, store: BankStore, wrong: str
) -> None:
    if wrong == "backbone":
        backbone = build_backbone("glyphnet", weights="random:1", width=4)
    other = TicketBank(backbone, Classification(3 if wrong == "backbone" else 4))
    with pytest.raises(BankError, match=r"masks backbone|is for classification"):
        store.commit(other)


def test_memory_stays_within_the_budget(
    store: BankStore, bank: TicketBank, images: torch.Tensor
) -> None:
    bank.predict(images, ticket_ids=0)
    one = bank._cache.used
    loaded = load_bank(store.storage.root, cache_bytes=3 * one)
    for ticket_id in (0, 1, 2, 1):
        loaded.predict(images, ticket_ids=ticket_id)
    assert loaded.prepared == (2, 1)
    assert loaded._cache.used == 2 * one
    assert torch.equal(loaded.predict(images).outputs, bank.predict(images).outputs), (
        "what was pushed out is read again"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"version": 7}, "has no version 7; it has 1 to 1"),
        ({"version": 0}, "has no version 0"),
        ({"tag": "production"}, "has no tag 'production'; it has: none"),
        ({"tag": "a", "version": 1}, "a version or a tag, not both"),
    ],
)
def test_what_is_not_there(store: BankStore, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(BankError, match=message):
        load_bank(store.storage.root, **arguments)


def test_a_file_is_no_bank(tmp_path: Path, bank: TicketBank) -> None:
    path = tmp_path / "bank.zip"
    path.write_bytes(b"PK")
    for act in (BankStore.open, load_bank, lambda path: save_bank(bank, path)):
        with pytest.raises(BankError, match=r"bank.zip' is a file; a bank is a folder"):
            act(path)
    assert path.read_bytes() == b"PK"


def test_no_bank_at_all(tmp_path: Path, store: BankStore, bank: TicketBank) -> None:
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(BankError, match="there is no bank in"):
            load_bank(path)
    with pytest.raises(BankError, match=r"a bank in .* already"):
        BankStore.create(store.storage.root, bank)
