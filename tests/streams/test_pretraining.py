"""The script that pretrains GlyphNet, and the file it ships."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors import safe_open

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The script as a module."""
    path = ROOT / "benchmarks" / "pretrain_glyphnet.py"
    spec = importlib.util.spec_from_file_location("pretrain_glyphnet", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_classes_are_letters_that_do_not_read_as_digits(script: ModuleType) -> None:
    assert script.LETTERS.isalpha()
    assert len(set(script.LETTERS)) == len(script.LETTERS) == 38
    assert not set(script.LETTERS) & set("OoIlSsZz")


def test_letters_are_drawn_deterministically(script: ModuleType) -> None:
    first, targets = script.draw_letters(60, seed=0)
    again, _ = script.draw_letters(60, seed=0)
    other, _ = script.draw_letters(60, seed=1)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert targets.tolist() == [i % 38 for i in range(60)]
    assert (first.float().std(dim=(1, 2, 3)) > 3).all()  # no picture is empty


def test_training_learns_and_repeats(script: ModuleType) -> None:
    images = torch.zeros(270, 3, 32, 32, dtype=torch.uint8)
    targets = torch.arange(270) % 2
    images[targets == 1, :, 8:24] = 200
    _, accuracy = script.pretrain(images, targets, epochs=6, seed=0)
    assert accuracy > 0.9
    first, again = (script.pretrain(images, targets, epochs=1, seed=0)[0] for _ in range(2))
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True)
    )


def test_shipped_weights_name_the_classes_they_were_trained_on(script: ModuleType) -> None:
    with safe_open(script.OUT, "pt") as file:
        facts = json.loads(file.metadata()["training"])
    assert facts["classes"] == script.LETTERS
    assert facts["normalisation"] == {"mean": 0.5, "std": 0.25}
