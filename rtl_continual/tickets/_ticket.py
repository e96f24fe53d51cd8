"""A ticket: a mask, its own norm state and head, and what is known about it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from types import MappingProxyType
from typing import Any

import torch

from rtl_continual.errors import BankError
from rtl_continual.tickets._mask import Mask

__all__ = ["Ticket", "TicketInfo"]


@dataclass(frozen=True)
class TicketInfo:
    """What is known about a ticket besides its numbers; all of it survives JSON.

    Args:
        name: unique within the bank.
        parent: id of the ticket it started from or succeeds, or ``None``.
        cluster: name of the cluster it serves.
        sparsity_target: the budget asked for, after any relaxation.
        samples: number of training samples.
        domain_counts: training samples by domain name, where known (never used to learn).
        relaxations: how often the target was lowered.
        similarity: mean Jaccard overlap with the tickets that were there when it was committed.
        provenance: free facts: configuration, seed, validation results, versions.
    """

    name: str
    parent: int | None = None
    cluster: str = ""
    sparsity_target: float = 0.0
    samples: int = 0
    domain_counts: Mapping[str, int] = field(default_factory=dict)
    relaxations: int = 0
    similarity: float | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TicketInfo:
        """The inverse of :meth:`to_json`; unknown keys of newer writers are refused."""
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        if unknown:
            raise BankError(f"ticket information has unknown keys {unknown}")
        return cls(**values)


def _frozen(tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    return MappingProxyType(
        {k: v.detach().to("cpu").contiguous().clone() for k, v in tensors.items()}
    )


@dataclass(frozen=True, eq=False)
class Ticket:
    """One specialised subnetwork over a frozen backbone. Immutable.

    Args:
        id: position in the bank.
        mask: which body weights it keeps.
        norm: its own affine parameters and running statistics, by name in the body.
        head: its head's state dict.
        statistics: summary of its router features, as tensors (see ``rtl_continual.routing``).
        info: everything else.
    """

    id: int
    mask: Mask
    norm: Mapping[str, torch.Tensor]
    head: Mapping[str, torch.Tensor]
    statistics: Mapping[str, torch.Tensor]
    info: TicketInfo

    def __post_init__(self) -> None:
        for part in ("norm", "head", "statistics"):
            object.__setattr__(self, part, _frozen(getattr(self, part)))

    @property
    def name(self) -> str:
        """The ticket's name, unique within its bank."""
        return self.info.name

    def tensors(self) -> dict[str, torch.Tensor]:
        """Every tensor but the mask, under ``norm.``, ``head.`` and ``statistics.``."""
        groups = {"norm": self.norm, "head": self.head, "statistics": self.statistics}
        return {f"{g}.{name}": t for g, part in groups.items() for name, t in part.items()}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the mask and every tensor: equal fingerprints, equal logits."""
        digest = hashlib.sha256(self.mask.bits.tobytes())
        for name, tensor in sorted(self.tensors().items()):
            digest.update(f"{name}|{tensor.dtype}|{list(tensor.shape)}|".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    @property
    def num_parameters(self) -> int:
        """Kept weights, norm state and head together."""
        return self.mask.kept + sum(
            t.numel()
            for part in (self.norm, self.head)
            for t in part.values()
            if t.is_floating_point()
        )
