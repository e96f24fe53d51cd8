"""The service without HTTP: batches, failures, threads, the end."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from rtl_continual import load_bank
from rtl_continual.errors import DataError
from rtl_continual.serving import OverloadedError, ServeConfig, Service
from rtl_continual.store import BankStore
from rtl_continual.tickets import TicketBank


def images(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(count, 3, 32, 32, generator=generator) * 70).to(torch.uint8)


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Images of every pass through the bank."""
    seen: list[int] = []
    real = TicketBank.predict

    def predict(self: TicketBank, given: torch.Tensor, **options: Any) -> Any:
        seen.append(len(given))
        return real(self, given, **options)

    monkeypatch.setattr(TicketBank, "predict", predict)
    return seen


def test_requests_share_batches_that_hold_whole_requests(folder: Path, sizes: list[int]) -> None:
    with Service(load_bank(folder), ServeConfig(max_batch=8, max_wait_ms=400)) as service:
        futures = [service.submit(images(3, seed)) for seed in range(5)]
        found = [future.result(timeout=60) for future in futures]
    assert [len(one.answers) for one in found] == [3] * 5
    assert sum(sizes) == 15
    assert max(sizes) == 6
    alone = load_bank(folder).predict(images(3, 4))
    assert [answer.label for answer in found[4].answers] == alone.labels.tolist()


def test_a_request_that_fails_fails_alone(folder: Path) -> None:
    bad = torch.full((1, 3, 32, 32), float("nan"))
    with Service(load_bank(folder), ServeConfig(max_wait_ms=400)) as service:
        good = service.submit(images(2).float() / 255)
        failing = service.submit(bad)
        other = service.submit(images(2, 1).float() / 255)
        assert len(good.result(timeout=60).answers) == len(other.result(timeout=60).answers) == 2
        with pytest.raises(DataError, match="not finite"):
            failing.result(timeout=60)


def test_requests_of_other_types_are_not_mixed(folder: Path, sizes: list[int]) -> None:
    with Service(load_bank(folder), ServeConfig(max_wait_ms=100)) as service:
        first = service.submit(images(2))
        second = service.submit(images(2).float() / 255)
        assert first.result(timeout=60).answers[0].label == second.result().answers[0].label
    assert sizes == [2, 2]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (images(5), "a request holds 1 to 4 images, got 5"),
        (images(0), "got 0"),
        (torch.zeros(1, 3, 8, 8), "images must be"),
    ],
)
def test_what_does_not_fit_is_refused_at_once(
    folder: Path, given: torch.Tensor, message: str
) -> None:
    with (
        Service(load_bank(folder), ServeConfig(max_images=4)) as service,
        pytest.raises(DataError, match=message),
    ):
        service.submit(given)


def test_closing_answers_what_waits_and_takes_no_more(folder: Path) -> None:
    service = Service(load_bank(folder), ServeConfig(max_batch=2, max_wait_ms=50))
    futures = [service.submit(images(2, seed)) for seed in range(6)]
    service.close()
    assert all(future.done() and future.exception() is None for future in futures)
    with pytest.raises(OverloadedError, match="closing"):
        service.submit(images(1))
    service.close()


def test_cancelled_requests_are_left_out(folder: Path, sizes: list[int]) -> None:
    with Service(load_bank(folder), ServeConfig(max_wait_ms=300)) as service:
        first, second = service.submit(images(1)), service.submit(images(2))
        second.cancel()
        first.result(timeout=60)
    assert sum(sizes) == 1


def test_threads_predict_the_same_bits_while_versions_change(folder: Path, grow: Any) -> None:
    """Each call is answered by one version; its outputs are that version's, bit by bit."""
    store = BankStore.open(folder)
    bank = load_bank(folder, cache_bytes=1)
    x = torch.cat([images(4), images(4, 1) // 3])
    seen: list[tuple[int, torch.Tensor, torch.Tensor]] = []
    done = threading.Event()

    def work() -> None:
        while not done.is_set():
            now = bank.snapshot()
            answer = now.predict(x)
            seen.append((now.version, answer.ticket_ids, answer.outputs))

    with ThreadPoolExecutor(4) as threads:
        running = [threads.submit(work) for _ in range(4)]
        try:
            for step in range(6):
                if step % 3 == 2:
                    store.rollback(1)
                else:
                    other = load_bank(folder)
                    grow(other, f"step {step}", 2 + step)
                    store.commit(other)
                assert bank.reload()
        finally:
            done.set()
        for thread in running:
            thread.result()
    for version in {version for version, _, _ in seen}:
        expected = load_bank(folder, version).predict(x)
        for number, ids, outputs in seen:
            if number == version:
                assert torch.equal(ids, expected.ticket_ids)
                assert torch.equal(outputs, expected.outputs)
