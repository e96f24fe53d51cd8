"""Data on the command line and in scenario files, from folders to results."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rtl_continual import cli
from rtl_continual.runs import load_scenario, run_scenario
from rtl_continual.streams._domainnet_facts import CLASSES, DOMAINS

SCENARIOS = sorted((Path(__file__).parents[2] / "scenarios").glob("*.yaml"))

Rtl = Callable[..., tuple[int, str, str]]


@pytest.fixture
def rtl(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Rtl:
    """Runs a command line in this process: exit code, output, messages."""

    def call(*words: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rtl", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return int(stop.value.code or 0), *capsys.readouterr()

    return call


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "1e3"  # a name that YAML reads as a number
    rng = np.random.default_rng(0)
    for domain in ("day", "night"):
        for name in ("cat", "dog"):
            for number in range(4):
                path = root / domain / name / f"{number}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(path)
    return root


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_every_scenario_is_right_and_says_how_to_use_it(path: Path) -> None:
    assert load_scenario(path).name == path.stem
    head = path.read_text().split("\nname:")[0].splitlines()
    assert all(line.startswith("#") for line in head)
    for word in ("data:", "run:", "override:"):
        assert any(line.startswith(f"#   {word}") for line in head)


def test_prepare_and_verify_take_a_root(rtl: Rtl, photos: Path) -> None:
    code, out, _ = rtl(
        "data", "prepare", "folders", "--root", photos, "--set", "image_size=8", "--json"
    )
    assert code == 0
    assert json.loads(out)["tests"] == {"day": 2, "night": 2}
    assert rtl("data", "verify", "folders", "--root", photos)[:2] == (
        0,
        "day: 6 train, 2 test\nnight: 6 train, 2 test\n16 images decoded; passed\n",
    )


def test_a_failed_check_exits_with_three_and_lists_what_failed(rtl: Rtl, photos: Path) -> None:
    (photos / "day/cat/0.jpg").write_bytes(b"")
    (photos / "day/cat/1.jpg").write_bytes(b"x")
    code, out, _ = rtl("data", "verify", "folders", "--root", photos)
    assert code == 3
    assert "error: files: day: empty files (0 bytes): 1\n  day/cat/0.jpg\n" in out
    assert "1.jpg: is no image that Pillow can read\n" in out
    assert out.endswith("15 images decoded; FAILED\n")
    code, out, _ = rtl("data", "verify", "folders", "--root", photos, "--all", "--json")
    assert code == 3
    assert json.loads(out)["passed"] is False


def test_a_scenario_file_stands_for_its_stream(rtl: Rtl, photos: Path) -> None:
    pacs = next(path for path in SCENARIOS if path.stem == "pacs")
    words = ("data", "verify", pacs, "--root", photos, "--set", "domains=[night]")
    code, out, _ = rtl(*words)
    assert (code, out.splitlines()[0]) == (0, "night: 6 train, 2 test")


def test_mistakes_exit_with_two(rtl: Rtl, tmp_path: Path) -> None:
    for words, message in (
        (("verify", "digits"), "stream 'digits' has no files to verify"),
        (("verify", "domainnet"), "root: is missing"),
        (("verify", "folders", "--root", str(tmp_path / "none")), "there is no such folder"),
        (("prepare", "folders", "--root", str(tmp_path)), "no images under"),
    ):
        code, out, err = rtl("data", *words)
        assert (code, out) == (2, "")
        assert message in err
        assert "Traceback" not in err


def write_domainnet(root: Path) -> None:
    """Two classes of two training images and one test image in each domain."""
    for index, domain in enumerate(DOMAINS):
        for part, numbers in (("train", (0, 1)), ("test", (2,))):
            lines = []
            for label in (0, 1):
                for number in numbers:
                    name = f"{domain}/{CLASSES[label]}/{domain}_{label + 1:03d}_{number:06d}.jpg"
                    (root / name).parent.mkdir(parents=True, exist_ok=True)
                    Image.new("RGB", (20, 20), (40 * index, 200 * label, 0)).save(root / name)
                    lines.append(f"{name} {label}")
            (root / f"{domain}_{part}.txt").write_text("\n".join(lines))


def test_domainnet_from_files_to_results(tmp_path: Path) -> None:
    write_domainnet(tmp_path / "data")
    options: dict[str, Any] = {
        "name": "tiny",
        "stream": {
            "name": "domainnet",
            "root": str(tmp_path / "data"),
            "image_size": 32,
            "limit_images": 3,
            "classes": [CLASSES[0], CLASSES[1]],
        },
        "backbone": {"name": "glyphnet", "weights": "random:0", "width": 2},
        "tickets": {"epochs": 1, "sparsity": 0.5},
        "methods": {"linear_probe": None, "rtl": None},
    }
    (tmp_path / "tiny.yaml").write_text(json.dumps(options))
    results = run_scenario(load_scenario(tmp_path / "tiny.yaml"), tmp_path / "out")
    stream = results["stream"]
    assert stream["domains"] == list(DOMAINS)
    assert stream["source"]["protocol_differences"] == [
        "2 of 345 classes",
        "images of 32 pixels, not 224",
        "at most 3 images per domain and part",
    ]
    for entry in results["methods"].values():
        assert np.shape(entry["accuracy_matrix"]) == (6, 6)
        assert 0 <= entry["final"]["accuracy_sample_weighted"] <= 1
        assert 0 <= entry["final"]["accuracy_domain_mean"] <= 1


def test_a_dry_run_takes_few_images(rtl: Rtl, photos: Path, tmp_path: Path) -> None:
    scenario = tmp_path / "dry.yaml"
    scenario.write_text(
        f"name: dry\nstream: {{name: folders, root: '{photos}', image_size: 32, "
        "validation_fraction: 0}\n"
        "backbone: {name: glyphnet, weights: 'random:0', width: 4}\nmethods: {ncm: }\n"
    )
    words = ("run", scenario, "--limit-images", "2", "--out", tmp_path / "out")
    assert rtl(*words)[0] == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [e["train"] for e in results["stream"]["experiences"]] == [2, 2]
    code, _, err = rtl("run", scenario, "--set", "stream.name=digits", "--limit-images", "2")
    assert code == 2
    assert "limit_images: works on streams of files, and stream 'digits' is none" in err
    assert "take fewer images with images_per_domain, test_images_per_domain" in err
    assert "unknown key" in err  # the options of folders that digits does not have


@pytest.mark.parametrize("name", ["digits", "emoji", "glyphs", "photos"])
def test_a_dry_run_of_a_drawn_stream_says_what_to_do(rtl: Rtl, tmp_path: Path, name: str) -> None:
    scenario = tmp_path / "drawn.yaml"
    scenario.write_text(f"name: drawn\nstream: {{name: {name}}}\nmethods: {{ncm: }}\n")
    code, out, err = rtl("run", scenario, "--limit-images", "2", "--out", tmp_path / "out")
    assert (code, out) == (2, "")
    assert f"stream '{name}' is none; take fewer images with images_per_domain, test_im" in err
    assert "unknown key" not in err
