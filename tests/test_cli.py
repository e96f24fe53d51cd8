"""The command line: exit codes, one message for a mistake, JSON on demand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from rtl_continual import __version__, cli

SCENARIO = """\
name: tiny
stream: {name: digits, domains: [printed], images_per_domain: 20, test_images_per_domain: 20}
backbone: {name: glyphnet, weights: "random:0", width: 2}
tickets: {epochs: 1, sparsity: 0.5}
methods:
  rtl:
"""


class Answer(NamedTuple):
    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


Rtl = Callable[..., Answer]


@pytest.fixture
def rtl(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Rtl:
    """Runs a command line in this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str | Path) -> Answer:
        monkeypatch.setattr(sys, "argv", ["rtl", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return Answer(int(stop.value.code or 0), *capsys.readouterr())

    return call


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(SCENARIO)
    return path


def test_help_and_version(rtl: Rtl) -> None:
    assert rtl("--version") == (0, f"rtl {__version__}\n", "")
    for words in ([], ["run"], ["report"], ["predict"], ["config", "check"], ["data", "prepare"]):
        answer = rtl(*words, "--help")
        assert answer.code == 0
        assert "Usage: rtl" in answer.out


@pytest.mark.parametrize(
    "words", [["run"], ["run", "--nonsense"], ["rnu"], ["run", "a.yaml", "--jobs", "x"], ["config"]]
)
def test_wrong_usage_is_2(rtl: Rtl, words: list[str]) -> None:
    answer = rtl(*words)
    assert answer.code == 2
    assert "Usage: rtl" in answer.out + answer.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "tinny.yaml"], "tinny.yaml: no such scenario file; did you mean tiny.yaml?"),
        (
            ["run", "tiny.yaml", "--set", "tickets.sparsity=2"],
            "--set tickets.sparsity: must be below 1, got 2",
        ),
        (
            ["run", "tiny.yaml", "--seeds", "0,x"],
            '--set seeds: seeds[1]: must be a whole number, got "x"',
        ),
        (["run", "tiny.yaml", "--set", "nonsense"], "--set nonsense: must be key.path=value"),
        (["run", "tiny.yaml", "--resume"], "nothing to resume: there is no runs/tiny-<time>"),
        (["run", "tiny.yaml", "--out", "tiny.yaml"], "tiny.yaml: is a file; --out needs a folder"),
        (["run", "tiny.yaml", "--set", "backbone.split=block9"], "block9"),
        (["run", "tiny.yaml", "--set", "backbone.weights=no.safetensors"], "no.safetensors"),
        (["config", "check", "tiny.yaml", "--set", "router.name=flatt"], "did you mean 'flat'?"),
        (["report", "."], "results.json: not found"),
        (["data", "prepare", "digit"], "unknown stream 'digit'; did you mean 'digits'?"),
        (
            ["data", "prepare", "digits", "--set", "mxi=2"],
            "--set mxi: unknown key; did you mean 'mix'?",
        ),
        (["predict", "nowhere", "a.png"], "nowhere"),
        (["bank", "list", "nowhere"], "nowhere"),
    ],
)
def test_a_mistake_is_one_message_and_2(
    rtl: Rtl, scenario: Path, words: list[str], message: str
) -> None:
    answer = rtl(*words)
    assert answer.code == 2
    assert message in answer.err
    assert "Traceback" not in answer.err
    assert answer.out == ""


def test_all_problems_of_a_file_are_told(rtl: Rtl, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(SCENARIO + "seeds: no\ndevices: cpu\n")
    answer = rtl("config", "check", "bad.yaml")
    assert answer.code == 2
    seeds, devices = answer.err.splitlines()
    assert seeds == 'bad.yaml:7:1: seeds: must be a list, got "no"'
    assert devices.startswith("bad.yaml:8:1: devices: unknown key; did you mean 'device'?")


def test_our_fault_is_1_with_a_traceback(
    rtl: Rtl, scenario: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("rtl_continual.runs.load_scenario", fail)
    answer = rtl("run", scenario)
    assert answer.code == 1
    assert "ZeroDivisionError: division by zero" in answer.err
    assert answer.err.splitlines()[-1].startswith(f"rtl {__version__}: this is our fault")


def test_interrupted_is_130_and_says_how_to_go_on(
    rtl: Rtl, scenario: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rtl_continual.runs.run_scenario", interrupt)
    answer = rtl("run", scenario, "--set", "tickets.epochs=2")
    assert answer.code == 130
    first, command = answer.err.splitlines()
    assert first.startswith("interrupted; 0 finished units are saved in runs/tiny-")
    assert command.strip().startswith(f"rtl run {scenario} --set tickets.epochs=2 --out runs/tiny-")
    assert command.endswith(" --resume")


def test_config_check_prints_the_resolved_scenario(
    rtl: Rtl, scenario: Path, tmp_path: Path
) -> None:
    answer = rtl("config", "check", scenario, "--set", "tickets.epochs=3")
    assert answer.code == 0
    (tmp_path / "again.yaml").write_text(answer.out)
    assert rtl("config", "check", "again.yaml").out == answer.out
    assert rtl("config", "check", scenario, "--json").json()["tickets"]["epochs"] == 1


def test_config_schema_is_json(rtl: Rtl) -> None:
    assert rtl("config", "schema").json()["title"] == "rtl_continual scenario"


def test_data(rtl: Rtl, tmp_path: Path) -> None:
    assert "digits" in rtl("data", "list", "--json").json()
    assert "imbalance: " in rtl("data", "list").out
    words = [
        "data",
        "prepare",
        "digits",
        "--set",
        "domains=[printed]",
        "--set",
        "images_per_domain=20",
    ]
    answer = rtl(*words, "--sheet", "sheet.png", "--json")
    assert answer.code == 0
    assert answer.json()["experiences"] == [{"name": "printed", "train": 20, "validation": 10}]
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 100
    assert "printed: 20 train, 10 validation" in rtl(*words).out


def test_from_a_run_to_a_prediction(rtl: Rtl, scenario: Path, tmp_path: Path) -> None:
    answer = rtl("run", scenario, "--out", "out")
    assert answer.code == 0
    assert answer.out.splitlines()[-1] == "out/report.html"
    assert "…" not in answer.out  # a log has no width to fit into
    assert "tiny: balanced accuracy" in answer.out
    assert "seed0.rtl: balanced accuracy" in answer.err
    for name in ("config.yaml", "results.json", "metrics.jsonl", "report.html", "bank"):
        assert (tmp_path / "out" / name).exists()
    assert rtl("run", scenario, "--out", "out").code == 2
    again = rtl("run", scenario, "--out", "out", "--resume", "--json").json()
    assert again["results"] == json.loads((tmp_path / "out" / "results.json").read_text())
    assert rtl("report", "out").out == "out/report.html\n"
    assert rtl("report", "out", "--json").json() == {"report": "out/report.html"}

    tickets = rtl("bank", "list", "out/bank", "--json").json()
    assert [ticket["name"] for ticket in tickets] == ["printed"]
    assert "printed  sparsity 0.500" in rtl("bank", "list", "out/bank").out
    facts = rtl("bank", "inspect", "out/bank", "--json").json()
    assert facts["backbone"]["name"] == "glyphnet"
    assert facts["tickets"][0]["samples"] == 20
    assert "identity: " in rtl("bank", "inspect", "out/bank", "--ticket", "0").out
    assert "no ticket 7" in rtl("bank", "inspect", "out/bank", "--ticket", "7").err

    Image.fromarray(np.zeros((20, 30), np.uint8)).save(tmp_path / "grey.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    row = rtl("predict", "out/bank", "grey.png", "--json").json()[0]
    assert row["image"] == "grey.png"
    assert row["ticket_name"] == "printed"
    assert 0 <= row["label"] < 10
    assert rtl("predict", "out/bank", "grey.png").out.startswith(
        f"grey.png: {row['label']}  (printed"
    )
    assert row["class"] == str(row["label"])
    lines = rtl("predict", "out/bank", "grey.png", "--csv").out.splitlines()
    assert lines[0] == "image,label,class,ticket,ticket_name,confidence,version"
    assert lines[1].startswith(f"grey.png,{row['label']},{row['label']},0,printed,")
    assert rtl("predict", "out/bank", "grey.png", "--csv", "--json").code == 2
    assert "has no tag 'candidate'" in rtl("predict", "out/bank", "a.png", "--tag", "candidate").err
    broken = rtl("predict", "out/bank", "grey.png", "broken.png")
    assert broken.code == 2
    assert "broken.png cannot be read as an image" in broken.err


def test_the_module_runs_and_hands_on_the_exit_code(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rtl_continual", "run", "none.yaml"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 2
    assert done.stderr == "none.yaml: no such scenario file. Found: none\n"


def test_seeds_that_no_generator_takes_are_refused(rtl: Rtl, scenario: Path) -> None:
    for seeds in ("-1", "4294967296"):
        answer = rtl("run", scenario, f"--seeds={seeds}")
        assert answer.code == 2
        assert "seeds" in answer.err
        assert "Traceback" not in answer.err


def test_a_file_that_may_not_be_read_is_named(
    rtl: Rtl, scenario: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "locked.yaml")

    monkeypatch.setattr("rtl_continual.runs.load_scenario", refuse)
    answer = rtl("run", scenario)
    assert (answer.code, answer.err.strip()) == (2, "locked.yaml: Permission denied")


QUITTER = """
from rtl_continual.routing import FlatRouter
from rtl_continual.plugins import register_router


class Config(FlatRouter.config_class):
    name: str = "quitter"


@register_router
class Quitter(FlatRouter):
    name = "quitter"
    config_class = Config

    def route(self, features, *, budget=None):
        raise SystemExit(0)
"""


def test_a_plugin_cannot_end_a_run_as_if_all_were_well(
    rtl: Rtl, scenario: Path, tmp_path: Path
) -> None:
    plugin = tmp_path / "quits.py"
    plugin.write_text(QUITTER)
    answer = rtl(
        "run", scenario, "--plugin", plugin, "--set", "router.name=quitter", "--out", tmp_path / "o"
    )
    assert answer.code == 2
    assert "quits.py" in answer.err
    assert "SystemExit" in answer.err
