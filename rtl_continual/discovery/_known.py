"""What the bank's tickets know, as discovery looks at it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from rtl_continual.discovery._features import as_features
from rtl_continual.errors import DataError
from rtl_continual.routing import FeatureMixture, likelihood_level

__all__ = ["KnownTickets"]

MOST_SURPRISED = 1e6
"""Surprise is cut off here, so that one broken image cannot outweigh a stream's history."""


class KnownTickets:
    """The tickets' feature mixtures with each one's own spread of log-likelihoods.

    A density cannot be compared between mixtures as it stands, so each ticket is calibrated by the
    likelihood of samples that its mixture was not fitted to, which it carries
    (:attr:`FeatureMixture.held_out`); a ticket without them by samples drawn from its mixture.

    Args:
        mixtures: one per ticket, in the order of their ids.
        samples: drawn from each mixture.
        seed: of the samples; a ticket's samples depend on its own id and the seed alone.

    Example:
        >>> known = KnownTickets()
        >>> known.learn(torch.randn(200, 4))
        >>> bool(known.surprise(torch.full((1, 4), 9.0)) > 10)
        True
    """

    def __init__(
        self, mixtures: Sequence[FeatureMixture] = (), *, samples: int = 512, seed: int = 0
    ) -> None:
        self.mixtures: list[FeatureMixture] = []
        self.samples: list[torch.Tensor] = []
        self._count = samples
        self._seed = seed
        self._levels: list[tuple[float, float]] = []
        for mixture in mixtures:
            self.add(mixture)

    def __len__(self) -> int:
        return len(self.mixtures)

    def copy(self) -> KnownTickets:
        """The same tickets; what is added to the copy does not show here."""
        other = KnownTickets(samples=self._count, seed=self._seed)
        other.mixtures, other.samples = [*self.mixtures], [*self.samples]
        other._levels = [*self._levels]
        return other

    @property
    def width(self) -> int | None:
        """Router features per sample; ``None`` without tickets."""
        return self.mixtures[0].width if self.mixtures else None

    def add(self, mixture: FeatureMixture) -> None:
        """One more ticket.

        Raises:
            DataError: if it has another number of features than the others.
        """
        if self.mixtures and mixture.width != self.width:
            raise DataError(f"the tickets have {self.width} features, this one {mixture.width}")
        draw = torch.Generator().manual_seed(self._seed + 7919 * len(self))
        samples = mixture.sample(self._count, draw)
        middle, spread = mixture.held_out or likelihood_level(-mixture.log_prob(samples)).tolist()
        self.mixtures.append(mixture)
        self.samples.append(samples)
        # A Gaussian of as many features varies as much; equal images would have no spread at all.
        self._levels.append((middle, max(spread, math.sqrt(mixture.width / 2))))

    def learn(self, features: torch.Tensor) -> None:
        """One more ticket, known by its samples ``[samples, features]`` alone."""
        self.add(FeatureMixture.fit_cluster(as_features(features, width=self.width), held_out=True))

    def replace(self, ticket: int, features: torch.Tensor) -> None:
        """Describe a ticket anew, as long as it is young and its data still arrive."""
        later = self.mixtures[ticket + 1 :], self.samples[ticket + 1 :], self._levels[ticket + 1 :]
        for part in (self.mixtures, self.samples, self._levels):
            del part[ticket:]
        self.learn(features)
        self.mixtures += later[0]
        self.samples += later[1]
        self._levels += later[2]

    def match(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """How far each sample lies outside the tickets' spreads, and whose it is.

        Surprise is 0 up to a ticket's median negative log-likelihood, then in units of its spread.

        Args:
            features: router features ``[samples, features]``.

        Returns:
            Surprise under the ticket that expects each sample most, ``[samples]``, and the ticket
            under which its density is highest, ``int64 [samples]``; -1 without tickets.
        """
        x = as_features(features, width=self.width)
        if not len(self):
            return x.new_full((len(x),), MOST_SURPRISED), torch.full((len(x),), -1)
        density = torch.stack([mixture.log_prob(x) for mixture in self.mixtures], dim=1)
        middle, spread = torch.tensor(self._levels, dtype=density.dtype).T
        surprises = ((-density - middle) / spread).clamp(0, MOST_SURPRISED)
        return surprises.min(dim=1).values, density.argmax(dim=1)

    def surprise(self, features: torch.Tensor) -> torch.Tensor:
        """Surprise under the ticket that expects each sample most, ``[samples]``."""
        return self.match(features)[0]
