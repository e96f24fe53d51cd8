"""Damaged banks: every damage is told in one clear message, and never changes a prediction."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rtl_continual import load_bank
from rtl_continual.errors import BankError
from rtl_continual.store import BankStore, VerifyReport
from rtl_continual.store._codec import encode_tensors
from rtl_continual.store._sealed import seal
from rtl_continual.tickets import Prediction, Ticket, TicketBank

Grow = Callable[..., Ticket]


@pytest.fixture
def rich(bank: TicketBank, tmp_path: Path, grow: Grow) -> BankStore:
    """Everything that a bank can hold: embedded backbone, tags, a rollback, a retired version."""
    store = BankStore.create(tmp_path / "rich", bank, embed_backbone=True)
    store.tag("production", 1)
    grow(bank, "t3", seed=3)
    store.commit(bank)
    bank.router = None
    store.commit(bank)
    store.rollback(2, message="back")
    store.gc(grace=0, keep=2)
    assert store.verify().ok
    return store


def rewrite(store: BankStore, version: int, **changes: Any) -> None:
    """Forge a manifest: other content, right checksum."""
    path = store.storage.root / f"manifests/{version:08d}.json"
    values = json.loads(path.read_bytes())["manifest"] | changes
    path.write_bytes(seal("manifest", values)[0])


def outcome(root: Path, images: torch.Tensor) -> tuple[VerifyReport | str, Prediction | str]:
    try:
        report: VerifyReport | str = BankStore.open(root).verify()
    except BankError as error:
        report = str(error)
    try:
        answer: Prediction | str = load_bank(root).predict(images)
    except BankError as error:
        answer = str(error)
    return report, answer


@pytest.mark.parametrize(
    "flips", [60, pytest.param(300, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])]
)
def test_a_flipped_bit_is_detected_or_harmless(
    rich: BankStore, images: torch.Tensor, flips: int
) -> None:
    root, draw = rich.storage.root, random.Random(flips)
    files = sorted(p for p in root.rglob("*") if p.is_file() and p.name != "lock")
    used = {blob for v in (1, 2, 4) for blob in rich.read(v).blobs()}
    _, wanted = outcome(root, images)
    assert isinstance(wanted, Prediction)
    detected = 0
    for _ in range(flips):
        path = draw.choice(files)
        data = path.read_bytes()
        bit = draw.randrange(8 * len(data))
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        report, answer = outcome(root, images)
        path.write_bytes(data)
        where = f"{path.relative_to(root)}, bit {bit}"
        if isinstance(answer, Prediction):
            assert torch.equal(answer.outputs, wanted.outputs), where
            assert torch.equal(answer.ticket_ids, wanted.ticket_ids), where
        if path.parent.name != "blobs" or path.stem in used:
            assert isinstance(report, str) or not report.ok, f"verify did not see {where}"
            detected += 1
    assert detected > flips / 2
    assert rich.verify().ok


def test_a_missing_blob(store: BankStore, images: torch.Tensor) -> None:
    entry = store.read().tickets[1]
    (store.storage.root / f"blobs/{entry.blob}.safetensors").unlink()
    bank = store.load()
    assert torch.isfinite(bank.predict(images, ticket_ids=0).outputs).all()
    with pytest.raises(BankError, match=r"ticket 1 't1' of bank .* is missing: 'blobs/"):
        bank.predict(images, ticket_ids=1)
    assert [p for p in store.verify().problems if "is missing" in p]


def test_a_lost_blob_comes_back_with_its_ticket(
    store: BankStore, bank: TicketBank, tmp_path: Path
) -> None:
    entry = store.read().tickets[1]
    blob = store.storage.root / f"blobs/{entry.blob}.safetensors"
    for damage in (blob.unlink, lambda: blob.write_bytes(b"x" * entry.bytes)):
        damage()
        assert not store.verify().ok
        store.put(BankStore.create(tmp_path / "copy", bank).blob(entry.blob, entry.bytes, "it"))
        assert store.verify().ok
        shutil.rmtree(tmp_path / "copy")


@pytest.mark.parametrize("length", [0, 1, 100, -1])
def test_a_truncated_manifest(store: BankStore, bank: TicketBank, grow: Grow, length: int) -> None:
    grow(bank, "t3", seed=3)
    store.commit(bank)
    path = store.storage.root / "manifests/00000002.json"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(BankError, match=r"manifest of version 2 .*version 1 can still be opened"):
        store.load()
    assert len(store.load(1)) == 3
    with pytest.raises(BankError, match="manifest of version 2"):
        store.commit(bank)
    with pytest.raises(BankError, match="manifest of version 2"):
        store.gc(grace=0)
    assert len(store.verify().problems) == 1


def test_a_missing_manifest(store: BankStore, bank: TicketBank, grow: Grow) -> None:
    for name in ("t3", "t4"):
        grow(bank, name, seed=3)
        store.commit(bank)
    (store.storage.root / "manifests/00000002.json").unlink()
    assert len(store.load()) == 5
    lost = "the manifest of version 2 of bank .* is missing: 'manifests/00000002.json'"
    assert re.match(lost, store.verify().problems[0])
    with pytest.raises(BankError, match="has no version 9; it has 1 to 3"):
        store.load(9)
    # What the lost manifest refers to looks unused, and must stay.
    store.rollback(1)
    for path in (store.storage.root / "blobs").iterdir():
        os.utime(path, (1, 1))
    before = store.blobs()
    with pytest.raises(BankError, match=lost):
        store.gc(grace=0)
    assert store.blobs() == before


def test_a_manifest_under_another_number(store: BankStore) -> None:
    folder = store.storage.root / "manifests"
    shutil.copy(folder / "00000001.json", folder / "00000002.json")
    with pytest.raises(BankError, match="is that of version 1"):
        store.load()


def test_a_bank_of_a_newer_format(store: BankStore) -> None:
    rewrite(store, 1, format_version=2, surprise=True)
    for attempt in (store.load, store.verify, store.history, lambda: store.gc(grace=0)):
        if attempt == store.verify:
            assert "upgrade rtl-continual" in store.verify().problems[0]
            continue
        with pytest.raises(BankError, match=r"format version 2; .*: upgrade rtl-continual"):
            attempt()


def test_a_ticket_of_a_newer_format(store: BankStore) -> None:
    sha256, size = store.put(encode_tensors("ticket", {}, {"format_version": 9}))
    first = store.read().tickets[0].model_dump()
    rewrite(store, 1, tickets=[first | {"blob": sha256, "bytes": size}], router=None)
    with pytest.raises(BankError, match="ticket 0 't0' has format version 9"):
        store.load()[0]


FORGERIES: list[tuple[dict[str, Any], str]] = [
    ({"tickets": []}, "not an exact prefix"),
    ({"operation": "collect"}, "a collection changed the content"),
    ({"operation": "rollback"}, "the version that it goes back to is not there"),
    ({"operation": "create"}, "does not belong there"),
    ({"retired": [1]}, "without being a collection"),
    ({"retired": [5]}, "retires itself"),
    ({"parent": {"version": 1, "sha256": "ab" * 32}}, "the chain is broken"),
    ({"task": {"name": "classification", "config": {"num_outputs": 4}}}, "backbone or task"),
]


@pytest.mark.parametrize(("changes", "message"), FORGERIES)
def test_a_forged_version_is_found_by_verify(
    store: BankStore, bank: TicketBank, grow: Grow, changes: dict[str, Any], message: str
) -> None:
    grow(bank, "t3", seed=3)
    store.commit(bank)
    rewrite(store, 2, **changes)
    problems = store.verify().problems
    assert any(message in problem and "version 2" in problem for problem in problems), problems


def test_a_ticket_that_was_replaced_is_found_by_verify(
    store: BankStore, bank: TicketBank, grow: Grow
) -> None:
    grow(bank, "t3", seed=3)
    store.commit(bank)
    entries = [entry.model_dump() for entry in store.read().tickets]
    rewrite(store, 2, tickets=[entries[0] | {"kept": 1}, *entries[1:]])
    problems = "\n".join(store.verify().problems)
    assert "not an exact prefix" in problems
    assert "the manifest says other things of it than its blob" in problems
    swapped = [entries[0] | {"blob": entries[1]["blob"], "bytes": entries[1]["bytes"]}]
    rewrite(store, 2, tickets=swapped, router=None)
    with pytest.raises(BankError, match="ticket 0 't0' is named 't1' in its blob"):
        store.load()[0]


def test_a_router_that_does_not_fit(store: BankStore) -> None:
    rewrite(store, 1, tickets=[store.read().tickets[0].model_dump()])
    with pytest.raises(BankError, match=r"the router of bank .* knows 3 tickets, the bank has 1"):
        store.load()


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"name": "hierarchical2", "config": {}}, "unknown router 'hierarchical2'"),
        ({"name": "flat", "config": {"surprise": 1}}, "cannot be built here"),
        ({"name": "flat", "config": {}}, "does not fit router 'flat'"),
    ],
)
def test_a_router_that_cannot_be_built(
    store: BankStore, facts: dict[str, Any], message: str
) -> None:
    sha256, size = store.put(encode_tensors("router", {"x": torch.ones(1)}, facts))
    rewrite(store, 1, router={"name": "flat", "blob": sha256, "bytes": size})
    with pytest.raises(BankError, match=message):
        store.load()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": {"name": "nonet", "weights": "random:0"}}, "cannot be built here: unknown"),
        ({"config": {"name": "glyphnet", "weights": "random:0", "x": 1}}, "options unknown here"),
        ({"config": {"name": "glyphnet", "weights": "/etc/passwd"}}, "neither embedded weights"),
        ({"config": {"name": "glyphnet"}}, "neither embedded weights"),
        ({"maskable": 5}, "masks 5 weights, the backbone has"),
    ],
)
def test_a_backbone_that_cannot_be_had(
    store: BankStore, changes: dict[str, Any], message: str
) -> None:
    rewrite(store, 1, backbone=store.read().backbone.model_dump() | changes)
    with pytest.raises(BankError, match=message):
        store.load()


def test_embedded_weights_that_are_not_those_of_the_tickets(rich: BankStore) -> None:
    other = BankStore(rich.storage).read()
    sha256, size = rich.put(
        encode_tensors(
            "backbone",
            {k: v + 1 for k, v in rich.load_backbone().state_dict().items()},
            {
                "identity": other.backbone.identity,
                "weights": "random:0",
                "input": {"channels": 3, "size": [32, 32], "mean": [0.5] * 3, "std": [0.25] * 3},
            },
        )
    )
    forged = other.backbone.model_dump() | {"blob": sha256, "bytes": size}
    rewrite(rich, rich.head(), backbone=forged)
    with pytest.raises(BankError, match="its own blob is"):
        rich.load()
    assert any("its weights are not those" in p for p in rich.verify().problems)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"name": "poetry", "config": {}}, "unknown task 'poetry'"),
        ({"name": "classification", "config": {"colour": 3}}, "options unknown here"),
    ],
)
def test_a_task_of_later_days(store: BankStore, task: dict[str, Any], message: str) -> None:
    rewrite(store, 1, task=task)
    with pytest.raises(BankError, match=message):
        store.load()
