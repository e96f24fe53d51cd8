"""A frozen network in two parts: the trunk every input crosses once, and the body tickets mask."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from rtl_continual.backbones._statistics import activation_statistics
from rtl_continual.errors import DataError, RTLError

__all__ = ["Backbone", "InputSpec", "TrunkOutput"]


@dataclass(frozen=True)
class InputSpec:
    """What images a backbone takes.

    Args:
        channels: number of image channels.
        size: height and width in pixels, or ``None`` if any size will do.
        mean: per channel, subtracted from images scaled to 0..1.
        std: per channel, divides after the mean is subtracted.
    """

    channels: int = 3
    size: tuple[int, int] | None = None
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.25, 0.25, 0.25)


class TrunkOutput(NamedTuple):
    """What one trunk pass gives.

    ``activation`` is what the body takes; ``router_features`` is ``[batch, router_feature_dim]``.
    """

    activation: torch.Tensor
    router_features: torch.Tensor


class Backbone(nn.Module):
    """A frozen network split into trunk and body.

    Args:
        name: the architecture's name.
        trunk: shared part, never masked; a ``Sequential`` lets ``taps`` name its children.
        body: what tickets mask; takes the trunk's output and returns ``[batch, feature_dim]``.
        feature_dim: width of the body's output.
        input_spec: what images it takes.
        split: the split point's name, kept for the record.
        weights: where the weights came from, kept for the record.
        taps: names of the trunk's children whose output statistics the router reads;
            ``None`` reads the trunk's last output alone.
        readout: what the body's output is made of, kept for the record.
        end: the body's last stage where that is not the network's own, kept for the record.

    Raises:
        RTLError: if a tap names no child of the trunk.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> net = Backbone("toy", nn.Conv2d(3, 4, 3), nn.Sequential(nn.Flatten(), nn.LazyLinear(5)),
        ...                feature_dim=5, input_spec=InputSpec(size=(8, 8)))
        >>> out = net.run_trunk(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
        >>> out.router_features.shape
        torch.Size([2, 8])
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        name: str,
        trunk: nn.Module,
        body: nn.Module,
        *,
        feature_dim: int,
        input_spec: InputSpec | None = None,
        split: str = "custom",
        weights: str = "given",
        taps: Sequence[str] | None = None,
        readout: str = "final",
        end: str | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.trunk = trunk
        self.body = body
        self.feature_dim = feature_dim
        self.input_spec = input_spec or InputSpec()
        self.split = split
        self.weights = weights
        self.taps = tuple(taps) if taps is not None else None
        self.readout = readout
        self.end = end
        self.options: dict[str, Any] = {}
        """Options of its kind alone (a plugin's), as JSON values; see :func:`build_backbone`."""
        children = [child for child, _ in trunk.named_children()]
        for tap in self.taps or ():
            if not isinstance(trunk, nn.Sequential) or tap not in children:
                raise RTLError(
                    f"backbone '{name}': tap '{tap}' is no stage of the trunk {children}"
                )
        shape = (1, self.input_spec.channels, 1, 1)
        self.register_buffer(
            "mean", torch.tensor([float(v) for v in self.input_spec.mean]).view(shape)
        )
        self.register_buffer(
            "std", torch.tensor([float(v) for v in self.input_spec.std]).view(shape)
        )
        self._materialise_lazy()
        self.requires_grad_(False)
        self.eval()
        self._identity: str | None = None

    def _materialise_lazy(self) -> None:
        if any(isinstance(p, nn.parameter.UninitializedParameter) for p in self.parameters()):
            height, width = self.input_spec.size or (32, 32)
            with torch.no_grad():
                self.eval()
                self.body(self.trunk(torch.zeros(1, self.input_spec.channels, height, width)))

    def train(self, mode: bool = True) -> Backbone:
        """Stay in evaluation mode: a frozen backbone has no training mode of its own."""
        return super().train(False)

    def check_images(self, images: torch.Tensor) -> None:
        """Raise :class:`DataError` unless ``images`` is what this backbone takes."""
        spec = self.input_spec
        wanted = (
            f"[batch, {spec.channels}, {', '.join(map(str, spec.size or ('height', 'width')))}]"
        )
        if not isinstance(images, torch.Tensor):
            raise DataError(f"images must be a tensor {wanted}, got {type(images).__name__}")
        if (
            images.ndim != 4
            or images.shape[1] != spec.channels
            or (spec.size is not None and tuple(images.shape[2:]) != spec.size)
        ):
            raise DataError(f"images must be {wanted}, got {list(images.shape)}")
        if images.dtype != torch.uint8 and not images.is_floating_point():
            raise DataError(
                f"images must be uint8 (0..255) or floating point (0..1), got {images.dtype}"
            )

    def check_values(self, images: torch.Tensor) -> None:
        """Raise :class:`DataError` if floating-point images are not in 0..1.

        Resizing may overshoot by a quarter; whole numbers up to 255, or images that somebody has
        normalised already, go further. What is not finite shows in the trunk's statistics.
        """
        if images.dtype == torch.uint8 or images.numel() == 0:
            return
        low, high = (value.item() for value in images.aminmax())
        if -math.inf < low < -0.25 or 1.25 < high < math.inf:
            far = (images < -0.25) | (images > 1.25)
            row = int(far.flatten(1).any(dim=1).nonzero()[0])
            raise DataError(
                f"floating-point images must be in 0..1, those given reach from {low:.3g} to "
                f"{high:.3g} (the first such is image {row}): divide by 255 or give uint8, and "
                "leave normalising to the backbone"
            )

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """Scale ``uint8`` to 0..1, then subtract the mean and divide by the deviation."""
        x = images.to(self.mean.dtype)
        if images.dtype == torch.uint8:
            x = x / 255
        return (x - self.mean) / self.std

    def run_trunk(self, images: torch.Tensor) -> TrunkOutput:
        """Run the trunk once.

        Args:
            images: ``[batch, channels, height, width]``, ``uint8`` or floating point in 0..1.

        Raises:
            DataError: on another shape or type.
        """
        self.check_images(images)
        return self.read_trunk(self.trunk, self.normalise(images))

    def read_trunk(self, trunk: nn.Module, x: torch.Tensor) -> TrunkOutput:
        """What :meth:`run_trunk` answers, from normalised images and a trunk like this one's."""
        if self.taps is None:
            x = trunk(x)
            return TrunkOutput(x, activation_statistics(x))
        statistics = []
        for stage, module in trunk.named_children():
            x = module(x)
            if stage in self.taps:
                statistics.append(activation_statistics(x))
        return TrunkOutput(x, torch.cat(statistics, dim=1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The bare network: ``[batch, feature_dim]`` with every weight in place."""
        return self.body(self.run_trunk(images).activation)

    def with_body_weights(self, weights: Mapping[str, torch.Tensor], *, source: str) -> Backbone:
        """A copy whose body holds other weights; this backbone stays as it is.

        Args:
            weights: replacements by parameter name in the body; the rest is copied.
            source: where they came from, kept for the record.
        """
        other = copy.deepcopy(self)
        with torch.no_grad():
            for name, parameter in other.body.named_parameters():
                if name in weights:
                    parameter.copy_(weights[name])
        other.weights = source
        other._identity = None
        return other

    @property
    def router_feature_dim(self) -> int:
        """Length of one input's router features."""
        if not hasattr(self, "_router_feature_dim"):
            height, width = self.input_spec.size or (64, 64)
            with torch.no_grad():
                probe = torch.zeros(
                    1, self.input_spec.channels, height, width, device=self.mean.device
                )
                self._router_feature_dim = int(self.run_trunk(probe).router_features.shape[1])
        return self._router_feature_dim

    @property
    def identity(self) -> str:
        """SHA-256 over structure and every weight; computed once and kept."""
        if self._identity is None:
            self._identity = self.compute_identity()
        return self._identity

    def compute_identity(self) -> str:
        """Hash name, split, taps, readout, end and each tensor (name, type, shape, bytes), now."""
        digest = hashlib.sha256()
        header: dict[str, Any] = {"name": self.name, "split": self.split, "taps": self.taps}
        if self.readout != "final":  # identities are older than this option
            header["readout"] = self.readout
        if self.end is not None:
            header["end"] = self.end
        digest.update(json.dumps(header, sort_keys=True).encode())
        for key, tensor in sorted(self.state_dict().items()):
            value = tensor.detach().cpu().contiguous()
            digest.update(f"{key}|{value.dtype}|{list(value.shape)}|".encode())
            digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()
