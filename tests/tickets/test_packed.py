"""Packed weights: the same answers, and never on anything that they do not fit."""

from __future__ import annotations

import copy
import gc
import subprocess
import sys
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from rtl_continual.backbones import Backbone, InputSpec, build_backbone
from rtl_continual.errors import DataError
from rtl_continual.tasks import Classification
from rtl_continual.tickets import Mask, Skeleton, Ticket, TicketBank, TicketInfo
from rtl_continual.tickets._packed import KernelOrder, run_trunk

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this build of torch has no packed kernels"
)


class Shared(nn.Module):
    """One convolution at two sizes, two with one weight, one that is not called, one grouped."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Conv2d(4, 4, 3, 2, 1)
        self.a, self.b = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.b.weight = self.a.weight
        self.idle = nn.Conv2d(4, 4, 1)
        self.grouped = nn.Conv2d(4, 8, 3, padding=1, groups=4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.grouped(self.b(self.a(self.twice(self.twice(x)))))


def test_packed_weights_give_the_same_outputs(bank: TicketBank) -> None:
    order = KernelOrder.of(bank.backbone)
    assert order is not None
    images = torch.randint(0, 256, (7, 3, 32, 32), dtype=torch.uint8)
    activation = bank.backbone.run_trunk(images).activation
    plain = bank.run_ticket(1, activation)  # with gradients on: packed weights have none
    with torch.inference_mode():
        packed = bank.run_ticket(1, activation)
    torch.testing.assert_close(packed, plain, rtol=1e-5, atol=1e-5)
    weights = bank._packed_parameters(1, order)
    assert weights["body.block3.conv1.weight"].is_mkldnn
    assert bank.prepared == (1,)


@pytest.mark.parametrize(
    ("options", "size", "product"),
    [
        ({"padding": 1}, (2, 2), True),
        ({"padding": (0, 1), "stride": (1, 2), "bias": False}, (6, 7), True),
        ({"padding": 1, "kernel_size": 1}, (2, 2), True),
        ({"padding": 1}, (9, 9), False),
        ({"padding": 1, "dilation": 2}, (4, 4), False),
        ({"padding": 1, "groups": 2}, (2, 2), False),
    ],
)
def test_many_channels_on_few_places_are_a_matrix_product(
    options: dict[str, Any], size: tuple[int, int], product: bool
) -> None:
    body = nn.Sequential(nn.Conv2d(256, 8, **{"kernel_size": 3} | options), nn.ReLU()).eval()
    x = torch.randn(5, 256, *size)
    order = KernelOrder(body, x[:1])
    twin = Skeleton(body)
    order.accept(twin.module)
    with torch.inference_mode():
        packed = order.pack(dict(body.named_parameters()))
        assert (packed["0.weight"].ndim == 2) is product
        for batch in (x, x.contiguous(memory_format=torch.channels_last)):
            torch.testing.assert_close(twin(packed, batch), body(batch), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stride", [1, (2, 3)])
@pytest.mark.parametrize(("channels", "form"), [(8, "matrix"), (256, "packed")])
def test_kernels_of_one_place_are_a_matrix_product(stride: Any, channels: int, form: str) -> None:
    body = nn.Sequential(nn.Conv2d(channels, 200, 1, stride), nn.ReLU6()).eval()
    x = torch.randn(40, channels, 5, 6) * 20
    order = KernelOrder(body, x[:1])
    twin = order.packed_twin(body)
    assert twin[0].weight.ndim == 2
    assert twin[0].weight.is_mkldnn is (form == "packed")
    with torch.inference_mode():
        for batch in (x[:1], x, x.contiguous(memory_format=torch.channels_last)):
            assert (body(batch) == 6).any(), "both bounds are reached"
            torch.testing.assert_close(twin(batch), body(batch), rtol=1e-4, atol=1e-4)


class Block(nn.Module):
    """A vision transformer's block, and layers that must be left alone."""

    def __init__(self, width: int, *, batch_first: bool = True) -> None:
        super().__init__()
        self.attention, self.crossed, self.shown, self.masked = (
            nn.MultiheadAttention(width, 4, batch_first=batch_first) for _ in range(4)
        )
        self.wide, self.act = nn.Linear(width, 4 * width, bias=False), nn.ReLU(inplace=True)
        self.narrow = nn.Linear(4 * width, width)
        self.small, self.tied, self.idle = nn.Linear(width, 2), *(nn.Linear(4, 4) for _ in "ab")
        self.tied.weight = self.idle.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(x, x, x, need_weights=False)[0]
        x = x + self.narrow(self.act(self.wide(x)))
        x = x + self.crossed(x, x * 2, x, need_weights=False)[0]
        x = x + self.shown(x, x, x)[1].mean()
        mask = torch.ones(len(x), len(x), dtype=torch.bool).triu(1) if x.ndim == 2 else None
        x = x + self.masked(x, x, x, need_weights=False, attn_mask=mask, is_causal=x.ndim == 2)[0]
        return self.small(x)


@pytest.mark.parametrize(
    ("batch_first", "size"), [(True, (3, 40, 128)), (False, (40, 3, 128)), (True, (40, 128))]
)
def test_a_transformers_products_are_packed(batch_first: bool, size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    body = Block(128, batch_first=batch_first).eval()
    for attention in (body.attention, body.masked):
        nn.init.normal_(attention.in_proj_bias)
    x = torch.randn(size)
    image = x if x.ndim == 2 else x[:1] if batch_first else x[:, :1]
    with torch.no_grad():
        order = KernelOrder(body, image)
    packed = {name for name, t in order.pack({}).items() if t.is_mkldnn}
    wanted = {f"attention.{part}" for part in ("in_proj_weight", "out_proj.weight")}
    wanted |= {"wide.weight", "narrow.weight"}
    if x.ndim == 3:  # it has a mask otherwise
        wanted |= {f"masked.{part}" for part in ("in_proj_weight", "out_proj.weight")}
    assert packed == wanted
    assert order._activations == {"wide": "act"}
    twin = Skeleton(body)
    order.accept(twin.module)
    with torch.inference_mode():
        torch.testing.assert_close(twin({}, x), body(x))
        torch.testing.assert_close(twin(order.pack({}), x), body(x), rtol=1e-4, atol=1e-4)


def test_a_vision_transformers_ticket_answers_the_same_on_packed_weights() -> None:
    backbone = build_backbone("vit_b_16", weights="random:0", input_size=64)
    bank = TicketBank(backbone, Classification(3))
    generator = torch.Generator().manual_seed(0)
    keep = torch.rand(bank.layout.total, generator=generator) < 0.5
    state = backbone.body.state_dict()
    bank.append(
        Ticket(
            id=0,
            mask=Mask.from_flat(bank.layout, keep),
            norm={name: state[name] for name in bank.norm_names},
            head=bank.task.build_head(backbone.feature_dim).state_dict(),
            statistics={},
            info=TicketInfo("first"),
        )
    )
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=generator)
    trunk = backbone.run_trunk(images)
    plain = bank.run_ticket(0, trunk.activation)  # with gradients on: packed weights have none
    with torch.inference_mode():
        torch.testing.assert_close(bank.run_trunk(images).activation, trunk.activation)
        packed = bank.run_ticket(0, trunk.activation)
    assert not torch.equal(packed, plain), "another order of sums"
    torch.testing.assert_close(packed, plain, rtol=1e-4, atol=1e-4)
    assert bank._packed_parameters(0, KernelOrder.of(backbone))[
        "body.block3.self_attention.in_proj_weight"
    ].is_mkldnn


def test_gradients_pass_through_a_ticket(bank: TicketBank) -> None:
    images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    with torch.no_grad():
        activation = bank.backbone.run_trunk(images).activation
        bank.run_ticket(0, activation)
    activation.requires_grad_()
    bank.run_ticket(0, activation).sum().backward()
    assert activation.grad is not None


def test_answers_keep_their_bits_from_call_to_call(bank: TicketBank) -> None:
    for count in (1, 5):
        images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
        first = bank.predict(images, ticket_ids=0).outputs
        other = TicketBank(bank.backbone, bank.task, tickets=bank.tickets)
        other.effective_parameters(0)
        for again in (bank, other, copy.copy(bank)):
            assert torch.equal(first, again.predict(images, ticket_ids=0).outputs)


def test_what_is_shared_or_not_called_is_left_alone() -> None:
    body = Shared().eval()
    x = torch.randn(3, 4, 9, 9)
    order = KernelOrder(body, x[:1])
    with torch.no_grad():
        packed = order.pack(dict(body.named_parameters()))
    assert [name for name, t in packed.items() if t.is_mkldnn] == ["grouped.weight"]


def test_images_of_any_size_are_run_on_plain_weights() -> None:
    backbone = build_backbone("resnet18", weights="random:0")
    assert backbone.input_spec.size is None
    assert KernelOrder.of(backbone) is None


def test_the_order_of_a_backbone_does_not_keep_it_alive(backbone: Backbone) -> None:
    alone = copy.deepcopy(backbone)
    assert KernelOrder.of(alone) is not None
    gone = weakref.ref(alone)
    del alone
    gc.collect()
    assert gone() is None


def test_mixed_precision_runs_on_plain_weights(bank: TicketBank) -> None:
    images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    wanted = bank.predict(images, ticket_ids=0).outputs
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = bank.predict(images, ticket_ids=0).outputs
    torch.testing.assert_close(outputs.float(), wanted, rtol=0.05, atol=0.05)


def test_a_bank_with_nothing_to_pack_has_no_order() -> None:
    backbone = Backbone(
        "dense", nn.Flatten(), nn.Linear(12, 4), feature_dim=4, input_spec=InputSpec(size=(2, 2))
    )
    assert KernelOrder.of(backbone) is None
    assert TicketBank(backbone, Classification(2)).prepared == ()


class Norms(nn.Module):
    """A batch norm that can be folded into its convolution, and three that cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Conv2d(4, 4, 3, padding=1) for _ in "abcd")
        self.of_a, self.of_b, self.of_sum = (nn.BatchNorm2d(4) for _ in "abs")
        self.twice = nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.of_a(self.a(x)).relu()
        x = self.b(x)
        x = x + self.of_b(x)  # somebody else reads it, too
        x = self.of_sum(x + 1)
        return self.twice(self.d(self.twice(self.c(x))))


def test_a_norm_is_folded_if_it_alone_reads_the_convolution() -> None:
    torch.manual_seed(0)
    body = Norms().eval()
    for norm in body.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                nn.init.uniform_(tensor, 0.5, 2)
    x = torch.randn(3, 4, 8, 8)
    order, again = KernelOrder(body, x[:1]), [KernelOrder(body, x[:1]) for _ in range(30)]
    assert {*order._norms} == {"a"}
    assert all(other._norms == order._norms for other in again), "whatever ids tensors get"
    packed = order.pack({})
    assert [name for name in packed if "of_" in name or "twice" in name] == [
        "of_a.weight",
        "of_a.bias",
    ]
    twin = Skeleton(body)
    order.accept(twin.module)
    with torch.inference_mode():
        torch.testing.assert_close(twin(packed, x), body(x), rtol=1e-4, atol=1e-4)
        # Values of a ticket are what is folded, not the body's own; plain values are run plainly.
        other = {"of_a.weight": torch.full((4,), 3.0), "of_a.running_mean": torch.ones(4)}
        expected = torch.func.functional_call(body, other, x)
        torch.testing.assert_close(twin(other, x), expected)
        torch.testing.assert_close(twin(order.pack(other), x), expected, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(expected, body(x), atol=1e-2)


class Activations(nn.Module):
    """Activations that can be folded into what is before them, and some that cannot."""

    def __init__(self, wide: int) -> None:
        super().__init__()
        names = ("relu", "relu6", "single", "shared", "again", "functional", "twice", "early")
        self.convs = nn.ModuleDict({name: nn.Conv2d(4, 4, 3, padding=1) for name in names})
        self.convs["single"] = nn.Conv2d(4, 4, 1)
        self.convs["product"] = nn.Conv2d(wide, 4, 3, padding=1)
        self.acts = nn.ModuleDict({name: nn.ReLU6(inplace=True) for name in self.convs})
        self.acts["relu"], self.acts["twice"] = nn.ReLU(), nn.ReLU()
        self.norm = nn.BatchNorm2d(4)
        self.wide = wide

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        convs, acts = self.convs, self.acts
        x = acts["product"](convs["product"](x.repeat(1, self.wide // 4, 1, 1)))
        x = acts["relu"](convs["relu"](x))
        x = acts["relu6"](self.norm(convs["relu6"](x)))
        x = x + acts["single"](convs["single"](x))  # in place: both read what is clamped
        x = acts["shared"](convs["shared"](x))
        x = acts["shared"](convs["again"](x))
        x = nn.functional.relu6(convs["functional"](x))
        out = convs["twice"](x)
        x = acts["twice"](out) + out  # somebody else reads what is not clamped
        out = convs["early"](x)
        return out.abs() + acts["early"](out)


@pytest.mark.parametrize("batch", [1, 80])
def test_an_activation_is_folded_if_it_alone_reads_the_output(batch: int) -> None:
    torch.manual_seed(0)
    body = Activations(256).eval()
    nn.init.uniform_(body.norm.running_var, 0.5, 2)
    for conv in body.convs.values():
        nn.init.normal_(conv.weight, std=0.2 if conv.in_channels == 4 else 0.05)
        nn.init.uniform_(conv.bias, 0, 7)  # so that both bounds are reached
    x = torch.randn(batch, 4, 4, 4)
    order = KernelOrder(body, x[:1])
    assert order._activations == {
        f"convs.{name}": f"acts.{name}" for name in ("relu", "relu6", "single", "product")
    }
    packed = order.pack({})
    assert packed["convs.single.weight"].shape == (4, 4), "a matrix product as it stands"
    twin = Skeleton(body)
    order.accept(twin.module)
    with torch.inference_mode():
        expected = body(x.clone())
        torch.testing.assert_close(twin({}, x.clone()), expected)
        torch.testing.assert_close(twin(packed, x.clone()), expected, rtol=1e-4, atol=1e-4)


def lively(backbone: Backbone) -> Backbone:
    """Norms by which a random network's features do not vanish with its depth."""
    generator = torch.Generator().manual_seed(0)
    for norm in backbone.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_var.copy_(torch.rand(norm.num_features, generator=generator) * 0.1 + 0.05)
            norm.running_mean.copy_(torch.rand(norm.num_features, generator=generator) - 0.5)
    return backbone


@pytest.mark.parametrize("name", ["efficientnet_lite0", "mobilenet_v2"])
def test_every_convolution_of_a_small_network_is_packed(name: str) -> None:
    backbone = lively(build_backbone(name, weights="random:0", input_size=64))
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (5, 3, 64, 64), dtype=torch.uint8, generator=generator)
    wanted = backbone.run_trunk(images)
    for part, x in ((backbone.trunk, images), (backbone.body, wanted.activation)):
        x = backbone.normalise(x) if part is backbone.trunk else x
        order = KernelOrder(part, x[:1])
        convolutions = [n for n, m in part.named_modules() if isinstance(m, nn.Conv2d)]
        assert [*order._inputs] == [*order._norms] == convolutions
        assert len(order._activations) >= len(convolutions) * 0.6, "all but the projections"
        with torch.inference_mode():
            out, packed = part(x), order.packed_twin(part)(x)
        assert out.std() > 0.01
        torch.testing.assert_close(packed, out, rtol=1e-3, atol=1e-4 * float(out.std()))


def test_the_trunk_runs_on_packed_weights(backbone: Backbone) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (9, 3, 32, 32), dtype=torch.uint8, generator=generator)
    plain = run_trunk(backbone, images)
    assert torch.equal(plain.activation, backbone.run_trunk(images).activation), "with gradients"
    with torch.inference_mode():
        packed = run_trunk(backbone, images)
        assert not torch.equal(packed.activation, plain.activation), "another order of sums"
        for got, wanted in zip(packed, plain, strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
        # The router must see the same of an image in whatever batch it comes.
        for row in (0, 8):
            alone = run_trunk(backbone, images[row : row + 1]).router_features
            assert torch.equal(alone[0], packed.router_features[row])
        with pytest.raises(DataError, match="images must be"):
            run_trunk(backbone, images[:, :2])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_shows_behind_a_packed_trunk(backbone: Backbone, bad: float) -> None:
    images = torch.zeros(3, 3, 32, 32)
    images[1, 0, 5, 5] = bad
    with torch.inference_mode():
        features = run_trunk(backbone, images).router_features
    assert torch.isfinite(features).all(dim=1).tolist() == [True, False, True]


def test_what_a_tap_reads_is_not_folded_away() -> None:
    trunk = nn.Sequential()
    trunk.add_module("conv", nn.Conv2d(3, 4, 3))
    trunk.add_module("norm", nn.BatchNorm2d(4))
    trunk.add_module("act", nn.ReLU(inplace=True))
    nn.init.constant_(trunk.norm.running_mean, 0.3)
    body = nn.Sequential(nn.Flatten(), nn.Linear(4 * 36, 5))
    spec = InputSpec(size=(8, 8))
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    for taps in (("conv", "act"), ("norm",), None):
        tapped = Backbone("tapped", trunk, body, feature_dim=5, input_spec=spec, taps=taps)
        with torch.inference_mode():
            got, wanted = run_trunk(tapped, images), tapped.run_trunk(images)
        torch.testing.assert_close(got.router_features, wanted.router_features)
        torch.testing.assert_close(got.activation, wanted.activation)


def test_a_first_prediction_does_not_load_torchs_compiler() -> None:
    program = """
import sys
import torch
from rtl_continual.backbones import build_backbone
from rtl_continual.tickets._packed import KernelOrder, run_trunk
backbone = build_backbone("glyphnet", weights="random:0", width=4)
with torch.inference_mode():
    run_trunk(backbone, torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    assert KernelOrder.of(backbone)._norms
assert "torch._dynamo" not in sys.modules, "a second of imports"
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


class Odd(nn.Module):
    """Layers, and a forward that does something unusual with them."""

    def __init__(self, run: Callable[[Any, torch.Tensor], torch.Tensor], **layers: nn.Module):
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.run(self, x)


def _tokens(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(2).transpose(1, 2)


def _masked_if_dark(m: Any, x: torch.Tensor) -> torch.Tensor:
    t = _tokens(torch.cat([x, x], 1))
    dark = t[..., 0] < t[..., 0].mean(1, keepdim=True) - 1e-3
    mask = dark if bool(dark.any()) else None  # blank images have none
    return m.a(t, t, t, key_padding_mask=mask, need_weights=False)[0].mean(1)


def _conv() -> nn.Conv2d:
    return nn.Conv2d(64, 64, 3, padding=1)


ODD = {
    "keyword": lambda: Odd(lambda m, x: m.b(input=m.a(input=x)).mean((2, 3)), a=_conv(), b=_conv()),
    "weight read": lambda: Odd(lambda m, x: m.a(x).mean((2, 3)) * m.a.weight.norm(), a=_conv()),
    "used again": lambda: Odd(
        lambda m, x: (m.a(x) + nn.functional.conv2d(x, m.a.weight, padding=1)).mean((2, 3)),
        a=_conv(),
    ),
    "bias of a norm read": lambda: Odd(
        lambda m, x: m.n(m.a(x)).mean((2, 3)) + m.n.bias, a=_conv(), n=nn.BatchNorm2d(64)
    ),
    "mask now and then": lambda: Odd(
        _masked_if_dark, a=nn.MultiheadAttention(128, 4, batch_first=True)
    ),
    "weight of parts": lambda: Odd(
        lambda m, x: m.a(_tokens(m.c(x))).mean(1),
        a=nn.utils.spectral_norm(nn.Linear(64, 256)),
        c=_conv(),
    ),
    "one large layer": lambda: nn.Linear(64 * 64, 64),
}


WIDTHS = {"mask now and then": 128, "weight of parts": 256}


def _odd_bank(body: nn.Module, *, tail: nn.Module | None = None, features: int = 64) -> TicketBank:
    trunk = nn.Sequential(nn.Conv2d(3, 64, 1), tail or nn.Identity())
    backbone = Backbone("odd", trunk, body, feature_dim=features, input_spec=InputSpec(size=(8, 8)))
    bank = TicketBank(backbone, Classification(3))
    state = backbone.body.state_dict()
    keep = torch.rand(bank.layout.total, generator=torch.Generator().manual_seed(0)) < 0.5
    norm = {
        name: state[name] + torch.rand(state[name].shape) if state[name].ndim else state[name]
        for name in bank.norm_names
    }
    head = bank.task.build_head(features).state_dict()
    mask = Mask.from_flat(bank.layout, keep)
    bank.append(Ticket(0, mask, norm, head, {}, TicketInfo("first")))
    return bank


@pytest.mark.filterwarnings("ignore:.*norm.*deprecated:FutureWarning")
@pytest.mark.parametrize("name", ODD)
def test_unusual_bodies_answer_as_on_plain_weights(name: str) -> None:
    torch.manual_seed(0)
    tail = nn.Flatten() if name == "one large layer" else None
    bank = _odd_bank(ODD[name](), tail=tail, features=WIDTHS.get(name, 64))
    images = torch.rand(5, 3, 8, 8)
    activation = bank.backbone.run_trunk(images).activation
    plain = bank.run_ticket(0, activation)  # with gradients on: packed weights have none
    with torch.inference_mode():
        torch.testing.assert_close(bank.run_ticket(0, activation), plain, rtol=1e-4, atol=1e-4)
        assert bank.predict(images[:0], ticket_ids=0).outputs.shape == (0, 3)
    packed = KernelOrder.of(bank.backbone) is not None
    assert packed == (name in ("mask now and then", "weight of parts"))


def test_an_extracted_network_is_folded_only_if_it_stays_the_same() -> None:
    torch.manual_seed(0)
    bank = _odd_bank(
        Odd(
            lambda m, x: m.b(m.n(m.a(x))).mean((2, 3)) * m.n.weight,
            a=_conv(),
            n=nn.BatchNorm2d(64),
            b=_conv(),
        )
    )
    activation = bank.backbone.run_trunk(torch.rand(5, 3, 8, 8)).activation
    torch.testing.assert_close(bank.extract(0)(activation), bank.run_ticket(0, activation))


@pytest.mark.parametrize("name", ["mobilenet_v2", "vit_b_32"])
def test_no_images_have_no_answers(name: str) -> None:
    backbone = build_backbone(name, weights="random:0", input_size=32)
    bank = TicketBank(backbone, Classification(3))
    with torch.inference_mode():
        out = bank.run_trunk(torch.zeros(0, 3, 32, 32)).activation
        assert out.shape == (0, *bank.run_trunk(torch.zeros(1, 3, 32, 32)).activation.shape[1:])


def test_a_first_prediction_in_mixed_precision_packs_all_the_same() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, norm_first=True)
    bank = _odd_bank(Odd(lambda m, x: m.a(_tokens(x)).mean(1), a=layer))
    images = torch.rand(5, 3, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = bank.predict(images, ticket_ids=0).outputs
    full = bank.predict(images, ticket_ids=0).outputs
    torch.testing.assert_close(mixed.float(), full, rtol=0.05, atol=0.05)


def test_merged_tickets_of_a_body_that_works_in_place() -> None:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Hardswish(inplace=True), _conv(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    bank = _odd_bank(body)
    first = bank[0]
    head = bank.task.build_head(128).state_dict()
    bank.append(Ticket(1, first.mask, first.norm, head, {}, TicketInfo("merged")))
    activation = bank.backbone.run_trunk(torch.rand(5, 3, 8, 8)).activation
    with torch.inference_mode():
        kept = activation.clone()
        own = nn.functional.linear(  # the ticket's own features come first
            Skeleton(body)(
                {k[5:]: t for k, t in bank.effective_parameters(1).items() if k[:5] == "body."},
                kept.clone(),
            ),
            head["weight"][:, :64],
        )
        plain = nn.functional.linear(body(kept.clone()), head["weight"][:, 64:], head["bias"])
        answer = bank.run_ticket(1, kept)
    torch.testing.assert_close(answer, own + plain, rtol=1e-4, atol=1e-4)


def test_a_network_left_in_training_mode_keeps_its_statistics() -> None:
    torch.manual_seed(0)
    body = Odd(lambda m, x: m.n(m.a(x)).mean((2, 3)), a=_conv(), n=nn.BatchNorm2d(64))
    bank = _odd_bank(body)
    before = copy.deepcopy(bank.backbone.body.state_dict())
    bank.backbone.body.train()
    assert KernelOrder.of(bank.backbone) is not None
    for name, value in bank.backbone.body.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_masked_calls_leave_a_packed_twin_as_it_is() -> None:
    torch.manual_seed(0)
    body = Odd(_masked_if_dark, a=nn.MultiheadAttention(128, 4, batch_first=True)).eval()
    order = KernelOrder(body, torch.zeros(1, 64, 8, 8))
    twin, x = order.packed_twin(body), torch.randn(3, 64, 8, 8)
    with torch.inference_mode():
        torch.testing.assert_close(twin(x), body(x), rtol=1e-4, atol=1e-4)
    weight = twin.get_submodule("a")._parameters["in_proj_weight"]
    assert weight is not None
    assert weight.is_mkldnn


def test_a_body_that_refuses_what_its_trunk_never_gives_is_packed_all_the_same() -> None:
    def positive(m: Any, x: torch.Tensor) -> torch.Tensor:
        if bool((x < 0).any()):
            raise ValueError("needs values of 0 and more")
        return m.a(x).mean((2, 3))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    bank = _odd_bank(Odd(positive, a=_conv()), tail=nn.ReLU())
    assert bank.predict(torch.rand(2, 3, 8, 8), ticket_ids=0).outputs.shape == (2, 3)
    assert KernelOrder.of(bank.backbone) is not None
