"""A bank in an object store, through fsspec's implementation in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem

from rtl_continual import load_bank
from rtl_continual.errors import BankError
from rtl_continual.store import BankStore, save_bank
from rtl_continual.store._remote import RemoteStorage
from rtl_continual.store._storage import LocalStorage, open_storage
from rtl_continual.tickets import Ticket, TicketBank

Grow = Callable[..., Ticket]


@pytest.fixture
def address() -> Iterator[str]:
    yield "memory://banks/one"
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


def test_all_that_a_bank_does(
    bank: TicketBank, address: str, images: torch.Tensor, grow: Grow, tmp_path: Path
) -> None:
    assert save_bank(bank, address).version == 1
    grow(bank, "t3", seed=3)
    assert save_bank(bank, address, message="night 1").version == 2
    store = BankStore.open(address)
    store.tag("production", 1)
    assert len(load_bank(address, tag="production")) == 3
    assert torch.equal(load_bank(address).predict(images).outputs, bank.predict(images).outputs)
    assert store.rollback(1).version == 3
    assert store.gc(grace=0, keep=1)["retired"] == [2]
    assert store.verify().problems == ()
    assert [row["tags"] for row in store.history()] == [["production"], [], [], []]
    copy = store.export_version(tmp_path / "copy", 1)
    assert isinstance(copy.storage, LocalStorage)
    assert copy.export_version("memory://banks/two").verify().ok
    store.untag("production")
    assert store.tags() == {}


def test_writers_lose_nothing(bank: TicketBank, address: str, grow: Grow) -> None:
    bank.router = None
    save_bank(bank, address)

    def work(writer: int) -> None:
        for i in range(3):
            mine = BankStore.open(address).load(backbone=bank.backbone)
            grow(mine, f"{writer}-{i}", seed=writer)
            BankStore.open(address).commit(mine)

    threads = [threading.Thread(target=work, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store = BankStore.open(address)
    assert sorted(e.name for e in store.read().tickets[3:]) == sorted(
        f"{writer}-{i}" for writer in range(4) for i in range(3)
    )
    assert store.verify().ok


def test_damage_is_told(bank: TicketBank, address: str) -> None:
    store = BankStore.create(address, bank)
    blob = f"blobs/{store.read().tickets[0].blob}.safetensors"
    data = store.storage.read(blob, 10**6)
    store.storage.replace(blob, data[:-1] + b"\xff")
    with pytest.raises(BankError, match="does not match its SHA-256"):
        store.load()[0]
    store.storage.replace(blob, data + b"x")
    with pytest.raises(BankError, match=f"has {len(data) + 1} bytes, at most {len(data)}"):
        store.load()[0]
    store.storage.remove(blob)
    store.storage.remove(blob)
    assert (store.storage.size(blob), store.storage.age(blob)) == (0, 0.0)
    with pytest.raises(BankError, match="is missing"):
        store.load()[0]
    with pytest.raises(BankError, match="it does not exist"):
        store.storage.read(blob, 10)


def test_a_store_that_overwrites_is_refused(
    bank: TicketBank, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = MemoryFileSystem.pipe_file

    def careless(self: Any, path: str, value: bytes, mode: str = "overwrite") -> None:
        real(self, path, value)

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", careless)
    with pytest.raises(BankError, match="overwrites files that it should only create"):
        save_bank(bank, address)
    with pytest.raises(BankError, match="there is no bank in 'memory://banks/one'"):
        load_bank(address)


def test_a_store_that_fails(
    bank: TicketBank, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError("no credentials")

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", denied)
    with pytest.raises(BankError, match=r"cannot write 'memory://banks/one/.*no credentials"):
        save_bank(bank, address)

    class OwnError(Exception):
        """As of botocore: no OSError."""

    def lost(*_: object, **__: object) -> None:
        raise OwnError("unable to locate credentials")

    monkeypatch.setattr(MemoryFileSystem, "ls", lost)
    with pytest.raises(BankError, match=r"cannot list 'memory://banks/one/.*unable to locate"):
        load_bank(address)


def test_fsspecs_own_local_files_keep_the_contract(bank: TicketBank, tmp_path: Path) -> None:
    """``file://`` takes the native way; through fsspec it is an object store like others."""
    for folder in ("blobs", "manifests", "tags", "tmp"):
        (tmp_path / folder).mkdir()
    storage = RemoteStorage(f"local://{tmp_path}")
    assert storage.create("tags/a.json", b"1")
    assert not storage.create("tags/a.json", b"2")
    assert (storage.read("tags/a.json", 9), storage.list("tags")) == (b"1", ["a.json"])
    storage.replace("tags/a.json", b"3")
    storage.touch("tags/a.json")
    assert (storage.read("tags/a.json", 9), storage.size("tags/a.json")) == (b"3", 1)
    assert 0 <= storage.age("tags/a.json") < 600
    storage.remove("tags/a.json")
    assert (storage.has("tags/a.json"), storage.list("tags"), storage.list("tmp")) == (
        False,
        [],
        [],
    )
    store = BankStore(storage)
    save_bank(bank, tmp_path / "native")
    for path in (tmp_path / "native").rglob("*.*"):
        storage.replace(path.relative_to(tmp_path / "native").as_posix(), path.read_bytes())
    assert store.verify().ok
    assert len(store.load()) == 3


def test_addresses(tmp_path: Path) -> None:
    assert isinstance(open_storage(tmp_path), LocalStorage)
    local = open_storage(f"file://{tmp_path}")
    assert isinstance(local, LocalStorage)
    assert local.root == tmp_path
    assert isinstance(open_storage("memory://x"), RemoteStorage)
    with pytest.raises(BankError, match=r"cannot open 'nosuch://x': .*rtl-continual\[remote\]"):
        open_storage("nosuch://x")
    storage = open_storage("memory://x")
    for name in ("../y", "blobs/../../y", "/y", "blobs/a/b"):
        with pytest.raises(BankError, match="is no name of a file in a bank"):
            storage.read(name, 10)
