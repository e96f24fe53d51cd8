"""The space in which tickets are compared: whitened by what varies within tickets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch

__all__ = ["WithinMetric", "alive_features"]


class WithinMetric:
    """Distances in units of the spread within tickets.

    The covariance is the mean over the tickets' own. While there are few tickets it is taken anew
    with each one, later whenever their number has doubled, and after ``settled`` tickets no more:
    then adding a ticket leaves everything about the others as it is. Growing ticket by ticket and
    fitting at once give the same metric.

    Args:
        kind: ``full`` whitens by the whole covariance (Mahalanobis distance), ``diagonal`` by each
            feature's own variance.
        ridge: added to the variance of every scaled feature; keeps directions in which nothing
            varies from deciding alone.
        settled: tickets after which the metric stays.

    Attributes:
        offset: ``[features]``, the centre of the transformed space.
        transform: ``[features, axes]``; the transformed features are ``(x - offset) @ transform``.
            A full metric's axes come in the order of the tickets' spread along them.
        temperature: squared distances are divided by it before they become probabilities. It is 1
            for a full metric; where features are correlated, a diagonal one counts the same
            evidence several times, and this says how often (Satterthwaite's approximation).
        dimension: the mean squared distance of a ticket's inputs from its centroid.
    """

    EARLY = 64
    """Up to so many tickets the metric follows each one."""

    def __init__(
        self, kind: Literal["full", "diagonal"], *, ridge: float = 1e-3, settled: int = 1024
    ) -> None:
        self.kind = kind
        self.ridge = ridge
        self.settled = settled
        self.seen = 0
        self._total = torch.zeros(0, 0, dtype=torch.float64)
        self.offset = torch.zeros(0)
        self.transform = torch.zeros(0, 0)
        self.temperature = 1.0
        self.dimension = 1.0

    @property
    def wants_more(self) -> bool:
        """Whether further tickets can still change it."""
        return self.seen < self.settled

    def is_due(self, tickets: int) -> bool:
        """Whether it is taken anew when there are so many tickets."""
        return tickets <= self.settled and (tickets <= self.EARLY or tickets & (tickets - 1) == 0)

    def basis(self, tickets: int) -> int:
        """How many of the first tickets the metric of so many rests on."""
        tickets = min(tickets, self.settled)
        return tickets if tickets <= self.EARLY else 1 << (tickets.bit_length() - 1)

    def see(self, covariance: torch.Tensor) -> None:
        """One more ticket's covariance ``[features, features]``; call :meth:`refresh` when due."""
        if not self.seen:
            self._total = torch.zeros_like(covariance)
        self._total += covariance
        self.seen += 1

    def refresh(self, means: torch.Tensor) -> None:
        """Take the metric anew.

        Args:
            means: of the tickets seen so far ``[tickets, features]``.
        """
        means = means.double()
        covariance = self._total / self.seen
        variance = covariance.diagonal()
        self.offset = means.mean(dim=0).float()
        alive = alive_features(means, variance)
        scale = variance.clamp_min(1e-12).rsqrt() * alive
        correlation = scale[:, None] * covariance * scale
        correlation.diagonal().add_(self.ridge)
        if self.kind == "diagonal":
            self.transform = torch.diag(scale).float()
            trace = correlation.diagonal().sum().clamp_min(1e-6)
            self.temperature = max(1.0, float(correlation.square().sum() / trace))
        else:
            factor = torch.linalg.cholesky(torch.linalg.inv(correlation))
            transform = scale[:, None] * factor
            spread = (means - means.mean(dim=0)) @ transform
            axes = torch.linalg.eigh(spread.T @ spread).eigenvectors.flip(1)
            self.transform = (transform @ axes).float()
        inner = self.transform.double()
        self.dimension = max(1.0, float((covariance @ inner).mul(inner).sum()))

    def apply(self, features: torch.Tensor) -> torch.Tensor:
        """Transformed features ``[batch, axes]``, float32."""
        offset, transform = self.offset.to(features.device), self.transform.to(features.device)
        centred = features.float() - offset
        if self.kind == "diagonal":
            return centred * transform.diagonal()
        if centred.device.type == "cpu":
            # On a single input numpy's product takes half the time of torch's.
            return torch.from_numpy(centred.numpy() @ transform.numpy())
        return centred @ transform

    def flops(self) -> int:
        """Of :meth:`apply` for one input."""
        width = len(self.offset)
        return 2 * width if self.kind == "diagonal" else width + 2 * self.transform.numel()

    def state_dict(self) -> dict[str, torch.Tensor]:
        """As tensors; the covariance only while it can still change the metric."""
        state = {
            "offset": self.offset,
            "transform": self.transform.diagonal() if self.kind == "diagonal" else self.transform,
            "scalars": torch.tensor(
                [self.temperature, self.dimension, float(self.seen)], dtype=torch.float64
            ),
        }
        if self.wants_more:
            state["within"] = self._total.float()
        return state

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """The inverse of :meth:`state_dict`."""
        self.offset = state["offset"].clone()
        transform = state["transform"].clone()
        self.transform = torch.diag(transform) if self.kind == "diagonal" else transform
        self.temperature, self.dimension, seen = state["scalars"].tolist()
        self.seen = int(seen)
        if "within" in state:
            self._total = state["within"].double()


def alive_features(means: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
    """Which features vary at all, within tickets or between them: ``[features]``, 0 or 1.

    A feature that is dead in every ticket's data has a variance that stands for nothing but the
    mixtures' floor. In units of it the least stir would outweigh all other features.

    Args:
        means: of the tickets ``[tickets, features]``.
        variance: of each feature within tickets ``[features]``.
    """
    center = means.mean(dim=0)
    spread = (variance + (means - center).square().mean(dim=0)).sqrt()
    return (spread > 2e-3 * (1 + center.abs())).to(means.dtype)
