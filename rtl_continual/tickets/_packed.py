"""Weights as a processor's kernel wants them: in its order, what follows folded in."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from rtl_continual.backbones import Backbone, TrunkOutput
from rtl_continual.tickets._attention import attend
from rtl_continual.tickets._folding import (
    Bounds,
    Run,
    agree,
    bounds_of,
    convolutions_of,
    find_followers,
    is_plain_attention,
    products_of,
)
from rtl_continual.tickets._skeleton import Skeleton

__all__ = ["KernelOrder", "blank_image", "noise_like", "pack_trunk", "run_trunk"]


class _FoldedNorm(nn.BatchNorm2d):
    """A batch norm that does nothing if it has been folded into the convolution before it.

    It has no weight then, and its bias is the convolution's.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) if self.weight.numel() else x


class _PackedConv2d(nn.Conv2d):
    """A convolution whose weight may be a packed one."""

    norm: nn.BatchNorm2d | None
    """The batch norm that is folded into packed weights."""

    bounds: Bounds | None
    """What packed weights' outputs are clamped to: the activation that follows."""

    @property
    def packed(self) -> bool:
        """Whether the weight in place is a packed one."""
        weight = self._parameters["weight"]
        assert weight is not None
        return weight.ndim == 2 or weight.is_mkldnn

    def _conv_forward(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        if not self.packed:
            return super()._conv_forward(x, weight, bias)
        if self.norm is not None:
            bias = self.norm.bias
        if weight.ndim == 2:
            product = self._pointwise if _is_pointwise(self) else self._product
            return product(x, weight, bias)
        geometry = self.padding, self.stride, self.dilation, self.groups
        out: torch.Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, weight, bias, *geometry, *_attribute(self.bounds), ""
        )
        return out

    def _pointwise(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        """The convolution of a 1 x 1 kernel, given as a matrix ``[out, in]``."""
        down, right = self.stride
        places = x.permute(0, 2, 3, 1)[:, ::down, ::right]
        if weight.is_mkldnn or places.numel() * len(weight) > _PRODUCTS:
            out = _matrix_product(places, weight, bias, self.bounds)
        else:
            out = nn.functional.linear(places, weight, bias)
            out = out if self.bounds is None else out.clamp_(*self.bounds)
        return out.permute(0, 3, 1, 2)

    def _product(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        """The convolution as one matrix product: a row for each place of the output."""
        assert isinstance(self.padding, tuple), "others are not packed"
        (top, left), (down, right) = self.padding, self.stride
        padded = nn.functional.pad(x.permute(0, 2, 3, 1), (0, 0, left, left, top, top))
        windows = padded.unfold(1, self.kernel_size[0], down).unfold(2, self.kernel_size[1], right)
        places = windows.permute(0, 1, 2, 4, 5, 3).flatten(3)
        return _matrix_product(places, weight, bias, self.bounds).permute(0, 3, 1, 2)


class _PackedLinear(nn.Linear):
    """A linear layer whose weight may be a packed one."""

    bounds: Bounds | None
    """As a convolution's."""

    @property
    def packed(self) -> bool:
        """Whether the weight in place is a packed one."""
        return self.weight.is_mkldnn

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.packed:
            return super().forward(x)
        return _matrix_product(x, self.weight, self.bias, self.bounds)


class _PackedAttention(nn.MultiheadAttention):
    """Attention whose weights may be packed ones, for one tensor with itself and no mask."""

    def forward(
        self, query: torch.Tensor, *others: Any, **options: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        if not self.in_proj_weight.is_mkldnn:
            return super().forward(query, *others, **options)
        if not is_plain_attention(query, *others, **options):
            return nn.MultiheadAttention.forward(self._dense(), query, *others, **options)
        turned = not self.batch_first and query.ndim == 3
        x = query.transpose(0, 1) if turned else query
        out = attend(self, x, self.num_heads, _matrix_product)
        return (out.transpose(0, 1) if turned else out), None

    def _dense(self) -> nn.MultiheadAttention:
        """The same on plain weights; other threads may be running this one."""
        dense, out = copy.copy(self), copy.copy(self.out_proj)
        for twin in (dense, out):
            weights: dict[str, Any] = dict(twin._parameters)
            for name, weight in weights.items():
                if weight is not None and weight.is_mkldnn:
                    weights[name] = weight.to_dense()
            twin._parameters = weights
        dense._modules = {"out_proj": out}
        return dense


def _matrix_product(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    bounds: Bounds | None = None,
) -> torch.Tensor:
    """``[..., out]`` of ``[..., in]``, clamped."""
    # Without a -1: of no images its size would be anybody's guess.
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
        rows, weight, bias, *_attribute(bounds), ""
    )
    return out.view(*x.shape[:-1], out.shape[-1])


def _attribute(bounds: Bounds | None) -> tuple[str, list[float]]:
    """An activation as oneDNN's kernels are told of it: its name and numbers."""
    if bounds is None:
        return "none", []
    low, high = bounds
    return ("relu", []) if high is None else ("hardtanh", [low, high])


_PLACES, _CHANNELS = 16, 256
"""Convolutions become matrix products if their outputs have at most so many places, and their
inputs at least so many channels. For 512 channels oneDNN's convolution takes 2.4 times as long as
the product on 2 x 2 places and 1.2 times on 4 x 4; for 96 channels it is as fast."""

_PRODUCTS = 2**19
"""Matrix products of fewer multiplications are left to torch: setting up oneDNN's takes longer than
the work. From there on a convolution of a 1 x 1 kernel is faster as oneDNN's product than as its
convolution, and the product takes .4 to 1 of the time of torch's, by the processor's maker."""

_BODIES: WeakKeyDictionary[Backbone, KernelOrder | None] = WeakKeyDictionary()
_TRUNKS: WeakKeyDictionary[Backbone, tuple[KernelOrder, nn.Module] | None] = WeakKeyDictionary()


class KernelOrder:
    """Packs the weights of a body for activations of one size.

    A convolution on a processor first puts its weights into the order of its kernel, at each call
    anew. For a few images that takes as long as a third of the work. Packed once, they are ready.
    Where many channels meet few places, weights are packed for a matrix product instead; so are
    those of 1 x 1 kernels, of linear layers, and of attention of a tensor with itself.
    A batch norm that alone reads a convolution is folded into it (Jacob et al., 2018,
    "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
    section 3.2): one pass over the activations less. So is a ReLU or ReLU6 (any ``Hardtanh``), a
    module of its own, that alone reads what comes out.
    The order depends on the height and width of what comes in, not on the batch; weights in an
    order for another size are slower than plain ones by far, so nothing else may be run on them.

    Args:
        body: stays as it is. It is run once, to see the sizes of its convolutions' inputs.
        activation: of one image, as the body takes it.
        run: runs a twin of the body and reads all that anybody reads of it; by default a call.

    Example:
        >>> body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 1)).eval()
        >>> order = KernelOrder(body, torch.zeros(1, 3, 6, 6))
        >>> order.fits(torch.zeros(5, 3, 6, 6)), order.fits(torch.zeros(5, 3, 7, 7))
        (False, False)
        >>> with torch.inference_mode():
        ...     order.fits(torch.zeros(5, 3, 6, 6)), order.fits(torch.zeros(5, 3, 7, 7))
        (True, False)
    """

    def __init__(
        self, body: nn.Module, activation: torch.Tensor, run: Run = nn.Module.__call__
    ) -> None:
        self.shape = activation.shape[1:]
        self._layers = _layers_of(body)
        sizes, self._norms, self._activations = find_followers(body, self._layers, activation, run)
        self._inputs = {
            name: size for name, size in sizes.items() if _weights_to_pack(self._layers[name], size)
        }

    @classmethod
    def of(cls, backbone: Backbone) -> KernelOrder | None:
        """The order for a backbone's images; found out once and kept.

        ``None`` on other devices, without a layer to pack in the body, or if images may have any
        size.
        """
        if backbone.mean.device.type != "cpu":
            return None
        if backbone not in _BODIES:
            _BODIES[backbone] = cls._find(backbone)
        return _BODIES[backbone]

    @classmethod
    def _find(cls, backbone: Backbone) -> KernelOrder | None:
        image = _image_to_pack_for(backbone, backbone.body)
        if image is None:
            return None
        with _as_first_run():
            activation = backbone.run_trunk(image).activation
            order = cls(backbone.body, activation)
            if not order._inputs:
                return None
            noise = backbone.run_trunk(noise_like(image)).activation
            return order if order._works(backbone.body, noise) else None

    def _works(self, body: nn.Module, activation: torch.Tensor) -> bool:
        """Whether a body gives the same on packed weights, whatever a ticket's norms are."""
        twin, plain = Skeleton(body), Skeleton(body)
        twin.module.eval()
        plain.module.eval()
        self.accept(twin.module)
        noise = torch.Generator().manual_seed(0)
        values = {
            f"{name}.{part}": (0.5 + torch.rand(norm.num_features, generator=noise)).to(norm.weight)
            for name, norm in self._norms.values()
            for part in ("weight", "bias", "running_mean", "running_var")
        }
        return agree(lambda x: twin(self.pack(values), x), lambda x: plain(values, x), activation)

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
        """The same values, layers' weights packed and batch norms folded into them.

        Args:
            values: by name; the body's own stand in for those that are not given.
            prefix: of the body's names in ``values``.
        """
        packed = dict(values)
        for name, size in self._inputs.items():
            for part in _weights_to_pack(self._layers[name], size):
                key = f"{prefix}{name}.{part}"
                weight = packed.get(key, self._layers[name].get_parameter(part)).detach()
                if name in self._norms:
                    weight = self._fold(name, weight, packed, prefix)
                packed[key] = _pack(self._layers[name], weight, size)
        return packed

    def packed_twin(self, body: nn.Module) -> nn.Module:
        """A twin of the body whose packed weights are in place for good."""
        twin = Skeleton(body).module.eval()
        self.accept(twin)
        for name, value in self.pack({}).items():
            owner, _, key = name.rpartition(".")
            twin.get_submodule(owner)._parameters[key] = value  # type: ignore[assignment]
        return twin

    def _fold(
        self, name: str, weight: torch.Tensor, packed: dict[str, torch.Tensor], prefix: str
    ) -> torch.Tensor:
        """A convolution's weight with its norm in it; in ``packed`` the norm becomes a bias."""
        own, norm = self._norms[name]
        scale, shift, mean, variance = (
            packed.get(f"{prefix}{own}.{part}", getattr(norm, part)).detach()
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        bias = self._layers[name].bias
        folded = fuse_conv_bn_weights(weight, bias, mean, variance, norm.eps, scale, shift)
        packed[f"{prefix}{own}.weight"] = scale.new_empty(0)
        packed[f"{prefix}{own}.bias"] = folded[1].detach()
        for part in ("running_mean", "running_var", "num_batches_tracked"):
            packed.pop(f"{prefix}{own}.{part}", None)
        return folded[0].detach()

    def accept(self, body: nn.Module) -> None:
        """Let a twin of the body (a skeleton's, nobody else's) take packed weights."""
        for name in self._inputs:
            layer, norm, bounds = body.get_submodule(name), None, None
            if name in self._norms:
                norm = body.get_submodule(self._norms[name][0])
                norm.__class__ = _FoldedNorm
            layer.__class__ = next(
                packed for plain, packed in _PACKED.items() if isinstance(layer, plain)
            )
            if name in self._activations:
                activation = body.get_submodule(self._activations[name])
                bounds = bounds_of(activation)
                activation.forward = _unless_packed(layer, activation.forward)  # type: ignore[arg-type]
            object.__setattr__(layer, "norm", norm)  # not as a part of its own
            object.__setattr__(layer, "bounds", bounds)


_PACKED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: _PackedConv2d,
    nn.Linear: _PackedLinear,
    nn.MultiheadAttention: _PackedAttention,
}


def _layers_of(body: nn.Module) -> dict[str, Any]:
    """The layers that may be packed, by name; not a body that is one layer itself."""
    layers = convolutions_of(body) | products_of(body)
    return {name: layer for name, layer in layers.items() if name}


def _weights_to_pack(layer: nn.Module, size: list[int]) -> tuple[str, ...]:
    """Names of a layer's weights that are worth it, for one image's input of this size."""
    if isinstance(layer, nn.Conv2d):
        return ("weight",)
    names = ("weight",) if isinstance(layer, nn.Linear) else ("out_proj.weight", "in_proj_weight")
    work = layer.get_parameter(names[0]).numel() * math.prod(size[:-1])
    return names if work > _PRODUCTS else ()


def _pack(layer: Any, weight: torch.Tensor, size: list[int]) -> torch.Tensor:
    """A layer's weight for its kernel: packed, or a small matrix ``[out, in]`` as it is."""
    convolves = isinstance(layer, nn.Conv2d)
    if convolves and not _is_pointwise(layer) and not _few_places(layer, size):
        return torch._C._nn.mkldnn_reorder_conv2d_weight(  # type: ignore[call-arg]
            weight.to_mkldnn(), layer.padding, layer.stride, layer.dilation, layer.groups, size
        )
    rows = weight.permute(0, 2, 3, 1).flatten(1) if convolves else weight
    rows = rows.contiguous()
    if convolves and _is_pointwise(layer) and rows.numel() * math.prod(size[2:]) <= _PRODUCTS:
        return rows
    packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(rows)
    return packed


def run_trunk(backbone: Backbone, images: torch.Tensor) -> TrunkOutput:
    """:meth:`Backbone.run_trunk`, on packed weights where they fit; equal up to rounding.

    Unlike tickets' weights, the trunk's never change, so one packed twin serves all threads.
    """
    found = pack_trunk(backbone)
    if found is None:
        return backbone.run_trunk(images)
    backbone.check_images(images)
    order, twin = found
    x = backbone.normalise(images)
    # Packed activations turn what is not a number into 0, and nobody would notice.
    fits = order.fits(x) and (images.dtype == torch.uint8 or bool(x.sum().isfinite()))
    return backbone.read_trunk(twin if fits else backbone.trunk, x)


def pack_trunk(backbone: Backbone) -> tuple[KernelOrder, nn.Module] | None:
    """A trunk's order and its packed twin, made once; ``None`` where it cannot be packed."""
    # A kind of backbone with a run of its own may do other things than run its trunk.
    if backbone.mean.device.type != "cpu" or type(backbone).run_trunk is not Backbone.run_trunk:
        return None
    if backbone not in _TRUNKS:
        with _as_first_run():
            _TRUNKS[backbone] = _find_packed_trunk(backbone)
    return _TRUNKS[backbone]


def _find_packed_trunk(backbone: Backbone) -> tuple[KernelOrder, nn.Module] | None:
    image = _image_to_pack_for(backbone, backbone.trunk)
    if image is None:
        return None
    x = backbone.normalise(image)
    order = KernelOrder(backbone.trunk, x, backbone.read_trunk)
    if not order._inputs:
        return None
    twins: list[nn.Module] = []

    def packed(x: torch.Tensor) -> torch.Tensor:
        twins.append(order.packed_twin(backbone.trunk))
        return backbone.read_trunk(twins[0], x).activation

    def plain(x: torch.Tensor) -> torch.Tensor:
        return backbone.read_trunk(Skeleton(backbone.trunk).module.eval(), x).activation

    works = agree(packed, plain, backbone.normalise(noise_like(image)))
    return (order, twins[0]) if works else None


@contextmanager
def _as_first_run() -> Iterator[None]:
    """What a caller has set for its own passes does not count while a twin is made."""
    with torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False):
        yield


def noise_like(image: torch.Tensor) -> torch.Tensor:
    """A ``uint8`` image of this shape, always the same."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, image.shape, dtype=torch.uint8, generator=generator)
    return noise.to(image.device)


def blank_image(backbone: Backbone) -> torch.Tensor | None:
    """One image as a backbone takes it; ``None`` if images may have any size."""
    size, channels = backbone.input_spec.size, backbone.input_spec.channels
    if size is None:
        return None
    return torch.zeros(1, channels, *size, dtype=torch.uint8, device=backbone.mean.device)


def _image_to_pack_for(backbone: Backbone, part: nn.Module) -> torch.Tensor | None:
    """One image, if a part has layers to pack, all images have one size, and torch can."""
    able = torch.backends.mkldnn.is_available() and all(
        hasattr(torch.ops.mkldnn, name)
        for name in ("_convolution_pointwise", "_linear_pointwise", "_reorder_linear_weight")
    )
    return blank_image(backbone) if able and _layers_of(part) else None


def _unless_packed(layer: _PackedConv2d | _PackedLinear, forward: Any) -> Any:
    """An activation's forward, which is left out where the layer has done its work."""

    def run(x: torch.Tensor) -> torch.Tensor:
        return x if layer.packed else forward(x)

    return run


def _is_pointwise(conv: nn.Conv2d) -> bool:
    """Whether a convolution is a matrix product at each place."""
    return conv.kernel_size == (1, 1) and conv.padding == (0, 0) and conv.groups == 1


def _few_places(conv: nn.Conv2d, size: list[int]) -> bool:
    """Whether a matrix product is faster than the convolution, on inputs of this size."""
    if conv.groups > 1 or conv.dilation != (1, 1) or conv.in_channels < _CHANNELS:
        return False
    x, weight = torch.empty(size, device="meta"), conv.weight.to("meta")
    out = nn.functional.conv2d(x, weight, None, conv.stride, conv.padding)
    return out.shape[2:].numel() <= _PLACES
