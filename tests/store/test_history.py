"""History, differences, rollback, collection, export, tags, sizes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rtl_continual import load_bank
from rtl_continual.errors import BankError
from rtl_continual.store import BankStore
from rtl_continual.tickets import Ticket, TicketBank

Grow = Callable[..., Ticket]


@pytest.fixture
def versions(store: BankStore, bank: TicketBank, grow: Grow) -> BankStore:
    """Version 1: t0 to t2. 2: t3 more. 3: back to 1. 4: u on top."""
    grow(bank, "t3", seed=3)
    store.commit(bank, message="night 1")
    store.rollback(1, message="t3 was bad")
    opened = store.load()
    grow(opened, "u", seed=7)
    store.commit(opened)
    return store


def test_history_says_what_each_version_brought(versions: BankStore) -> None:
    versions.tag("production", 3)
    rows = versions.history()
    assert [row["version"] for row in rows] == [1, 2, 3, 4]
    assert [row["operation"] for row in rows] == ["create", "commit", "rollback", "commit"]
    assert [row["added"] for row in rows] == [["t0", "t1", "t2"], ["t3"], [], ["u"]]
    assert [row["removed"] for row in rows] == [[], [], ["t3"], []]
    assert [row["source"] for row in rows] == [None, None, 1, None]
    assert [row["message"] for row in rows] == ["", "night 1", "t3 was bad", ""]
    assert [row["tags"] for row in rows] == [[], [], ["production"], []]
    assert [row["tickets"] for row in rows] == [3, 4, 3, 4]
    assert versions.verify().ok


def test_a_rollback_has_the_content_of_the_old_version(
    versions: BankStore, images: torch.Tensor
) -> None:
    old, back = versions.load(1), versions.load(3)
    assert versions.read(3).tickets == versions.read(1).tickets
    assert torch.equal(old.predict(images).outputs, back.predict(images).outputs)
    assert len(versions.load(2)) == 4, "nothing is removed"
    with pytest.raises(BankError, match="version 4 is the newest already"):
        versions.rollback(4)
    with pytest.raises(BankError, match="has no version 9"):
        versions.rollback(9)


def test_no_rollback_to_what_is_gone(versions: BankStore) -> None:
    gone = versions.read(2).tickets[3].blob
    (versions.storage.root / f"blobs/{gone}.safetensors").unlink()
    with pytest.raises(BankError, match=r"cannot go back to version 2: blob .* is missing"):
        versions.rollback(2)


def test_diff(versions: BankStore) -> None:
    found = versions.diff(2, 4)
    assert found["tickets"]["unchanged"] == 3
    assert [t["name"] for t in found["tickets"]["added"]] == ["u"]
    assert [t["name"] for t in found["tickets"]["removed"]] == ["t3"]
    assert found["router"]["changed"]
    assert found["bytes"]["new"] > 0
    same = versions.diff(1, 3)
    assert (same["router"]["changed"], same["bytes"]["new"]) == (False, 0)


def test_a_collection_takes_only_what_no_kept_version_needs(versions: BankStore) -> None:
    versions.storage.create("tmp/left", b"half a blob")
    orphan, _ = versions.put(b"nobody's")
    assert versions.gc()["removed"] == [], "all of it is young"
    dry = versions.gc(grace=0, dry_run=True)
    assert versions.has_blob(orphan)
    found = versions.gc(grace=0)
    names = [entry["file"] for entry in found["removed"]]
    assert names == [f"blobs/{orphan}.safetensors", "tmp/left"]
    assert dry == found | {"dry_run": True}
    assert (versions.head(), found["bytes"]) == (4, 19)
    assert [len(versions.load(v)) for v in (1, 2, 3, 4)] == [3, 4, 3, 4]
    assert versions.verify().ok


def test_retired_versions_go_after_the_grace_period(
    versions: BankStore, images: torch.Tensor
) -> None:
    wanted = versions.load(4).predict(images).outputs
    versions.tag("production", 1)
    only_in_2 = versions.read(2).blobs().keys() - versions.read(4).blobs().keys()
    found = versions.gc(grace=1000, keep=1)
    assert (found["retired"], found["removed"], found["version"]) == ([2, 3], [], 5)
    assert all(versions.has_blob(blob) for blob in only_in_2)
    with pytest.raises(BankError, match=r"version 2 of bank .* has been retired"):
        versions.load(2)
    with pytest.raises(BankError, match="has been retired"):
        versions.rollback(3)
    past = versions.storage.root
    for path in (*(past / "blobs").iterdir(), *(past / "manifests").iterdir()):
        os.utime(path, (1, 1))
    found = versions.gc(grace=1000)
    assert {entry["file"] for entry in found["removed"]} == {
        f"blobs/{blob}.safetensors" for blob in only_in_2
    }
    assert versions.verify().problems == ()
    assert [row["retired"] for row in versions.history()] == [False, True, True, False, False]
    for version in (None, 4, 5):
        assert torch.equal(versions.load(version).predict(images).outputs, wanted)
    assert len(load_bank(past, tag="production")) == 3
    # Later versions stay chained to the retired ones.
    assert versions.rollback(1).retired == (2, 3)
    assert versions.gc(grace=1000, keep=9)["retired"] == []
    assert versions.verify().ok


@pytest.mark.parametrize("arguments", [{"keep": 0}, {"grace": -1.0}])
def test_collections_that_make_no_sense(store: BankStore, arguments: dict[str, float]) -> None:
    with pytest.raises(BankError, match=r"keeps one version or more|0 seconds or more"):
        store.gc(**arguments)


def test_a_blob_in_use_again_is_young_again(store: BankStore) -> None:
    sha256, _ = store.put(b"nobody's")
    path = store.storage.root / f"blobs/{sha256}.safetensors"
    os.utime(path, (1, 1))
    store.put(b"nobody's")
    assert store.gc(grace=1000)["removed"] == []


def test_export(versions: BankStore, tmp_path: Path, images: torch.Tensor) -> None:
    copy = versions.export_version(tmp_path / "copy", 2)
    assert copy.versions() == [1]
    assert copy.read().source == versions.read(2).link
    assert len(copy.blobs()) == len(versions.read(2).blobs())
    assert copy.verify().ok
    for path in (tmp_path / "bank").rglob("*.safetensors"):
        path.unlink()
    assert torch.isfinite(load_bank(tmp_path / "copy").predict(images).outputs).all()
    with pytest.raises(BankError, match=r"a bank in .*copy' already"):
        versions.export_version(tmp_path / "copy", 1)
    with pytest.raises(BankError, match="is missing"):
        versions.export_version(tmp_path / "another", 1)
    with pytest.raises(BankError, match="there is no bank"):
        BankStore.open(tmp_path / "another")


def test_tags_move(versions: BankStore) -> None:
    assert versions.tag("candidate") == 4
    assert versions.tag("production", 1) == 1
    assert versions.tag("production", 2) == 2
    assert versions.tags() == {"candidate": 4, "production": 2}
    assert load_bank(versions.storage.root, tag="production").version == 2
    versions.untag("candidate")
    assert versions.tags() == {"production": 2}
    with pytest.raises(BankError, match="has no tag 'candidate'; it has: production"):
        versions.untag("candidate")
    with pytest.raises(BankError, match="has no version 9"):
        versions.tag("production", 9)
    assert versions.tagged("production") == 2


NO_NAMES = [
    "",
    "../x",
    "a/b",
    "/etc/passwd",
    "a\\b",
    "A",
    "-a",
    ".a",
    "a b",
    "a\n",
    "ä",
    "a" * 65,
    "\0",
]


@pytest.mark.parametrize("name", NO_NAMES)
def test_tags_that_are_no_names(store: BankStore, name: str) -> None:
    for attempt in (store.tag, store.tagged, store.untag):
        with pytest.raises(BankError, match="is no name for a tag"):
            attempt(name)


def test_a_tag_of_another_bank_is_refused(
    store: BankStore, empty_bank: TicketBank, tmp_path: Path
) -> None:
    other = BankStore.create(tmp_path / "other", empty_bank)
    other.tag("production")
    (store.storage.root / "tags/production.json").write_bytes(
        (tmp_path / "other/tags/production.json").read_bytes()
    )
    with pytest.raises(BankError, match="names another bank's version"):
        load_bank(store.storage.root, tag="production")
    assert not store.verify().ok


def test_sizes(store: BankStore, bank: TicketBank) -> None:
    found = store.sizes()
    assert [t["name"] for t in found["tickets"]] == ["t0", "t1", "t2"]
    for entry, ticket in zip(found["tickets"], bank, strict=True):
        assert entry["sparsity"] == pytest.approx(ticket.mask.sparsity)
        # The layers are tiny here, so that deflate's code tables weigh as much as their bits.
        assert 1 < entry["ratio"] < 1.7
        assert entry["mask_bytes"] < entry["bytes"]
        assert entry["layer_entropy_bytes"] <= entry["entropy_bytes"] + 1e-9
    weights = sum(t.numel() * t.element_size() for t in bank.backbone.state_dict().values())
    assert found["dense_copy_bytes"] == weights
    files = sum(p.stat().st_size for p in (store.storage.root / "blobs").iterdir())
    assert found["bytes"] == files
