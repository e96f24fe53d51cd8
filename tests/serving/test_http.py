"""The HTTP server: what it answers, what it refuses, and that versions come and go under load."""

from __future__ import annotations

import base64
import io
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from rtl_continual import load_bank
from rtl_continual.serving import Service
from rtl_continual.store import BankStore
from rtl_continual.tickets import TicketBank

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

Start = Callable[..., tuple[Service, Callable[..., tuple[int, Any]]]]
JSON = "application/json"


def noise(count: int, level: int, seed: int) -> torch.Tensor:
    """The images of ``conftest.py``: their brightness tells the router the ticket."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.rand(count, 3, 32, 32, generator=generator) * min(255, 40 + 30 * level)
    return pixels.to(torch.uint8)


def png(image: torch.Tensor) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "png")
    return file.getvalue()


def in_json(images: torch.Tensor) -> bytes:
    files = [base64.b64encode(png(image)).decode() for image in images]
    return json.dumps({"images": files}).encode()


def test_predictions_are_those_of_the_bank(start: Start, folder: Path) -> None:
    _, call = start()
    bank = load_bank(folder)
    images = torch.cat([noise(3, 0, 5), noise(3, 1, 6)])
    expected = bank.predict(images)
    status, found = call("POST", "/predict", in_json(images), JSON)
    assert status == 200
    assert (found["version"], found["manifest"]) == (1, bank.manifest)
    rows = found["predictions"]
    assert [row["label"] for row in rows] == expected.labels.tolist()
    assert [row["ticket"] for row in rows] == expected.ticket_ids.tolist() == [0, 0, 0, 1, 1, 1]
    assert [row["ticket_name"] for row in rows] == ["level 0"] * 3 + ["level 1"] * 3
    assert [row["class_name"] for row in rows] == [
        ("red", "green", "blue")[label] for label in expected.labels.tolist()
    ]
    status, one = call("POST", "/predict", png(images[4]), "image/png; charset=binary")
    assert (status, one["predictions"]) == (200, [rows[4]])


def test_health_version_and_metrics(start: Start, folder: Path) -> None:
    _, call = start()
    assert call("GET", "/health") == (200, {"status": "ok", "version": 1})
    status, found = call("GET", "/version")
    assert (status, found["tickets"], found["classes"]) == (
        200,
        ["level 0", "level 1"],
        ["red", "green", "blue"],
    )
    call("POST", "/predict", in_json(noise(3, 1, 0)), JSON)
    call("POST", "/predict", b"no image", "image/png")
    status, text = call("GET", "/metrics")
    assert status == 200
    for line in (
        'rtl_images_total{ticket="1",version="1"} 3',
        'rtl_requests_total{route="/predict",status="200"} 1',
        'rtl_requests_total{route="/predict",status="400"} 1',
        "rtl_bank_version 1",
        "rtl_queued_images 0",
        "rtl_batch_images_count 1",
        "rtl_request_seconds_count 2",
    ):
        assert line in text.splitlines()
    assert re.fullmatch(
        r"(# (HELP|TYPE) rtl_[a-z_]+ .+\n|rtl_[a-z_]+(\{[^}]*\})? [0-9.e+-]+\n)+", text
    )


def test_reload_goes_to_the_new_version(start: Start, folder: Path, grow: Any) -> None:
    _, call = start()
    assert call("POST", "/reload") == (200, {"changed": False, "version": 1})
    bank = load_bank(folder)
    grow(bank, "level 4", 4)
    BankStore.open(folder).commit(bank)
    assert call("GET", "/health")[1]["version"] == 1
    assert call("POST", "/reload") == (200, {"changed": True, "version": 2})
    status, found = call("POST", "/predict", png(noise(1, 4, 9)[0]), "image/png")
    assert (status, found["version"]) == (200, 2)
    assert found["predictions"][0]["ticket_name"] == "level 4"


def test_a_damaged_version_does_not_go_into_service(start: Start, folder: Path, grow: Any) -> None:
    service, call = start()
    bank = load_bank(folder)
    grow(bank, "level 4", 4)
    BankStore.open(folder).commit(bank)
    newest = folder / "manifests" / "00000002.json"
    newest.write_bytes(newest.read_bytes().replace(b"level", b"lever"))
    status, found = call("POST", "/reload")
    assert status == 500
    assert "damaged" in found["error"]
    assert call("POST", "/predict", png(noise(1, 0, 9)[0]), "image/png")[0] == 200
    assert 'rtl_reloads_total{result="failed"} 1' in service.metrics_text()


def test_a_watching_service_finds_the_new_version_by_itself(
    start: Start, folder: Path, grow: Any
) -> None:
    service, _ = start(watch=0.05)
    bank = load_bank(folder)
    grow(bank, "level 4", 4)
    BankStore.open(folder).commit(bank)
    for _ in range(200):
        if service.bank.version == 2:
            break
        threading.Event().wait(0.05)
    assert service.bank.version == 2


@pytest.mark.parametrize(
    ("body", "kind", "status", "message"),
    [
        (b"", "image/png", 400, "cannot be read as an image"),
        (b"GIF89a" + b"0" * 50, "image/gif", 400, "cannot be read as an image"),
        (b"x" * 5001, "image/png", 413, "at most 5000 bytes"),
        (b"x", "text/plain", 415, "application/json"),
        (b"{}", JSON, 400, "the body must be"),
        (b"[" * 4000, JSON, 400, "the body must be"),
        (b'{"images": []}', JSON, 400, "a list of 1 to 2 images"),
        (b'{"images": ["%%%"]}', JSON, 400, "the body must be"),
        (b'{"images": ["eA==", "eA==", "eA=="]}', JSON, 400, "a list of 1 to 2 images"),
        (b'{"images": ["eA=="]}', JSON, 400, "image 0 cannot be read"),
    ],
)
def test_bad_requests_are_refused(
    start: Start, body: bytes, kind: str, status: int, message: str
) -> None:
    _, call = start(max_body=5000, max_images=2)
    found, answer = call("POST", "/predict", body, kind)
    assert (found, message in answer["error"]) == (status, True), answer
    assert call("POST", "/predict", png(noise(1, 0, 0)[0]), "image/png")[0] == 200


def test_limits_hold_before_decoding(start: Start, tmp_path: Path) -> None:
    _, call = start(max_pixels=2000, max_body=10_000)
    large = io.BytesIO()
    Image.new("RGB", (50, 41)).save(large, "png")
    status, answer = call("POST", "/predict", large.getvalue(), "image/png")
    assert (status, "50 x 41 pixels, at most 2000" in answer["error"]) == (400, True)


def test_what_waits_too_long_or_is_too_much_is_refused(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, call = start(timeout=0.3, max_queue=1)
    go, real = threading.Event(), TicketBank.predict

    def slow(*arguments: Any, **options: Any) -> Any:
        go.wait()
        return real(*arguments, **options)

    monkeypatch.setattr(TicketBank, "predict", slow)
    body = png(noise(1, 0, 0)[0])
    try:
        status, answer = call("POST", "/predict", body, "image/png")
        assert (status, answer["error"]) == (503, "the service did not answer in time")
        call("POST", "/predict", body, "image/png")
        status, answer = call("POST", "/predict", body, "image/png")
        assert (status, "wait already" in answer["error"]) == (503, True)
    finally:
        go.set()


def test_a_body_that_does_not_come(start: Start, capfd: pytest.CaptureFixture[str]) -> None:
    service, call = start(timeout=0.3)
    place = ("127.0.0.1", call.args[0])  # type: ignore[attr-defined]
    lines = ("POST /predict HTTP/1.1", "Host: x", "Content-Type: image/png", "Content-Length: 99")
    part = "\r\n".join([*lines, "", "some"]).encode()
    with socket.create_connection(place, timeout=60) as client:
        client.sendall(part)
        assert client.recv(4096).startswith(b"HTTP/1.1 408 ")
    # One that goes in the middle is no error of the server's.
    with socket.create_connection(place, timeout=60) as client:
        client.sendall(part)
    for _ in range(200):
        if 'route="/predict",status="400"' in service.metrics_text():
            break
        time.sleep(0.02)
    assert 'rtl_requests_total{route="/predict",status="400"} 1' in service.metrics_text()
    assert "Traceback" not in capfd.readouterr().err
    assert call("POST", "/predict", png(noise(1, 0, 0)[0]), "image/png")[0] == 200


def test_no_request_fails_and_no_answer_mixes_versions(
    start: Start, folder: Path, grow: Any
) -> None:
    """Eight clients, while twelve versions are added and rolled back."""
    _, call = start(max_wait_ms=2, max_batch=16)
    store = BankStore.open(folder)
    images = torch.stack([noise(4, level, 50) for level in range(5)], dim=1).flatten(0, 1)
    bodies = [in_json(images[start : start + 5]) for start in range(0, 20, 5)]
    done = threading.Event()
    answers: list[tuple[int, int, Any]] = []

    def ask(client: int) -> None:
        number = client
        while not done.is_set():
            which = number % len(bodies)
            status, found = call("POST", "/predict", bodies[which], JSON)
            answers.append((which, status, found))
            number += 1

    with ThreadPoolExecutor(8) as clients:
        running = [clients.submit(ask, client) for client in range(8)]
        try:
            for step in range(12):
                if step % 3 == 2:
                    store.rollback(1 + step // 3)
                else:
                    bank = load_bank(folder)
                    # After a rollback, other tickets get the ids of those that went.
                    level = 2 + step % 3
                    grow(bank, f"level {level} of step {step}", level)
                    store.commit(bank)
                status, found = call("POST", "/reload")
                assert (status, found["version"]) == (200, step + 2)
        finally:
            done.set()
        for client in running:
            client.result()
    assert {status for _, status, _ in answers} == {200}
    versions = {found["version"] for _, _, found in answers}
    assert len(versions) >= 6, "the clients saw too few of the versions to say anything"
    for version in versions:
        bank = load_bank(folder, version)
        expected = bank.predict(images)
        for which, _, found in answers:
            if found["version"] != version:
                continue
            assert found["manifest"] == bank.manifest
            rows = slice(5 * which, 5 * which + 5)
            tickets = expected.ticket_ids[rows].tolist()
            assert [row["ticket"] for row in found["predictions"]] == tickets
            assert [row["ticket_name"] for row in found["predictions"]] == [
                bank.names[ticket] for ticket in tickets
            ]
            assert [row["label"] for row in found["predictions"]] == expected.labels[rows].tolist()


def test_the_command_serves_and_ends_in_order(folder: Path) -> None:
    command = [sys.executable, "-m", "rtl_continual", "serve", str(folder), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            match = re.fullmatch(r"serving version 1 of \S+ on http://127.0.0.1:(\d+)\n", line)
            assert match, line
            connection = HTTPConnection("127.0.0.1", int(match[1]), timeout=60)
            connection.request(
                "POST", "/predict", png(noise(1, 0, 0)[0]), {"Content-Type": "image/png"}
            )
            assert json.loads(connection.getresponse().read())["version"] == 1
            connection.close()
            server.send_signal(signal.SIGTERM)
            assert server.wait(timeout=60) == 0
        finally:
            server.kill()
