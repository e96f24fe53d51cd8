"""A bank in a bucket of a real S3-compatible server that runs here."""

from __future__ import annotations

import logging
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from rtl_continual import load_bank
from rtl_continual.errors import BankError
from rtl_continual.store import BankStore, save_bank
from rtl_continual.tickets import Ticket, TicketBank

fsspec: Any = pytest.importorskip("fsspec")
moto_server: Any = pytest.importorskip("moto.server")
pytest.importorskip("s3fs")

Grow = Callable[..., Ticket]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    yield f"http://127.0.0.1:{port}"
    server.stop()


@pytest.fixture
def address(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """As a user would have it: credentials and endpoint from the environment."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    bucket = f"banks-{uuid.uuid4().hex}"
    fsspec.filesystem("s3", skip_instance_cache=True).mkdir(bucket)
    return f"s3://{bucket}/one"


def test_all_that_a_bank_does(
    bank: TicketBank, address: str, images: torch.Tensor, grow: Grow
) -> None:
    assert save_bank(bank, address).version == 1
    service = load_bank(address)
    grow(bank, "t3", seed=3)
    assert save_bank(bank, address, message="night 1").version == 2
    store = BankStore.open(address)
    store.tag("production", 1)
    assert service.reload()
    assert torch.equal(service.predict(images).outputs, bank.predict(images).outputs)
    assert len(load_bank(address, tag="production")) == 3
    store.tag("production", 2)
    assert store.tags() == {"production": 2}
    assert store.rollback(1).version == 3
    assert store.verify().problems == ()
    assert [row["operation"] for row in store.history()] == ["create", "commit", "rollback"]
    store.untag("production")
    assert store.gc(grace=0, keep=1)["retired"] == [1, 2]
    assert store.verify().ok
    with pytest.raises(BankError, match="there is no bank in"):
        load_bank(f"{address}/other")


def test_writers_at_the_same_time_lose_nothing(bank: TicketBank, address: str, grow: Grow) -> None:
    """There are no locks in a bucket: the conditional write of the manifest decides."""
    bank.router = None
    save_bank(bank, address)
    start = threading.Barrier(3)

    def work(writer: int) -> None:
        start.wait()
        for number in range(2):
            mine = BankStore.open(address).load(backbone=bank.backbone)
            grow(mine, f"{writer}-{number}", seed=writer)
            BankStore.open(address).commit(mine)

    with ThreadPoolExecutor(3) as writers:
        list(writers.map(work, range(3)))
    store = BankStore.open(address)
    assert store.verify().ok
    assert (store.head(), len(store.load())) == (7, 9)


def test_a_blob_that_was_changed_in_the_bucket_is_found(bank: TicketBank, address: str) -> None:
    save_bank(bank, address)
    system = fsspec.filesystem("s3", skip_instance_cache=True)
    blob = min(system.ls(f"{address}/blobs", detail=False))
    system.pipe_file(blob, b"x" + system.cat_file(blob)[1:])
    report = BankStore.open(address).verify()
    assert len(report.problems) == 1
    assert blob.rpartition("/")[2] in report.problems[0]
