"""A bank that was opened from a folder: predicts on anything, reloads, and learns more."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel

from rtl_continual.errors import BankError
from rtl_continual.store._manifest import Manifest
from rtl_continual.tickets import Prediction, TicketBank

if TYPE_CHECKING:
    from rtl_continual.store._add_config import AddConfig
    from rtl_continual.store._addition import Addition
    from rtl_continual.store._store import BankStore
    from rtl_continual.streams import ImageSet

__all__ = ["Opened", "StoredBank"]


@dataclass(frozen=True)
class Opened:
    """How a bank was opened, so that it can be opened again.

    Args:
        store: the bank on disk.
        version: the version asked for; ``None`` follows the newest.
        tag: the tag to follow.
        router: options of another router than the stored one.
        cache_bytes: memory for tickets.
        device: where it predicts.
    """

    store: BankStore
    version: int | None = None
    tag: str | None = None
    router: BaseModel | None = None
    cache_bytes: int = 256 * 2**20
    device: str | torch.device | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def number(self) -> int:
        """The version that this bank should be at now."""
        if self.tag is not None:
            return self.store.tagged(self.tag)
        return self.store.head() if self.version is None else self.version


class StoredBank(TicketBank):
    """What :func:`load_bank` gives: one version of a stored bank, and the way to the next.

    Threads may predict while another one reloads: each call is answered by one version as a whole.
    """

    opened: Opened

    def snapshot(self) -> StoredBank:
        """This bank at its version now; it stays there whatever :meth:`reload` does."""
        return copy.copy(self)

    def predict(
        self,
        images: Any,
        *,
        ticket_ids: torch.Tensor | Sequence[int] | int | None = None,
        batch_size: int = 256,
    ) -> Prediction:
        """Route each image and run it through its ticket; see :meth:`TicketBank.predict`.

        Args:
            images: a tensor ``[batch, channels, height, width]``; a NumPy array with the channels
                first or last, or of a single image; a PIL image or a file's path; or a list of
                PIL images, paths and arrays.
            ticket_ids: use these tickets instead of the router's.
            batch_size: images per trunk pass.

        Raises:
            BankError: as for any bank.
            DataError: if the images are not what the backbone takes, or a file cannot be read.
        """
        now = self.snapshot()
        if not isinstance(images, torch.Tensor):
            from rtl_continual.store._images import as_images  # Decoders, which tensors need not.

            images = as_images(images, now.backbone.input_spec)
        return TicketBank.predict(now, images, ticket_ids=ticket_ids, batch_size=batch_size)

    def class_name(self, label: int) -> str:
        """The name of a label; its number where the bank has no names, empty for none."""
        if label < 0:
            return ""
        names = getattr(self.task, "classes", None)
        return str(label) if names is None else str(names[label])

    def reload(self) -> bool:
        """Go to the version that is followed: the newest, or the one that the tag names now.

        The backbone stays. Tickets that are in memory and in both versions are read before the
        change, so that no request waits for them. If the new version cannot be opened, this bank
        stays at the old one.

        Returns:
            Whether it is another version now.

        Raises:
            BankError: if the version or tag is missing or damaged, or this bank holds tickets
                that are not committed.
        """
        with self.opened.lock:
            opened = self.opened
            before, target = opened.store.read(self.version), opened.store.read(opened.number())
            # A commit that went behind others' leaves this bank at its old version.
            stored = {entry.fingerprint for entry in target.tickets}
            own = (self[index] for index in range(len(before.tickets), len(self)))
            lost = [ticket.name for ticket in own if ticket.fingerprint not in stored]
            if lost:
                raise BankError(
                    f"tickets of this bank are not in the version to go to: {', '.join(lost)}; "
                    "commit them, or load the bank again"
                )
            if (target.version, target.sha256) == (self.version, self.manifest):
                return False
            fresh = opened.store.load(
                opened.version,
                tag=opened.tag,
                backbone=self.backbone,
                router=opened.router,
                cache_bytes=opened.cache_bytes,
                device=opened.device,
            )
            after = opened.store.read(fresh.version)
            for ticket_id in _held_by_both(self.prepared, before, after):
                fresh.prepare(ticket_id)
            # The lock that others wait for stays, and so does what was set here.
            fresh.opened, fresh.executor = opened, self.executor
            # One assignment: whoever takes a snapshot sees the old version or the new one.
            self.__dict__ = fresh.__dict__
            return True

    def add(
        self,
        data: str | Path | ImageSet,
        *,
        labels: str | Path | None = None,
        name: str = "",
        config: AddConfig | None = None,
        tag: str | None = None,
        message: str = "",
        dry_run: bool = False,
        on_progress: Callable[[str], None] | None = None,
    ) -> Addition:
        """Look at new data, learn the tickets that they need, and commit those that help.

        It starts from the newest version, whatever version this bank is at, and works on a
        backbone of its own, so that other threads may predict meanwhile. Afterwards this bank goes
        to the version that it follows.

        Args:
            data: a folder per class, ``domain/class`` folders, a folder with a list of ``labels``,
                or a data set.
            labels: a list file: lines of a path below the folder, a blank, and a class.
            name: of the new ticket; by default that of the folder.
            config: options.
            tag: let this tag name the new version.
            message: kept with the version.
            dry_run: do everything but the commit.
            on_progress: is told in words what is going on.

        Returns:
            What was found, learned, and changed.

        Raises:
            BankError: if the bank cannot be extended.
            DataError: if the data cannot be read, or have classes that the bank has not.
        """
        from rtl_continual.store._add import add_tickets

        found = add_tickets(
            self.opened.store,
            data,
            labels=labels,
            name=name,
            config=config,
            tag=tag,
            message=message,
            dry_run=dry_run,
            backbone=copy.deepcopy(self.backbone),
            on_progress=on_progress,
        )
        if found.version is not None:
            self.reload()
        return found


def _held_by_both(cached: Sequence[int], before: Manifest, after: Manifest) -> list[int]:
    """Those of the cached tickets that the next version has too, in their order."""
    both = min(len(before.tickets), len(after.tickets))
    return [i for i in cached if i < both and before.tickets[i] == after.tickets[i]]
