"""Heads over several depths."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

from rtl_continual.backbones import (
    BackboneConfig,
    BlockReadout,
    RecordedBackbone,
    build_backbone,
    check_stages,
)
from rtl_continual.errors import RTLError
from rtl_continual.routing import FlatRouter
from rtl_continual.store import load_bank, save_bank
from rtl_continual.streams import ArraySet
from rtl_continual.tasks import Classification
from rtl_continual.tickets import TicketBank, TicketInfo
from rtl_continual.training import TicketConfig, commit_ticket, learn_ticket


def test_means_of_blocks_stand_beside_the_last_features(images: torch.Tensor) -> None:
    plain = build_backbone("glyphnet", weights="random:0", split="stem")
    wide = build_backbone("glyphnet", weights="random:0", split="stem", readout="blocks")
    features, width = wide(images), plain.feature_dim
    assert features.shape[1] == wide.feature_dim == width + 24 + 48
    assert torch.equal(features[:, :width], plain(images))
    x = plain.run_trunk(images).activation
    start = width
    for name in ("block1", "block2"):  # block3's mean is the last features
        x = plain.body.get_submodule(name)(x)
        torch.testing.assert_close(features[:, start : start + x.shape[1]], x.mean(dim=(2, 3)))
        start += x.shape[1]


def test_every_architecture_has_blocks_to_read() -> None:
    lite = build_backbone(
        "efficientnet_lite0", weights="random:0", input_size=32, split="stage6", readout="blocks"
    )
    assert lite.feature_dim == 1280 + 320
    assert lite(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape == (2, 1600)


def test_tokens_are_averaged_over_their_sequence() -> None:
    class First(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, 0]

    stages: OrderedDict[str, nn.Module] = OrderedDict(
        a=nn.Linear(3, 4), b=nn.Linear(4, 5), first=First()
    )
    x = torch.randn(2, 7, 3)
    body = BlockReadout(stages, x)
    assert body.feature_dim == 5 + 4
    torch.testing.assert_close(body(x)[:, 5:], stages["a"](x).mean(dim=1))


def test_building_leaves_running_statistics_alone() -> None:
    wide = build_backbone("glyphnet", weights="built-in", readout="blocks")
    plain = build_backbone("glyphnet", weights="built-in")
    for (name, a), (_, b) in zip(
        wide.state_dict().items(), plain.state_dict().items(), strict=True
    ):
        assert torch.equal(a, b), name


def test_the_readout_is_part_of_the_identity() -> None:
    final = build_backbone("glyphnet", weights="random:0")
    wide = build_backbone("glyphnet", weights="random:0", readout="blocks")
    assert final.identity != wide.identity
    images = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    assert RecordedBackbone(wide, images).readout == "blocks"


def test_a_body_may_end_early(images: torch.Tensor) -> None:
    whole = build_backbone("glyphnet", weights="random:0", split="stem")
    short = build_backbone("glyphnet", weights="random:0", split="stem", end="block2")
    x = whole.run_trunk(images).activation
    one, two = (whole.body.get_submodule(f"block{i}") for i in (1, 2))
    assert short.feature_dim == 48
    torch.testing.assert_close(short(images), two(one(x)).mean(dim=(2, 3)))
    assert "block3" not in dict(short.body.named_children())
    wide = build_backbone(
        "glyphnet", weights="random:0", split="stem", end="block2", readout="blocks"
    )
    expected = torch.cat([short(images), one(x).mean(dim=(2, 3))], dim=1)
    torch.testing.assert_close(wide(images), expected)
    assert wide.feature_dim == expected.shape[1]
    assert len({backbone.identity for backbone in (whole, short, wide)}) == 3
    assert RecordedBackbone(short, images).end == "block2"


@pytest.mark.parametrize(
    ("name", "split", "end", "width"),
    [
        ("efficientnet_lite0", "stage5", "stage6", 192),
        ("resnet18", "layer2", "layer3", 256),
        ("vit_b_16", "block9", "block10", 768),
    ],
)
def test_every_architecture_may_end_early(name: str, split: str, end: str, width: int) -> None:
    short = build_backbone(name, weights="random:0", input_size=32, split=split, end=end)
    assert short(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape == (2, width)
    assert short.end is not None
    assert short.end.startswith(end)


@pytest.mark.parametrize("end", ["stem", "block1", "pool", "block9"])
def test_an_end_that_is_not_in_the_body_is_refused(end: str) -> None:
    with pytest.raises(RTLError, match=rf"end '{end}'.*block2, block3"):
        build_backbone("glyphnet", split="block1", end=end)
    config = BackboneConfig(split="block1", end=end, taps=("stem",))
    option, text = check_stages(config) or ("", "")
    assert option == "end"
    assert f"'{end}'" in text


def test_an_unknown_readout_is_refused_by_name() -> None:
    with pytest.raises(RTLError, match=r"backbone\.readout: .*'blocks', got 'all'"):
        build_backbone("glyphnet", readout="all")


@pytest.mark.parametrize("end", [None, "block3"])
@pytest.mark.parametrize("kind", ["weights", "units"])
def test_a_bank_over_blocks_is_stored_packed_and_extracted(
    kind: str, end: str | None, tmp_path: Path
) -> None:
    backbone = build_backbone("glyphnet", weights="random:0", width=8, readout="blocks", end=end)
    bank = TicketBank(backbone, Classification(3), FlatRouter())
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (48, 3, 32, 32), dtype=torch.uint8, generator=draw)
    data = ArraySet(images, torch.arange(48) % 3, torch.zeros(48, dtype=torch.int64))
    config = TicketConfig(
        kind=kind,
        sparsity=0.5,
        epochs=1,
        batch_size=16,
        head_finish="probe",
        features="merged" if kind == "weights" else "own",
    )
    ticket, learner = learn_ticket(bank, data, config, info=TicketInfo("one"), seed=0)
    commit_ticket(bank, ticket, learner)
    activation = backbone.run_trunk(images).activation
    outputs = bank.run_ticket(0, activation)  # with gradients on: plain weights
    with torch.inference_mode():
        packed = bank.run_ticket(0, activation)
        extracted = bank.extract(0)(activation)
    torch.testing.assert_close(packed, outputs, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(extracted, outputs, atol=1e-4, rtol=1e-4)

    save_bank(bank, str(tmp_path / "bank"))
    loaded = load_bank(str(tmp_path / "bank"))
    assert loaded.backbone.readout == "blocks"
    assert loaded.backbone.end == end
    assert loaded.backbone.identity == backbone.identity
    assert torch.equal(loaded.predict(images).outputs, bank.predict(images).outputs)
