"""Heads over several depths."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

from rtl_continual.backbones import BlockReadout, RecordedBackbone, build_backbone
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


def test_an_unknown_readout_is_refused_by_name() -> None:
    with pytest.raises(RTLError, match=r"backbone\.readout: .*'blocks', got 'all'"):
        build_backbone("glyphnet", readout="all")


@pytest.mark.parametrize("kind", ["weights", "units"])
def test_a_bank_over_blocks_is_stored_packed_and_extracted(kind: str, tmp_path: Path) -> None:
    backbone = build_backbone("glyphnet", weights="random:0", width=8, readout="blocks")
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
    assert loaded.backbone.identity == backbone.identity
    assert torch.equal(loaded.predict(images).outputs, bank.predict(images).outputs)
