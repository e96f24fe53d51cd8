"""Requests from many clients in common batches, each answered by one version as a whole."""

from __future__ import annotations

import queue
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import torch

from rtl_continual.errors import DataError, RTLError
from rtl_continual.serving._config import ServeConfig
from rtl_continual.serving._metrics import Metrics
from rtl_continual.store import StoredBank

__all__ = ["Answer", "Answered", "OverloadedError", "Service"]


class OverloadedError(RTLError):
    """More requests wait than the service takes on, or it is closing."""


@dataclass(frozen=True)
class Answer:
    """What the bank says of one image.

    Args:
        label: -1 where the router abstained.
        class_name: its name; empty where the router abstained.
        ticket: the ticket's id; -1 where the router abstained.
        ticket_name: its name; empty where the router abstained.
        confidence: the router's, 0..1.
    """

    label: int
    class_name: str
    ticket: int
    ticket_name: str
    confidence: float


@dataclass(frozen=True)
class Answered:
    """A request's answers, all of one version.

    Args:
        version: of the bank.
        manifest: hash of that version's manifest.
        answers: one for each image, in order.
    """

    version: int
    manifest: str
    answers: tuple[Answer, ...]


@dataclass
class _Request:
    images: torch.Tensor
    future: Future[Answered]


class Service:
    """A bank in service: a queue, one thread that predicts, and one that looks for new versions.

    Args:
        bank: of :func:`rtl_continual.load_bank`.
        config: limits and batching.

    Example:
        >>> import tempfile, torch
        >>> from rtl_continual import load_bank
        >>> bank = load_bank("tests/fixtures/bank-v1")
        >>> with Service(bank) as service:
        ...     found = service.submit(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).result()
        >>> found.version, len(found.answers)
        (4, 2)
    """

    def __init__(self, bank: StoredBank, config: ServeConfig | None = None) -> None:
        self.bank = bank
        self.config = config or ServeConfig()
        self.metrics = Metrics()
        self._waiting: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._queued = 0
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._note_version()
        self._threads = [threading.Thread(target=self._work, name="rtl-predict", daemon=True)]
        if self.config.watch:
            watcher = threading.Thread(target=self._watch, name="rtl-watch", daemon=True)
            self._threads.append(watcher)
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, images: torch.Tensor) -> Future[Answered]:
        """Queue a request; its images go through the network together.

        Args:
            images: ``[images, channels, height, width]``.

        Raises:
            DataError: if they are too many, or not what the backbone takes.
            OverloadedError: if too many others wait, or the service is closing.
        """
        most = min(self.config.max_images, self.config.max_batch)
        if not 1 <= len(images) <= most:
            raise DataError(f"a request holds 1 to {most} images, got {len(images)}")
        self.bank.backbone.check_images(images)
        request = _Request(images, Future())
        with self._lock:
            if self._closing.is_set():
                raise OverloadedError("the service is closing")
            if self._queued + len(images) > self.config.max_queue:
                raise OverloadedError(f"{self._queued} images wait already; try again later")
            self._queued += len(images)
            # Under the lock, so that nothing is queued behind the end that close() puts there.
            self._waiting.put(request)
        return request.future

    def reload(self) -> bool:
        """Go to the version that the bank follows; requests are answered meanwhile.

        Returns:
            Whether another version is in service now.

        Raises:
            BankError: if it cannot be opened; then the old one stays in service.
        """
        try:
            changed = self.bank.reload()
        except RTLError:
            self.metrics.count("rtl_reloads_total", result="failed")
            raise
        self.metrics.count("rtl_reloads_total", result="changed" if changed else "unchanged")
        self._note_version()
        return changed

    def close(self) -> None:
        """Take no more requests, answer those that wait, and end."""
        with self._lock:
            first = not self._closing.is_set()
            self._closing.set()
            if first:
                self._waiting.put(None)
        for thread in self._threads:
            thread.join()

    def metrics_text(self) -> str:
        """For Prometheus."""
        self.metrics.set("rtl_queued_images", self._queued)
        return self.metrics.text()

    def _note_version(self) -> None:
        now = self.bank.snapshot()
        self.metrics.set("rtl_bank_version", now.version)
        self.metrics.set("rtl_bank_tickets", len(now))

    def _watch(self) -> None:
        while not self._closing.wait(self.config.watch):
            try:
                self.reload()
            except RTLError:
                # Counted in the metrics; the version in service stays, and the next look may do.
                continue

    def _work(self) -> None:
        left: _Request | None = None
        while True:
            first = left if left is not None else self._waiting.get()
            if first is None:
                return
            batch, left, ended = self._gather(first)
            self._answer(batch)
            if ended:
                if left is not None:
                    self._answer([left])
                return

    def _gather(self, first: _Request) -> tuple[list[_Request], _Request | None, bool]:
        """Requests for one batch, the one that no longer fits, and whether the end has come."""
        batch, count = [first], len(first.images)
        until = time.monotonic() + self.config.max_wait_ms / 1000
        while count < self.config.max_batch:
            try:
                following = self._waiting.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                return batch, None, False
            if following is None:
                return batch, None, True
            fits = count + len(following.images) <= self.config.max_batch
            if not fits or not _alike(first.images, following.images):
                return batch, following, False
            batch.append(following)
            count += len(following.images)
        return batch, None, False

    def _answer(self, batch: list[_Request]) -> None:
        with self._lock:
            self._queued -= sum(len(request.images) for request in batch)
        batch = [request for request in batch if request.future.set_running_or_notify_cancel()]
        if not batch:
            return
        # Everything that an answer says comes from this one version.
        now = self.bank.snapshot()
        try:
            answers = self._predict(now, torch.cat([request.images for request in batch]))
        except Exception as error:
            if len(batch) == 1:
                batch[0].future.set_exception(error)
                return
            # One request that cannot be answered must not fail those that share its batch.
            for request in batch:
                try:
                    alone = self._predict(now, request.images)
                except Exception as own:
                    request.future.set_exception(own)
                else:
                    request.future.set_result(Answered(now.version, now.manifest, alone))
            return
        start = 0
        for request in batch:
            end = start + len(request.images)
            request.future.set_result(Answered(now.version, now.manifest, answers[start:end]))
            start = end

    def _predict(self, bank: StoredBank, images: torch.Tensor) -> tuple[Answer, ...]:
        try:
            found = bank.predict(images, batch_size=max(len(images), 1))
        except SystemExit as error:  # it would end this thread alone, and leave requests waiting
            raise RuntimeError(f"code asked the server to end ({error})") from error
        self.metrics.observe("rtl_batch_images", len(images))
        columns: tuple[Any, ...] = (found.labels, found.ticket_ids, found.confidence)
        answers = tuple(
            Answer(
                label=label,
                class_name=bank.class_name(label),
                ticket=ticket,
                ticket_name=bank.names[ticket] if ticket >= 0 else "",
                confidence=confidence,
            )
            for label, ticket, confidence in zip(*(c.tolist() for c in columns), strict=True)
        )
        for answer in answers:
            self.metrics.count(
                "rtl_images_total", version=str(bank.version), ticket=str(answer.ticket)
            )
        return answers


def _alike(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape[1:] == b.shape[1:] and a.dtype == b.dtype
