"""A backbone whose trunk has been run beforehand: its images are records of trunk outputs."""

from __future__ import annotations

import torch
from torch import nn

from rtl_continual.backbones._backbone import Backbone, InputSpec, TrunkOutput

__all__ = ["RecordedBackbone"]


class RecordedBackbone(Backbone):
    """Stands in for a backbone where every image has been replaced by its record.

    The trunk is frozen and shared, so its outputs for an image never change: whoever trains nothing
    before the split can start from them. A record is ``float32 [values, 1, 1]``, the trunk's
    activation (channels last) followed by the router features; :meth:`record` makes it.

    Body, name, taps and identity are the original's.

    Args:
        original: whose trunk makes the records. Its body is shared, not copied.
        images: one image or more, to learn the trunk's output shape from.

    Attributes:
        original: as given.

    Example:
        >>> from rtl_continual.backbones import build_backbone
        >>> original = build_backbone("glyphnet", weights="random:0")
        >>> images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
        >>> recorded = RecordedBackbone(original, images)
        >>> torch.allclose(recorded(recorded.record(images)), original(images))
        True
    """

    def __init__(self, original: Backbone, images: torch.Tensor) -> None:
        with torch.no_grad():
            out = original.run_trunk(images[:1].to(original.mean.device))
        shape = tuple(out.activation.shape[1:])
        values = out.activation[0].numel() + out.router_features.shape[1]
        super().__init__(
            original.name,
            _Unpack(original.trunk, shape),
            original.body,
            feature_dim=original.feature_dim,
            input_spec=InputSpec(values, (1, 1), (0.0,) * values, (1.0,) * values),
            split=original.split,
            weights=original.weights,
            readout=original.readout,
            end=original.end,
        )
        self.taps = original.taps
        self.options = dict(original.options)
        self._original = (original,)  # in a tuple, so that its parts are not counted twice
        self.to(original.mean.device)

    @property
    def original(self) -> Backbone:
        """The backbone that made the records."""
        return self._original[0]

    @torch.no_grad()
    def record(self, images: torch.Tensor) -> torch.Tensor:
        """Records ``[batch, values, 1, 1]`` of images that the original takes."""
        return self.as_records(self.original.run_trunk(images.to(self.mean.device)))

    @staticmethod
    def as_records(out: TrunkOutput) -> torch.Tensor:
        """What the original's trunk gave, as records."""
        activation, features = out
        if activation.ndim == 4:
            activation = activation.permute(0, 2, 3, 1)
        flat = torch.cat([activation.flatten(1), features], dim=1)
        return flat[:, :, None, None].float()

    def check_values(self, images: torch.Tensor) -> None:
        """Records may hold any value."""

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """Records are taken as they are."""
        return images.to(self.mean)

    def run_trunk(self, images: torch.Tensor) -> TrunkOutput:
        self.check_images(images)
        records = self.normalise(images)
        width = self.router_feature_dim
        return TrunkOutput(self.trunk(records), records.flatten(1)[:, -width:])

    @property
    def router_feature_dim(self) -> int:
        return self.original.router_feature_dim

    def compute_identity(self) -> str:
        return self.original.compute_identity()


class _Unpack(nn.Module):
    """The activation of a record; holds the trunk that made it, and does not run it."""

    def __init__(self, trunk: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.trunk = trunk
        self.shape = shape

    def forward(self, records: torch.Tensor) -> torch.Tensor:
        count = torch.Size(self.shape).numel()
        flat = records.flatten(1)[:, :count]
        if len(self.shape) != 3:
            return flat.reshape(-1, *self.shape)
        channels, height, width = self.shape
        return flat.reshape(-1, height, width, channels).permute(0, 3, 1, 2)
