"""A ticket's network: trunk, masked body and head as one module."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from rtl_continual.tickets import MergedBody, TicketBank

__all__ = ["TicketNetwork", "describe_ticket"]


class TicketNetwork(nn.Module):
    """Images in, outputs out: what a bank computes for the inputs of one ticket.

    Its parts are copies; the bank may change or go.

    Args:
        bank: holds the ticket.
        ticket_id: the ticket.

    Raises:
        BankError: if there is no such ticket.

    Example:
        >>> from rtl_continual.backbones import build_backbone
        >>> from rtl_continual.tasks import Classification
        >>> from rtl_continual.tickets import TicketBank
        >>> bank = TicketBank(build_backbone("glyphnet", weights="random:0"), Classification(10))
        >>> TicketNetwork(bank, 0)
        Traceback (most recent call last):
        ...
        rtl_continual.errors.BankError: no ticket 0; the bank has 0
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, bank: TicketBank, ticket_id: int) -> None:
        super().__init__()
        ticket = bank[ticket_id]
        backbone = bank.backbone
        self.trunk = copy.deepcopy(backbone.trunk)
        self.body: nn.Module = copy.deepcopy(backbone.body)
        self.head = bank.head_of(ticket)
        values = bank.effective_parameters(ticket_id)
        own = {name[5:]: t for name, t in values.items() if name.startswith("body.")}
        self.body.load_state_dict({**backbone.body.state_dict(), **own})
        if bank.is_merged(ticket):
            self.body = MergedBody(self.body, copy.deepcopy(backbone.body))
        self.register_buffer("mean", backbone.mean.clone())
        self.register_buffer("std", backbone.std.clone())
        self.requires_grad_(False)
        self.eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Outputs ``[batch, outputs]`` for images ``[batch, channels, height, width]``.

        Images are ``uint8``, or floating point in 0..1.
        """
        x = images.to(self.mean.dtype)
        if images.dtype == torch.uint8:
            x = x / 255
        return self.head(self.body(self.trunk((x - self.mean) / self.std)))


def describe_ticket(bank: TicketBank, ticket_id: int) -> dict[str, Any]:
    """What a reader of an exported ticket needs to know, as plain JSON values."""
    ticket, backbone, task = bank[ticket_id], bank.backbone, bank.task
    spec = backbone.input_spec
    classes = getattr(task, "classes", None)
    return {
        "ticket": ticket.info.to_json(),
        "fingerprint": ticket.fingerprint,
        "sparsity": ticket.mask.sparsity,
        "backbone": {
            name: getattr(backbone, name)
            for name in ("name", "split", "end", "readout", "identity")
        },
        "outputs": task.num_outputs,
        "classes": None if classes is None else list(classes),
        "input": {
            "channels": spec.channels,
            "size": None if spec.size is None else list(spec.size),
            "mean": list(spec.mean),
            "std": list(spec.std),
        },
    }
