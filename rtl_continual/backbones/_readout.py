"""What a head reads: a stage's mean, or means of earlier blocks' outputs beside it."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

__all__ = ["BlockReadout", "PlacesMean"]


class PlacesMean(nn.Module):
    """The mean of maps over their places, ``[batch, channels]``, or of tokens over a sequence.

    Args:
        ndim: of what it takes; features without places stay as they are.
    """

    def __init__(self, ndim: int) -> None:
        super().__init__()
        self.places = _places(ndim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(self.places) if self.places else x


def _places(ndim: int) -> tuple[int, ...]:
    return tuple(range(2, ndim)) if ndim != 3 else (1,)


class BlockReadout(nn.Sequential):
    """Stages in order; their outputs' means stand beside the last features.

    Features of several depths serve a linear head better than the last ones alone where data are
    few or far from what the network was trained on: earlier layers are less bound to that (Evci et
    al., 2022, "Head2Toe: Utilizing Intermediate Representations for Better Transfer Learning").
    Each stage that gives a map or tokens is read, but for the last of them, of which the final
    features are made.

    Args:
        stages: by name; the last one gives ``[batch, features]``.
        activation: what the first one takes, to learn the outputs' shapes from.

    Attributes:
        feature_dim: width of what :meth:`forward` returns.

    Example:
        >>> stages = OrderedDict(a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(4, 5, 1), c=nn.Flatten())
        >>> BlockReadout(stages, torch.zeros(1, 3, 2, 2))(torch.zeros(7, 3, 2, 2)).shape
        torch.Size([7, 24])
    """

    def __init__(self, stages: OrderedDict[str, nn.Module], activation: torch.Tensor) -> None:
        super().__init__(stages)
        self.eval()
        self._places: dict[str, tuple[int, ...]] = {}
        x = activation
        widths = []
        with torch.no_grad():
            for name, stage in self.named_children():
                x = stage(x)
                if x.ndim > 2:
                    self._places[name] = _places(x.ndim)
                    widths.append(x.shape[1] if x.ndim == 4 else x.shape[2])
        if self._places:
            self._places.popitem()
            widths.pop()
        self.feature_dim = x.shape[1] + sum(widths)

    def forward(self, activation: torch.Tensor) -> torch.Tensor:
        """Features ``[batch, feature_dim]``: the last ones, then each block's mean, in order."""
        x, means = activation, []
        for name, stage in self.named_children():
            x = stage(x)
            if name in self._places:
                means.append(x.mean(self._places[name]))
        return torch.cat([x, *means], dim=1)
