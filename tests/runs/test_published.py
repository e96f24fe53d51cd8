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
    assert len(found["differences"]) == 2
    assert "begin with 'CLIP ViT-B/16' or 'ViT-B/16, Im" in found["differences"][0]
    file = published_beside(config, {**torch_hub, "weights": "mine.pth"})
    assert file is not None
    assert file["differences"] == [
        "weights mine.pth: compare with rows of the same pretraining alone",
        "order A: rows of another order, or of none stated, saw another",
    ]


def test_the_order_is_named() -> None:
    backbone = {"name": "vit_b_16", "weights": "mine.pth"}
    found = published_beside(DomainNetConfig(root="x", order="B"), backbone)
    assert found is not None
    assert found["order"] == "B"
    assert "order B: rows of another order" in found["differences"][-1]
    own = published_beside(DomainNetConfig(root="x", domains=("real", "sketch")), backbone)
    assert own is not None
    assert own["order"] == "real, sketch"
    assert "neither order A nor B" in own["differences"][-1]


def test_clip_is_compared_with_clip() -> None:
    config = DomainNetConfig(root="x", validation_fraction=0)
    found = published_beside(config, {"name": "clip_vit_b_16", "weights": "clip.safetensors"})
    assert found is not None
    assert found["differences"][0].endswith("compare with rows of 'CLIP ViT-B/16' alone")
    assert len(found["differences"]) == 2


def test_small_images_differ() -> None:
    config = DomainNetConfig(root="x", image_size=64, resize=64)
    found = published_beside(config, {"name": "vit_b_16", "weights": "mine.pth"})
    assert found is not None
    assert "images of 64 pixels, not 224" in found["differences"]
