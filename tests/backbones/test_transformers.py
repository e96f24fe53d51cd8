"""The literature's vision transformers, from files under the names they are published with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rtl_continual.backbones import _clip as clip
from rtl_continual.backbones import build_backbone
from rtl_continual.backbones._timm import from_timm
from rtl_continual.backbones._torchvision import TORCHVISION


def timm_names() -> Iterator[str]:
    """As in timm's `vit_base_patch16_224`."""
    yield from ("cls_token", "pos_embed")
    parts = ["patch_embed.proj", "norm", "head"]
    inner = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    parts += [f"blocks.{i}.{part}" for i in range(12) for part in inner]
    for part in parts:
        yield from (f"{part}.weight", f"{part}.bias")


def test_timm_names_become_torchvisions() -> None:
    with torch.device("meta"):
        own = set(TORCHVISION["vit_b_16"].build(None, 24).module.state_dict())
    renamed = set(from_timm(dict.fromkeys(timm_names(), torch.zeros(1))))
    assert renamed == own | {"heads.head.weight", "heads.head.bias"}


def test_other_names_stay() -> None:
    state = {"class_token": torch.zeros(1), "norm.weight": torch.ones(1)}
    assert from_timm(state) == state


@pytest.fixture
def small_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"_WIDTH": 8, "_HEADS": 2, "_LAYERS": 3, "_FEATURES": 5}.items():
        monkeypatch.setattr(clip, name, value)


def test_clip_has_the_published_names(small_clip: None) -> None:
    names = set(clip.CLIP_VIT_B_16.build(None, 24).module.state_dict())
    block = {"attn.in_proj_weight", "attn.in_proj_bias", "attn.out_proj", "ln_1", "ln_2"}
    block |= {"mlp.c_fc", "mlp.c_proj"}
    wanted = {"class_embedding", "positional_embedding", "proj", "conv1.weight"}
    for part in (
        "ln_pre",
        "ln_post",
        *(f"transformer.resblocks.{i}.{b}" for i in range(3) for b in block),
    ):
        wanted |= {part} if "in_proj" in part else {f"{part}.weight", f"{part}.bias"}
    assert names == wanted


def test_clip_reads_an_image_encoder_out_of_a_whole_model(small_clip: None, tmp_path: Path) -> None:
    module = clip.CLIP_VIT_B_16.build(32, 24).module
    state = {f"visual.{name}": value for name, value in module.state_dict().items()}
    save_file({**state, "token_embedding.weight": torch.zeros(4, 4)}, tmp_path / "clip.safetensors")
    backbone = build_backbone(
        "clip_vit_b_16", weights=str(tmp_path / "clip.safetensors"), input_size=32
    )
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    x = backbone.normalise(images)
    # The class token by torch's own encoder layer, but for its activation.
    patches = module.conv1(x).flatten(2).transpose(1, 2)
    tokens = torch.cat([module.class_embedding.expand(2, 1, -1), patches], dim=1)
    tokens = module.ln_pre(tokens + module.positional_embedding)
    for block in module.transformer.resblocks:
        y = block.ln_1(tokens)
        tokens = tokens + block.attn(y, y, y)[0]
        hidden = block.mlp.c_fc(block.ln_2(tokens))
        tokens = tokens + block.mlp.c_proj(hidden * torch.sigmoid(1.702 * hidden))
    wanted = module.ln_post(tokens[:, 0]) @ module.proj
    assert backbone.feature_dim == 5
    torch.testing.assert_close(backbone(images), wanted, rtol=1e-4, atol=1e-5)


def test_mean_and_deviation_can_be_given() -> None:
    backbone = build_backbone("glyphnet", weights="random:0", mean=(0.1, 0.2, 0.3), std=(1, 1, 2))
    assert backbone.input_spec.mean == (0.1, 0.2, 0.3)
    assert backbone.std.flatten().tolist() == [1, 1, 2]
    assert build_backbone("glyphnet", weights="random:0").input_spec.mean == (0.5, 0.5, 0.5)
