"""A stored bank whose versions answer differently, and a server on the loopback."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from rtl_continual import load_bank
from rtl_continual.backbones import Backbone, build_backbone
from rtl_continual.routing import FeatureMixture, FlatRouter, FlatRouterConfig
from rtl_continual.serving import ServeConfig, Service
from rtl_continual.store import BankStore
from rtl_continual.tasks import Classification
from rtl_continual.tickets import Mask, Ticket, TicketBank, TicketInfo

Grow = Callable[..., None]
CLASSES = ("red", "green", "blue")


@pytest.fixture(scope="session")
def backbone() -> Backbone:
    return build_backbone("glyphnet", weights="random:0", width=4)


def noise(count: int, level: int, seed: int) -> torch.Tensor:
    """Images ``uint8 [count, 3, 32, 32]``; their brightness tells the router the ticket."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.rand(count, 3, 32, 32, generator=generator) * min(255, 40 + 30 * level)
    return pixels.to(torch.uint8)


@pytest.fixture(scope="session")
def grow() -> Grow:
    """Append a ticket with random numbers, for images of one brightness."""

    def grown(bank: TicketBank, name: str, level: int) -> None:
        generator = torch.Generator().manual_seed(level)
        body = bank.backbone.body.state_dict()
        head = bank.task.build_head(bank.backbone.feature_dim).state_dict()
        features = bank.backbone.run_trunk(noise(12, level, level)).router_features
        ticket = Ticket(
            id=len(bank),
            mask=Mask.from_flat(
                bank.layout, torch.rand(bank.layout.total, generator=generator) > 0.5
            ),
            norm={key: body[key] for key in bank.norm_names},
            head={key: torch.randn(t.shape, generator=generator) for key, t in head.items()},
            statistics=FeatureMixture.fit(features, rank=4, components=1).tensors(),
            info=TicketInfo(name),
        )
        bank.append(ticket)
        assert isinstance(bank.router, FlatRouter)
        bank.router.add(FeatureMixture(ticket.statistics))

    return grown


@pytest.fixture
def folder(backbone: Backbone, grow: Grow, tmp_path: Path) -> Path:
    """Version 1: tickets for two levels of brightness."""
    router = FlatRouter(FlatRouterConfig(samples_per_ticket=32, iterations=20))
    bank = TicketBank(backbone, Classification(3, CLASSES), router)
    for level in range(2):
        grow(bank, f"level {level}", level)
    BankStore.create(tmp_path / "bank", bank)
    return tmp_path / "bank"


Call = Callable[..., tuple[int, Any]]


def request(
    port: int, method: str, path: str, body: bytes | None = None, kind: str = "image/png"
) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body, {"Content-Type": kind} if body is not None else {})
        response = connection.getresponse()
        content = response.read()
        is_json = "json" in response.headers["Content-Type"]
        return response.status, json.loads(content) if is_json else content.decode()
    finally:
        connection.close()


@contextmanager
def serving(service: Service) -> Iterator[int]:
    """A server in a thread; gives its port."""
    import uvicorn

    from rtl_continual.serving import create_app
    from rtl_continual.serving._command import _listen

    listening = _listen("127.0.0.1", 0)
    config = uvicorn.Config(create_app(service), log_level="warning", access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        until = time.monotonic() + 60
        while not server.started:
            assert thread.is_alive()
            assert time.monotonic() < until
            time.sleep(0.01)
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[..., tuple[Service, Call]]]:
    """Serve :func:`folder`; gives the service and a client."""
    stack = []

    def started(**options: Any) -> tuple[Service, Call]:
        service = Service(load_bank(folder), ServeConfig(**options))
        server = serving(service)
        stack.append(server)
        port = server.__enter__()
        return service, partial(request, port)

    yield started
    for server in stack:
        server.__exit__(None, None, None)
