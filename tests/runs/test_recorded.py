"""Runs that start every method from the trunk's outputs."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rtl_continual import load_bank
from rtl_continual.backbones import build_backbone
from rtl_continual.runs import load_scenario, run_scenario
from rtl_continual.runs._recorded import record_stream
from rtl_continual.streams import (
    ArraySet,
    Experience,
    Stream,
    build_stream,
    stream_config_class,
)

Write = Callable[..., Path]

METHODS = "{rtl: {}, linear_probe: {}, naive: {}, independent: {}, slda: {}}"


def run(write: Write, folder: Path, *overrides: str) -> dict[str, Any]:
    scenario = load_scenario(write(), [f"methods={METHODS}", "tickets.shift=0", *overrides])
    return run_scenario(scenario, folder)["methods"]


@pytest.fixture
def stream() -> Stream:
    images = np.random.default_rng(0).integers(0, 256, (10, 3, 32, 32), dtype=np.uint8)
    part = ArraySet(images, np.arange(10) % 2, 0)
    return Stream("toy", ("a", "b"), ("one",), (Experience("one", part, part),), {"one": part}, "f")


def test_methods_answer_as_from_images(
    write_scenario: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RTL_CACHE", str(tmp_path / "cache"))
    plain = run(write_scenario, tmp_path / "plain")
    recorded = run(write_scenario, tmp_path / "recorded", "record_trunk=true")
    for label in ("rtl", "linear_probe", "slda"):
        # Rounding moves an image or two of forty.
        np.testing.assert_allclose(
            recorded[label]["accuracy_matrix"], plain[label]["accuracy_matrix"], atol=0.11
        )
        assert recorded[label]["parameters"]["backbone"] == plain[label]["parameters"]["backbone"]
        assert recorded[label]["inference_ratio"] == plain[label]["inference_ratio"]
    for label in ("naive", "independent"):
        moved = recorded[label]["parameters"]["trainable"]
        assert 0 < moved < plain[label]["parameters"]["trainable"]


def test_the_bank_that_is_saved_takes_images(
    write_scenario: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RTL_CACHE", str(tmp_path / "cache"))
    run(write_scenario, tmp_path / "run", "record_trunk=true", "methods={rtl: {}}")
    bank = load_bank(tmp_path / "run" / "bank")
    assert bank.predict(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).outputs.shape == (2, 10)


def test_records_are_made_once_and_found_again(
    stream: Stream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RTL_CACHE", str(tmp_path))
    backbone = build_backbone("glyphnet", weights="random:0", width=2)
    first, recorded = record_stream(stream, backbone)
    rows, targets = first.tests["one"].batch([3, 1])
    assert len(list((tmp_path / "trunk").glob("*.f32"))) == 1
    images, _ = stream.tests["one"].batch(range(10))
    torch.testing.assert_close(rows, recorded.record(images)[[3, 1]])
    assert targets.tolist() == [1, 1]
    part = first.tests["one"].subset([5, 3]).subset([1])
    assert torch.equal(part.batch([0])[0], rows[:1])
    monkeypatch.setattr(type(recorded), "record", None)
    again, _ = record_stream(stream, backbone)
    assert torch.equal(again.tests["one"].batch([3, 1])[0], rows)


def test_files_that_change_under_their_names_are_recorded_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RTL_CACHE", str(tmp_path / "cache"))
    backbone = build_backbone("glyphnet", weights="random:0", width=2)

    def fill(root: Path, shade: int) -> None:
        for domain, label, number in itertools.product("ab", "xy", range(4)):
            file = root / domain / label / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), (shade, 20 * number, 90)).save(file)

    def means(root: Path) -> list[float]:
        section = {"name": "folders", "root": str(root), "image_size": 32}
        stream = build_stream(stream_config_class("folders").model_validate(section))
        recorded, _ = record_stream(stream, backbone)
        sets = [recorded.experiences[0].train, *recorded.tests.values()]
        return [float(part.batch(range(len(part)))[0].mean()) for part in sets]

    fill(tmp_path / "one", 10)
    fill(tmp_path / "two", 200)
    first = means(tmp_path / "one")
    assert means(tmp_path / "two") != first
    assert means(tmp_path / "one") == first
    fill(tmp_path / "one", 200)
    assert means(tmp_path / "one") != first
