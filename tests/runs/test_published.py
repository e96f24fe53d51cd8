"""Published rows beside a run's own, with what makes them incomparable."""

from __future__ import annotations

from rtl_continual.runs._published import published_beside
from rtl_continual.streams import DigitsConfig, DomainNetConfig


def test_other_streams_have_none() -> None:
    assert published_beside(DigitsConfig(), {"name": "glyphnet", "weights": "built-in"}) is None


def test_rows_and_the_backbone_that_differs() -> None:
    config = DomainNetConfig(root="x", limit_images=50)
    found = published_beside(config, {"name": "resnet50", "weights": "torchvision:IMAGENET1K_V2"})
    assert found is not None
    rows = {row["method"]: row for row in found["rows"]}
    assert rows["CP-Prompt"]["accuracy"] == 73.35
    assert rows["CP-Prompt"]["domain_mean"] == 72.67
    assert found["differences"][0].startswith("backbone resnet50 with weights torchvision")
    assert any("at most 50 images" in line for line in found["differences"])


def test_the_same_network_with_other_pretraining_differs() -> None:
    config = DomainNetConfig(root="x", validation_fraction=0)
    torch_hub = {"name": "vit_b_16", "weights": "torchvision:IMAGENET1K_V1"}
    found = published_beside(config, torch_hub)
    assert found is not None
    assert len(found["differences"]) == 1
    assert "begin with CLIP ViT-B/16" in found["differences"][0]
    file = published_beside(config, {**torch_hub, "weights": "mine.pth"})
    assert file is not None
    assert file["differences"] == [
        "weights mine.pth: compare with rows of the same pretraining alone"
    ]
