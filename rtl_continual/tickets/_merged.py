"""A ticket's features beside those of the unmasked body."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["MergedBody", "MergedNetwork", "merge_features"]


def merge_features(own: torch.Tensor, plain: torch.Tensor) -> torch.Tensor:
    """What the head of a merged ticket reads, ``[batch, 2 * feature_dim]``.

    A ticket has adapted to its data, the backbone's features have stayed general; a head over both
    is better than over either where data are few (Zhou et al., 2024, "Revisiting Class-Incremental
    Learning with Pre-Trained Models: Generalizability and Adaptivity Are All You Need", section 4).

    Args:
        own: the ticket's features ``[batch, feature_dim]``.
        plain: the unmasked body's.
    """
    return torch.cat([own, plain], dim=1)


class MergedBody(nn.Module):
    """Two bodies side by side: a ticket's and the unmasked one.

    Args:
        own: the ticket's body.
        plain: the backbone's.
    """

    def __init__(self, own: nn.Module, plain: nn.Module) -> None:
        super().__init__()
        self.own = own
        self.plain = plain

    def forward(self, activation: torch.Tensor) -> torch.Tensor:
        """Features ``[batch, 2 * feature_dim]`` of trunk activations."""
        # A body may begin with an operation in place.
        return merge_features(self.own(activation.clone()), self.plain(activation))


class MergedNetwork(nn.Module):
    """A ticket's body and head; the unmasked body's features are given.

    Args:
        body: of the backbone, to put a ticket's weights into.
        head: over merged features.
    """

    def __init__(self, body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.head = head

    def forward(self, activation: torch.Tensor, plain: torch.Tensor) -> torch.Tensor:
        """Outputs ``[batch, outputs]``."""
        outputs: torch.Tensor = self.head(merge_features(self.body(activation), plain))
        return outputs
