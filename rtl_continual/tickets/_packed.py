"""Convolution weights in the order in which a processor's kernel reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from rtl_continual.backbones import Backbone
from rtl_continual.tickets._skeleton import Skeleton

__all__ = ["KernelOrder"]


class _PackedConv2d(nn.Conv2d):
    """A convolution whose weight may be a packed one."""

    def _conv_forward(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        if not weight.is_mkldnn:
            return super()._conv_forward(x, weight, bias)
        if weight.ndim == 2:
            return self._product(x, weight, bias)
        geometry = self.padding, self.stride, self.dilation, self.groups
        out: torch.Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, weight, bias, *geometry, "none", [], ""
        )
        return out

    def _product(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        """The convolution as one matrix product: a row for each place of the output."""
        assert isinstance(self.padding, tuple), "others are not packed"
        (top, left), (down, right) = self.padding, self.stride
        padded = nn.functional.pad(x.permute(0, 2, 3, 1), (0, 0, left, left, top, top))
        windows = padded.unfold(1, self.kernel_size[0], down).unfold(2, self.kernel_size[1], right)
        rows = windows.permute(0, 1, 2, 4, 5, 3).flatten(3).flatten(0, 2)
        out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
        return out.view(*windows.shape[:3], -1).permute(0, 3, 1, 2)


_PLACES, _CHANNELS = 16, 256
"""Convolutions become matrix products if their outputs have at most so many places, and their
inputs at least so many channels. For 512 channels oneDNN's convolution takes 2.4 times as long as
the product on 2 x 2 places and 1.2 times on 4 x 4; for 96 channels it is as fast."""

_KNOWN: WeakKeyDictionary[Backbone, KernelOrder | None] = WeakKeyDictionary()


class KernelOrder:
    """Packs the convolution weights of a body for activations of one size.

    A convolution on a processor first puts its weights into the order of its kernel, at each call
    anew. For a few images that takes as long as a third of the work. Packed once, they are ready.
    Where many channels meet few places, weights are packed for a matrix product instead.
    The order depends on the height and width of what comes in, not on the batch; weights in an
    order for another size are slower than plain ones by far, so nothing else may be run on them.

    Args:
        body: stays as it is. It is run once, to see the sizes of its convolutions' inputs.
        activation: of one image, as the body takes it.

    Example:
        >>> body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 1)).eval()
        >>> order = KernelOrder(body, torch.zeros(1, 3, 6, 6))
        >>> order.fits(torch.zeros(5, 3, 6, 6)), order.fits(torch.zeros(5, 3, 7, 7))
        (False, False)
        >>> with torch.inference_mode():
        ...     order.fits(torch.zeros(5, 3, 6, 6)), order.fits(torch.zeros(5, 3, 7, 7))
        (True, False)
    """

    def __init__(self, body: nn.Module, activation: torch.Tensor) -> None:
        self.shape = activation.shape[1:]
        self._convolutions = _convolutions(body)
        self._inputs = _input_sizes(body, self._convolutions, activation)

    @classmethod
    def of(cls, backbone: Backbone) -> KernelOrder | None:
        """The order for a backbone's images; found out once and kept.

        ``None`` on other devices, without convolutions in the body, or if images may have any
        size.
        """
        if backbone.mean.device.type != "cpu":
            return None
        if backbone not in _KNOWN:
            _KNOWN[backbone] = cls._find(backbone)
        return _KNOWN[backbone]

    @classmethod
    def _find(cls, backbone: Backbone) -> KernelOrder | None:
        size, channels = backbone.input_spec.size, backbone.input_spec.channels
        available = torch.backends.mkldnn.is_available() and all(
            hasattr(torch.ops.mkldnn, name)
            for name in ("_convolution_pointwise", "_linear_pointwise", "_reorder_linear_weight")
        )
        if size is None or not available or not _convolutions(backbone.body):
            return None
        with torch.inference_mode(False), torch.no_grad():
            image = torch.zeros(1, channels, *size, dtype=torch.uint8)
            return cls(backbone.body, backbone.run_trunk(image).activation)

    def fits(self, activation: torch.Tensor) -> bool:
        """Whether packed weights can be run on this: no gradients, float32, the right size."""
        return (
            activation.shape[1:] == self.shape
            and activation.dtype == torch.float32
            and activation.device.type == "cpu"
            and not torch.is_grad_enabled()
            and not torch.is_autocast_enabled("cpu")
        )

    @torch.no_grad()
    def pack(self, values: Mapping[str, torch.Tensor], prefix: str = "") -> dict[str, torch.Tensor]:
        """The same values, convolution weights packed.

        Args:
            values: by name.
            prefix: of the body's names in ``values``.
        """
        packed = dict(values)
        for name, size in self._inputs.items():
            key, conv = f"{prefix}{name}.weight", self._convolutions[name]
            weight = packed.get(key, conv.weight).detach()
            if _few_places(conv, size):
                rows = weight.permute(0, 2, 3, 1).reshape(len(weight), -1).contiguous()
                packed[key] = torch.ops.mkldnn._reorder_linear_weight(rows)
            else:
                packed[key] = torch._C._nn.mkldnn_reorder_conv2d_weight(  # type: ignore[call-arg]
                    weight.to_mkldnn(), conv.padding, conv.stride, conv.dilation, conv.groups, size
                )
        return packed

    @staticmethod
    def accept(body: nn.Module) -> None:
        """Let a network of its own (a skeleton's, nobody else's) take packed weights."""
        for conv in _convolutions(body).values():
            conv.__class__ = _PackedConv2d


def _few_places(conv: nn.Conv2d, size: list[int]) -> bool:
    """Whether a matrix product is faster than the convolution, on inputs of this size."""
    if conv.groups > 1 or conv.dilation != (1, 1) or conv.in_channels < _CHANNELS:
        return False
    x, weight = torch.empty(size, device="meta"), conv.weight.to("meta")
    out = nn.functional.conv2d(x, weight, None, conv.stride, conv.padding)
    return conv.kernel_size != (1, 1) and out.shape[2:].numel() <= _PLACES


def _convolutions(body: nn.Module) -> dict[str, Any]:
    """Convolutions whose weight is theirs alone, by name."""
    owners: dict[int, int] = {}
    for _, parameter in body.named_parameters(remove_duplicate=False):
        owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    return {
        name: module
        for name, module in body.named_modules()
        if type(module) is nn.Conv2d
        and module.padding_mode == "zeros"
        and isinstance(module.padding, tuple)
        and module.weight.dtype == torch.float32
        and owners[id(module.weight)] == 1
    }


@torch.no_grad()
def _input_sizes(
    body: nn.Module, names: Mapping[str, nn.Module], activation: torch.Tensor
) -> dict[str, list[int]]:
    """What each convolution is given; those that see several sizes, or none, are left out."""
    seen: dict[str, set[tuple[int, ...]]] = {name: set() for name in names}
    twin = Skeleton(body).module
    for name, module in twin.named_modules():
        if name in seen:
            module.forward = _watched(module.forward, seen[name])
    twin(activation)
    return {name: list(*sizes) for name, sizes in seen.items() if len(sizes) == 1}


def _watched(forward: Any, sizes: set[tuple[int, ...]]) -> Any:
    def run(x: torch.Tensor) -> torch.Tensor:
        sizes.add(tuple(x.shape))
        out: torch.Tensor = forward(x)
        return out

    return run
