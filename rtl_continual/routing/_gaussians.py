"""Log densities of many feature mixtures at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from rtl_continual.routing._mixture import FeatureMixture

__all__ = ["MixtureStack"]

_VALUES_AT_ONCE = 2**23
"""Scaled features held in memory at once; larger batches are worked on in parts."""


class MixtureStack:
    """Several mixtures over the same features, evaluated together in double precision.

    A component's covariance is low rank plus diagonal, so by Woodbury's identity a density costs a
    projection of the features on the ticket's axes and one small triangular product per component:
    ``rank * features + components * rank^2`` multiply-adds instead of ``components * features^2``.

    Args:
        mixtures: at least one.
    """

    def __init__(self, mixtures: Sequence[FeatureMixture]) -> None:
        parts = [_terms(mixture) for mixture in mixtures]
        rank = max(part["project"].shape[0] for part in parts)
        components = max(len(part["constant"]) for part in parts)
        self.rank, self.components = rank, components
        self.width = mixtures[0].width
        self._terms = {
            name: torch.stack([_padded(part[name], name, rank, components) for part in parts])
            for name in parts[0]
        }

    def __len__(self) -> int:
        return len(self._terms["center"])

    def log_prob(self, features: torch.Tensor) -> torch.Tensor:
        """Log densities ``[batch, tickets]``, float64, on the features' device."""
        if self._terms["center"].device != features.device:
            self._terms = {n: t.to(features.device) for n, t in self._terms.items()}
        x = features.double()
        rows = max(1, _VALUES_AT_ONCE // (len(self) * self.width))
        return torch.cat([self._log_prob(part) for part in x.split(rows)])

    def _log_prob(self, x: torch.Tensor) -> torch.Tensor:
        t = self._terms
        centred = x - t["center"][:, None]
        noise = torch.bmm(centred.square(), t["noise"][:, :, None])
        inner = torch.bmm(centred, t["project"].transpose(1, 2))
        # [tickets, batch, components]
        square = noise - 2 * torch.bmm(inner, t["pull"].transpose(1, 2))
        tickets, batch = inner.shape[:2]
        factors = t["factor"].flatten(1, 2)
        reached = torch.bmm(inner, factors.transpose(1, 2)).view(
            tickets, batch, self.components, self.rank
        )
        reached = (reached - t["shift"][:, None]).square().sum(dim=3)
        square = square + t["sign"][:, None, None] * reached
        return torch.logsumexp(t["constant"][:, None] - 0.5 * square, dim=2).T

    def flops(self) -> int:
        """Of :meth:`log_prob` for one input."""
        per_component = 2 * self.rank * self.rank + 5 * self.rank + 4
        each = 2 * self.width * (2 + self.rank) + self.components * per_component
        return len(self) * each


def _terms(mixture: FeatureMixture) -> dict[str, torch.Tensor]:
    """What a density needs beside the features, worked out once.

    With ``u = project (x - center)`` a component's squared distance is
    ``noise . (x - center)^2 - 2 pull . u + sign |factor u - shift|^2 + a constant``.
    """
    rank = mixture.means.shape[1]
    count = len(mixture.weights)
    identity = torch.eye(rank, dtype=torch.float64)
    constant = mixture.weights.log() - 0.5 * mixture.width * math.log(2 * math.pi)
    constant = constant - mixture.scale.log().sum()
    if mixture.axes is None or mixture.residual is None:
        inverse = torch.linalg.solve_triangular(
            mixture.cholesky, identity.expand(count, -1, -1), upper=False
        )
        shift = torch.einsum("kij,kj->ki", inverse, mixture.means)
        logdet = mixture.cholesky.diagonal(dim1=1, dim2=2).log().sum(dim=1)
        return {
            "center": mixture.center,
            "noise": torch.zeros_like(mixture.center),
            "project": torch.diag(1 / mixture.scale),
            "pull": torch.zeros_like(mixture.means),
            "factor": inverse,
            "shift": shift,
            "sign": torch.tensor(1.0, dtype=torch.float64),
            "constant": constant - logdet,
        }
    precision = mixture.residual.square().reciprocal()
    weighted = mixture.axes * precision
    # Squared distances between points of the axes' space, in units of the noise.
    gram = weighted @ mixture.axes.T
    lower = mixture.cholesky
    capacitance = identity + lower.transpose(1, 2) @ gram @ lower
    root = torch.linalg.cholesky(capacitance)
    factor = torch.linalg.solve_triangular(root, lower.transpose(1, 2), upper=False)
    pulled = mixture.means @ gram
    logdet = root.diagonal(dim1=1, dim2=2).log().sum(dim=1) + mixture.residual.log().sum()
    return {
        "center": mixture.center,
        "noise": precision / mixture.scale.square(),
        "project": weighted / mixture.scale,
        "pull": mixture.means,
        "factor": factor,
        "shift": torch.einsum("kij,kj->ki", factor, pulled),
        "sign": torch.tensor(-1.0, dtype=torch.float64),
        "constant": constant - logdet - 0.5 * (pulled * mixture.means).sum(dim=1),
    }


def _padded(term: torch.Tensor, name: str, rank: int, components: int) -> torch.Tensor:
    """A ticket's term in the size of the largest ticket's; missing components weigh nothing."""
    sizes = {
        "project": (rank, term.shape[-1] if term.ndim else 0),
        "pull": (components, rank),
        "factor": (components, rank, rank),
        "shift": (components, rank),
        "constant": (components,),
    }
    if name not in sizes or tuple(term.shape) == sizes[name]:
        return term
    padded = term.new_full(sizes[name], -torch.inf if name == "constant" else 0.0)
    padded[tuple(slice(size) for size in term.shape)] = term
    return padded
