from __future__ import annotations

import io
import os
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from rtl_continual.backbones import build_backbone
from rtl_continual.backbones._glyphnet import glyphnet_stages
from rtl_continual.errors import RTLError

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    """The weights that ``random:5`` gives at width 4."""
    torch.manual_seed(5)
    return nn.Sequential(glyphnet_stages(4)).state_dict()


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., str]:
    """Save a state to a file, load it, and return the identity of what came out."""

    def run(state: Any, file: str = "net.safetensors") -> str:
        path = tmp_path / file
        if path.suffix == ".safetensors":
            save_file(state, path)
        else:
            torch.save(state, path)
        return build_backbone("glyphnet", weights=str(path), width=4).identity

    return run


@pytest.fixture
def expected() -> str:
    return build_backbone("glyphnet", weights="random:5", width=4).identity


def test_a_seed_gives_the_same_weights_and_leaves_the_random_state(expected: str) -> None:
    before = torch.get_rng_state()
    again = build_backbone("glyphnet", weights="random:5", width=4).identity
    assert torch.equal(torch.get_rng_state(), before)
    assert again == expected
    assert build_backbone("glyphnet", weights="random:6", width=4).identity != expected


@pytest.mark.parametrize("file", ["net.safetensors", "net.pt", "net.pth"])
def test_a_file_gives_its_weights(
    file: str, state: State, load: Callable[..., str], expected: str
) -> None:
    assert load(state, file) == expected


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_a_checkpoint_gives_its_state_dict(
    key: str, state: State, load: Callable[..., str], expected: str
) -> None:
    assert load({key: state, "epoch": 3}, "net.pt") == expected


@pytest.mark.parametrize("prefix", ["module.", "features.", "model.backbone."])
def test_a_prefix_is_stripped(
    prefix: str, state: State, load: Callable[..., str], expected: str
) -> None:
    wrapped = {prefix + key: value for key, value in state.items()}
    assert load(wrapped) == expected
    assert load({**wrapped, "head.weight": torch.zeros(2, 2)}) == expected


def test_a_file_in_half_precision_is_read_as_float32(
    state: State, load: Callable[..., str], expected: str
) -> None:
    halves = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    assert load(halves) != expected
    again = {k: v.float() if v.is_floating_point() else v for k, v in halves.items()}
    assert load(halves) == load(again)


def test_two_fitting_prefixes_are_an_error(state: State, load: Callable[..., str]) -> None:
    twice = {p + k: v.clone() for k, v in state.items() for p in ("query.", "key.")}
    with pytest.raises(RTLError, match=r"more than once, under key\., query\.: keep one"):
        load(twice)


def test_missing_unexpected_and_misshapen_tensors_are_listed(
    state: State, load: Callable[..., str]
) -> None:
    rest = {k: v for k, v in state.items() if not k.startswith("block2.bn1")}
    with pytest.raises(RTLError, match=r"tensors missing \(block2.bn1.weight, block2.bn1.bias, "):
        load(rest)
    with pytest.raises(RTLError, match=r"1 tensors unexpected \(block4.weight\)"):
        load({**state, "block4.weight": torch.zeros(1)})
    with pytest.raises(RTLError, match=r"stem.bn.bias is \[9\], not \[4\]"):
        load({**state, "stem.bn.bias": torch.zeros(9)})


def test_a_full_state_dict_of_torchvision_fits_without_its_classifier(tmp_path: Path) -> None:
    import torchvision

    torch.manual_seed(3)
    full = torchvision.models.mobilenet_v3_small().state_dict()
    assert "classifier.3.weight" in full
    save_file(full, tmp_path / "full.safetensors")
    loaded = build_backbone("mobilenet_v3_small", weights=str(tmp_path / "full.safetensors"))
    assert loaded.identity == build_backbone("mobilenet_v3_small", weights="random:3").identity
    save_file({f"module.{k}": v for k, v in full.items()}, tmp_path / "module.safetensors")
    wrapped = build_backbone("mobilenet_v3_small", weights=str(tmp_path / "module.safetensors"))
    assert wrapped.identity == loaded.identity


class Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_is_refused_and_not_run(zipped: bool, tmp_path: Path) -> None:
    path, target = tmp_path / "net.pt", tmp_path / "created"
    torch.save({"x": Malicious(target)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(RTLError, match="refused: it holds more than tensors"):
        build_backbone("glyphnet", weights=str(path))
    assert not target.exists()


def test_a_whole_pickled_model_is_refused(load: Callable[..., str]) -> None:
    with pytest.raises(RTLError, match=r"Save model\.state_dict"):
        load(nn.Linear(2, 2), "net.pt")


def test_files_that_are_none(tmp_path: Path, load: Callable[..., str]) -> None:
    def build(name: str, content: bytes) -> None:
        (tmp_path / name).write_bytes(content)
        build_backbone("glyphnet", weights=str(tmp_path / name))

    whole = io.BytesIO()
    torch.save({"x": torch.zeros(1000)}, whole)
    for name, content in [
        ("noise.pt", b"hello world"),
        ("empty.pt", b""),
        ("half.pth", whole.getvalue()[:2000]),
        ("noise.safetensors", b"hello world"),
        ("empty.safetensors", b""),
    ]:
        with pytest.raises(RTLError, match=f"{name}' is damaged or not what its name says"):
            build(name, content)
    with pytest.raises(RTLError, match="no state dict"):
        load([1, 2], "list.pt")
    with pytest.raises(RTLError, match="does not exist"):
        build_backbone("glyphnet", weights=str(tmp_path / "none.pt"))
    with pytest.raises(RTLError, match="'builtin' are neither built-in, torchvision:<enum> nor"):
        build_backbone("glyphnet", weights="builtin")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch's own cache folder, empty."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    return tmp_path / "checkpoints"


def test_torchvision_weights_come_from_torchs_cache(
    hub: Path, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision

    torch.manual_seed(4)
    hub.mkdir()
    enum = torchvision.models.MobileNet_V3_Small_Weights
    file = hub / Path(enum.IMAGENET1K_V1.url).name
    torch.save(torchvision.models.mobilenet_v3_small().state_dict(), file)
    for weights in ("IMAGENET1K_V1", "MobileNet_V3_Small_Weights.IMAGENET1K_V1", "DEFAULT"):
        backbone = build_backbone("mobilenet_v3_small", weights=f"torchvision:{weights}")
        assert backbone.weights == f"torchvision:{weights}"
    preset = enum.IMAGENET1K_V1.transforms()
    assert backbone.input_spec.size == (224, 224)
    assert backbone.input_spec.mean == tuple(preset.mean)
    assert backbone.input_spec.std == tuple(preset.std)
    same = build_backbone("mobilenet_v3_small", weights="random:4")
    assert backbone.identity == same.identity
    small = build_backbone("mobilenet_v3_small", weights="torchvision:IMAGENET1K_V1", input_size=32)
    assert torch.equal(small(images), same(images))


def test_torchvision_weights_without_network(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(RTLError, match=r"no route to host.*put it at '.*resnet18-f37072fd.pth'"):
        build_backbone("resnet18", weights="torchvision:IMAGENET1K_V1")


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("resnet18", "IMAGENET1K_V2", "'IMAGENET1K_V2'; did you mean 'IMAGENET1K_V1'"),
        ("resnet18", "ResNet50_Weights.IMAGENET1K_V1", "unknown torchvision weights"),
        ("glyphnet", "IMAGENET1K_V1", "'glyphnet' is not one of torchvision's"),
    ],
)
def test_unknown_torchvision_weights(name: str, weights: str, message: str) -> None:
    with pytest.raises(RTLError, match=message):
        build_backbone(name, weights=f"torchvision:{weights}")


def test_a_transformers_weights_fix_its_image_size(hub: Path) -> None:
    hub.mkdir()
    torch.save({"x": torch.zeros(1)}, hub / "vit_b_32-d86f8d99.pth")
    with pytest.raises(RTLError, match=r"images of \(224, 224\) pixels alone, got input_size 64"):
        build_backbone("vit_b_32", weights="torchvision:IMAGENET1K_V1", input_size=64)
