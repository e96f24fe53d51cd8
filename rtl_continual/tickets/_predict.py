"""Predicting with a bank: one trunk pass, a ticket for each image, grouped by ticket."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from rtl_continual.errors import BankError, DataError
from rtl_continual.tickets._executor import take_rows

if TYPE_CHECKING:
    from rtl_continual.tickets._bank import TicketBank

__all__ = ["Prediction", "predict"]


@dataclass(frozen=True)
class Prediction:
    """What a bank says of a batch, in input order.

    Args:
        outputs: ``[batch, classes]``; ``nan`` rows where the router abstained.
        ticket_ids: ``int64 [batch]``; -1 where the router abstained.
        confidence: the router's confidence ``[batch]`` in 0..1.
        labels: decided labels ``[batch]``; -1 where the router abstained.
    """

    outputs: torch.Tensor
    ticket_ids: torch.Tensor
    confidence: torch.Tensor
    labels: torch.Tensor


@torch.inference_mode()
def predict(
    bank: TicketBank,
    images: torch.Tensor,
    *,
    ticket_ids: torch.Tensor | Sequence[int] | int | None,
    batch_size: int,
) -> Prediction:
    """What :meth:`TicketBank.predict` answers; see there."""
    if not len(bank):
        raise BankError("the bank is empty: add a ticket before predicting")
    bank.backbone.check_images(images)
    bank.backbone.check_values(images)
    given = None if ticket_ids is None else _check_ids(bank, ticket_ids, len(images))
    if given is None and bank.router is None:
        raise BankError("the bank has no router: set one, or name the tickets to use")
    device = bank.backbone.mean.device
    parts: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = [
        _predict_batch(
            bank,
            images[start : start + batch_size].to(device, memory_format=torch.channels_last),
            None if given is None else given[start : start + batch_size],
            start,
        )
        for start in range(0, max(len(images), 1), batch_size)
    ]
    outputs, ids, confidence = (torch.cat(column).cpu() for column in zip(*parts, strict=True))
    labels = torch.where(ids < 0, -1, bank.task.decide(outputs.nan_to_num()))
    return Prediction(outputs, ids, confidence, labels)


def _check_ids(
    bank: TicketBank, ticket_ids: torch.Tensor | Sequence[int] | int, count: int
) -> torch.Tensor:
    ids = torch.as_tensor(ticket_ids, dtype=torch.int64).cpu()
    if ids.shape not in ((), (count,)):
        raise BankError(
            f"ticket_ids must be one number or one for each of {count} images, got "
            f"{list(ids.shape)}"
        )
    if count and not -1 <= int(ids.min()) <= int(ids.max()) < len(bank):
        raise BankError(
            f"ticket_ids must be 0 to {len(bank) - 1}, or -1 for none, got {int(ids.min())} "
            f"to {int(ids.max())}"
        )
    return ids.expand(count)


def _predict_batch(
    bank: TicketBank, images: torch.Tensor, given: torch.Tensor | None, start: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    activation, features = bank.run_trunk(images)
    finite = torch.isfinite(features).all(dim=1)
    if not finite.all():
        bad = start + int((~finite).nonzero()[0])
        raise DataError(f"image {bad} of the batch gives trunk statistics that are not finite")
    outputs = torch.full((len(images), bank.task.num_outputs), torch.nan, device=images.device)
    if given is not None:
        ids, weights = given[:, None], torch.ones(len(images), 1)
        confidence = torch.ones(len(images))
    else:
        ids, weights, confidence = _route(bank, activation, features)
    ids = ids.cpu()
    if ids.shape[1] == 1:
        rows = torch.nonzero(ids[:, 0] >= 0).flatten()
        if len(rows) == len(ids) > 0:
            outputs = _execute(bank, activation, ids[:, 0])
        elif len(rows):
            where = rows.to(outputs.device)
            part = take_rows(activation, where)
            outputs[where] = _execute(bank, part, ids[rows, 0])
        return outputs, ids[:, 0], confidence
    return _mix(bank, outputs, activation, ids, weights), ids[:, 0], confidence


def _route(bank: TicketBank, activation: torch.Tensor, features: torch.Tensor) -> Any:
    """The router's answer; one that asks for outputs gets those of the tickets it names."""
    assert bank.router is not None
    ask = getattr(bank.router, "route_by_outputs", None)
    if ask is None:
        return _check_answer(bank, bank.router.route(features), len(features))

    def outputs_of(ticket_id: int, rows: torch.Tensor) -> torch.Tensor:
        return bank.run_ticket(ticket_id, take_rows(activation, rows.to(activation.device)))

    return _check_answer(bank, ask(features, outputs_of), len(features))


def _check_answer(bank: TicketBank, answer: Any, count: int) -> Any:
    """A router's answer, if it is one: routers come from plugins, too."""
    who = f"router '{getattr(bank.router, 'name', type(bank.router).__name__)}'"
    if not (
        isinstance(answer, tuple)
        and len(answer) == 3
        and all(isinstance(part, torch.Tensor) for part in answer)
    ):
        raise BankError(f"{who} must answer with a Routing of three tensors, got {type(answer)}")
    ids, weights, confidence = (part.cpu() for part in answer)
    if (
        ids.ndim != 2
        or (len(ids), ids.shape[1] > 0) != (count, True)
        or weights.shape != ids.shape
        or confidence.shape != (count,)
    ):
        raise BankError(
            f"{who} must give ticket_ids and weights [{count}, k] and a confidence [{count}], got "
            f"{list(ids.shape)}, {list(weights.shape)} and {list(confidence.shape)}"
        )
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise BankError(f"{who} must give ticket_ids as integers, got {ids.dtype}")
    if count and not -1 <= int(ids.min()) <= int(ids.max()) < len(bank):
        raise BankError(
            f"{who} gives ticket_ids {int(ids.min())} to {int(ids.max())}; the bank has "
            f"0 to {len(bank) - 1}, and -1 is for none"
        )
    if not (torch.isfinite(weights).all() and torch.isfinite(confidence).all()):
        raise BankError(f"{who} gives weights or a confidence that are not finite")
    return ids, weights, confidence


def _execute(bank: TicketBank, activation: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    outputs = bank.executor.execute(bank, activation, ids)
    shape = (len(ids), bank.task.num_outputs)
    if not isinstance(outputs, torch.Tensor) or outputs.shape != shape:
        given = list(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
        raise BankError(
            f"executor '{bank.executor.name}' must give outputs {list(shape)}, got {given}"
        )
    return outputs


def _mix(
    bank: TicketBank,
    outputs: torch.Tensor,
    activation: torch.Tensor,
    ids: torch.Tensor,
    weights: torch.Tensor,
) -> torch.Tensor:
    """Weighted mean of the chosen tickets' probabilities, as log-probabilities."""
    place, rows = torch.nonzero(ids.T >= 0, as_tuple=True)
    share = weights.cpu().T[place, rows].to(outputs)[:, None]
    counts = torch.bincount(place, minlength=ids.shape[1]).tolist()
    where = rows.to(outputs.device)
    mixed = torch.zeros_like(outputs)
    if len(rows):
        part = take_rows(activation, where)
        answers = _execute(bank, part, ids[rows, place]).softmax(dim=1) * share
        # One place at a time: a sample occurs once in each, so that the sum has one order.
        for index, answer in zip(where.split(counts), answers.split(counts), strict=True):
            mixed.index_add_(0, index, answer)
    mixed = mixed.log()
    mixed[(ids[:, 0] < 0).to(outputs.device)] = torch.nan
    return mixed
