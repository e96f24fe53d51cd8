"""What a new version changes for given images, input by input, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from rtl_continual.backbones import Backbone
from rtl_continual.store._store import BankStore
from rtl_continual.tickets import Prediction, TicketBank

__all__ = ["Change", "Replay", "replay"]


@dataclass(frozen=True)
class Change:
    """One input that two versions answer differently.

    Args:
        index: position among the images.
        name: of the input, where it has one.
        old_ticket: id in the old version; -1 where its router abstained.
        new_ticket: id in the new version.
        old_label: decided label; -1 where the router abstained.
        new_label: decided label.
        old_confidence: of the old router.
        new_confidence: of the new router.
        reason: why.
    """

    index: int
    name: str
    old_ticket: int
    new_ticket: int
    old_label: int
    new_label: int
    old_confidence: float
    new_confidence: float
    reason: str


@dataclass(frozen=True)
class Replay:
    """Two versions on the same images.

    Args:
        old: the old version's number.
        new: the new version's number.
        images: how many images were looked at.
        same_ticket: how many went to the same ticket in both.
        bit_equal: how many of those got the same bits from that ticket in both versions.
        changes: every input whose ticket or output changed.
    """

    old: int
    new: int
    images: int
    same_ticket: int
    bit_equal: int
    changes: tuple[Change, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        reasons: dict[str, int] = {}
        for change in self.changes:
            reasons[change.reason] = reasons.get(change.reason, 0) + 1
        values = asdict(self)
        return values | {"changes": list(values["changes"]), "reasons": reasons}


def replay(
    store: BankStore,
    images: torch.Tensor,
    old: int,
    new: int,
    *,
    names: Sequence[str] | None = None,
    batch_size: int = 256,
    backbone: Backbone | None = None,
    cache_bytes: int = 256 * 2**20,
) -> Replay:
    """Predict with two versions and list every input whose ticket or output changed.

    Inputs that keep their ticket are also run through it in both versions, grouped alike, so
    that their outputs can be compared bit by bit.

    Args:
        store: the bank.
        images: ``[batch, channels, height, width]``, as :meth:`TicketBank.predict` takes them.
        old: a version.
        new: another one.
        names: of the images, for the list.
        batch_size: images per trunk pass.
        backbone: as for :func:`load_bank`.
        cache_bytes: memory for each version's tickets.

    Raises:
        BankError: if a version is missing or damaged.
        DataError: if the images are not what the backbone takes.
    """
    before = store.load(old, backbone=backbone, cache_bytes=cache_bytes)
    after = store.load(new, backbone=before.backbone, cache_bytes=cache_bytes)
    a = before.predict(images, batch_size=batch_size)
    b = after.predict(images, batch_size=batch_size)
    same = (a.ticket_ids == b.ticket_ids) & (a.ticket_ids >= 0)
    rows = torch.nonzero(same).flatten()
    equal = torch.zeros(len(images), dtype=torch.bool)
    if len(rows):
        given = a.ticket_ids[rows]
        chosen = images[rows.to(images.device)]
        x = before.predict(chosen, ticket_ids=given, batch_size=batch_size).outputs
        y = after.predict(chosen, ticket_ids=given, batch_size=batch_size).outputs
        equal[rows] = (x == y).all(dim=1)
    close = torch.isclose(a.outputs, b.outputs, rtol=1e-4, atol=1e-5, equal_nan=True).all(dim=1)
    unchanged = ((same & equal) | ((a.ticket_ids < 0) & (b.ticket_ids < 0))) & close
    unchanged &= a.labels == b.labels
    changes = tuple(
        _change(i, a, b, before, after, bool(equal[i]), names[i] if names else str(i))
        for i in torch.nonzero(~unchanged).flatten().tolist()
    )
    return Replay(old, new, len(images), int(same.sum()), int((same & equal).sum()), changes)


def _change(
    index: int,
    a: Prediction,
    b: Prediction,
    before: TicketBank,
    after: TicketBank,
    equal: bool,
    name: str,
) -> Change:
    old, new = int(a.ticket_ids[index]), int(b.ticket_ids[index])
    return Change(
        index=index,
        name=name,
        old_ticket=old,
        new_ticket=new,
        old_label=int(a.labels[index]),
        new_label=int(b.labels[index]),
        old_confidence=float(a.confidence[index]),
        new_confidence=float(b.confidence[index]),
        reason=_reason(old, new, before, after, equal),
    )


def _reason(old: int, new: int, before: TicketBank, after: TicketBank, equal: bool) -> str:
    if new < 0:
        return "the new router abstains"
    if old < 0:
        return f"the old router abstained; the new one prefers ticket {new} '{after.names[new]}'"
    if old == new:
        if before.names[old] != after.names[new]:
            return f"ticket {new} is '{after.names[new]}', no longer '{before.names[old]}'"
        if equal:
            return "the router mixes the same tickets with other weights"
        return f"ticket {new} '{after.names[new]}' has changed: run 'rtl bank verify'"
    if after.names[new] in before.names:
        return f"the router now prefers ticket {new} '{after.names[new]}', which was there before"
    return f"the router now prefers the new ticket {new} '{after.names[new]}'"
