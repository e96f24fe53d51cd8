"""``rtl bank``: what it prints, its JSON, its exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner, Result

from rtl_continual.backbones import InputSpec
from rtl_continual.errors import DataError, RTLError
from rtl_continual.store import BankStore
from rtl_continual.store._commands import bank_app
from rtl_continual.store._images import read_images
from rtl_continual.tickets import Ticket, TicketBank

Grow = Callable[..., Ticket]


@pytest.fixture
def folder(store: BankStore, bank: TicketBank, grow: Grow) -> str:
    """Two versions."""
    grow(bank, "t3", seed=3)
    store.commit(bank, message="night 1")
    return str(store.storage.root)


def call(*arguments: str) -> Result:
    result = CliRunner().invoke(bank_app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def as_json(*arguments: str) -> Any:
    return json.loads(call(*arguments, "--json").stdout)


def test_list_and_inspect(folder: str) -> None:
    assert "  3  t3  sparsity 0.9" in call("list", folder).stdout
    rows = as_json("list", folder, "--version", "1")
    assert [row["name"] for row in rows] == ["t0", "t1", "t2"]
    assert rows[1]["cluster"] == "cluster of t1"
    facts = as_json("inspect", folder, "--ticket", "2")
    assert (facts["version"], facts["router"], len(facts["tickets"])) == (2, "flat", 1)
    assert facts["tickets"][0]["name"] == "t2"
    assert facts["sizes"]["tickets"][2]["sparsity"] == pytest.approx(0.9, abs=0.05)
    assert yaml.safe_load(call("inspect", folder).stdout)["task"]["name"] == "classification"
    with pytest.raises(RTLError, match="no ticket 4; the bank has 4"):
        call("inspect", folder, "--ticket", "4")


def test_verify_exits_with_3_when_something_is_wrong(folder: str) -> None:
    assert call("verify", folder).stdout.startswith("sound: 2 versions, 4 tickets")
    assert as_json("verify", folder)["ok"] is True
    blob = min(Path(folder, "blobs").iterdir())
    blob.write_bytes(b"x" + blob.read_bytes()[1:])
    result = call("verify", folder)
    assert result.exit_code == 3
    assert result.stdout.startswith("DAMAGED: ")
    assert blob.name in result.stdout
    result = call("verify", folder, "--json")
    assert result.exit_code == 3
    assert len(json.loads(result.stdout)["problems"]) == 1


def test_going_back_and_forth(folder: str, tmp_path: Path) -> None:
    assert as_json("tag", folder, "production", "--version", "1") == {"production": 1}
    assert call("tag", folder).stdout == "production: 1\n"
    assert as_json("rollback", folder, "--to", "production", "--message", "oops")["version"] == 3
    lines = call("history", folder).stdout.splitlines()
    assert "rollback to 1  3 tickets  -t3" in lines[0]
    assert lines[0].endswith("oops")
    assert "commit  4 tickets  +t3" in lines[1]
    assert "[production]" in lines[2]
    assert [row["version"] for row in as_json("history", folder)] == [3, 2, 1]
    diff = call("diff", folder, "production", "2").stdout
    assert "3 tickets unchanged" in diff
    assert "+ 3 t3" in diff
    assert as_json("diff", folder, "2", "3")["tickets"]["removed"][0]["name"] == "t3"
    out = str(tmp_path / "copy")
    assert as_json("export-version", folder, out, "--version", "2")["tickets"] == 4
    assert call("verify", out).exit_code == 0
    assert (
        "2 files would be removed"
        in call("gc", folder, "--keep", "1", "--grace", "0s", "--dry-run").stdout
    )
    assert as_json("gc", folder, "--keep", "1", "--grace", "0s")["retired"] == [2]
    assert "0 files removed" in call("gc", folder).stdout
    assert as_json("tag", folder, "production", "--delete") == {}


def test_a_damaged_tag_does_not_hide_that_another_was_moved(folder: str) -> None:
    call("tag", folder, "old", "--version", "1")
    (Path(folder) / "tags" / "old.json").write_text("{}")
    assert as_json("tag", folder, "new", "--version", "2") == {"new": 2, "old": None}
    assert call("tag", folder, "new", "--delete").stdout == "old: damaged\n"
    with pytest.raises(RTLError, match="tag 'old'"):
        call("tag", folder)


def test_a_version_is_exported_to_an_empty_folder_alone(folder: str, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"")
    with pytest.raises(RTLError, match="photos' is not empty: export to a new folder"):
        call("export-version", folder, str(tmp_path / "photos"))
    (tmp_path / "new").mkdir()
    assert as_json("export-version", folder, str(tmp_path / "new"))["tickets"] == 4


def test_replay(folder: str, tmp_path: Path, images: torch.Tensor) -> None:
    for i, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"{i:02d}.png")
    found = as_json("replay", folder, "1", "2", "--images", str(tmp_path))
    assert found["images"] == 12
    assert found["bit_equal"] == found["same_ticket"] == 12 - len(found["changes"])
    text = call("replay", folder, "1", "2", "--images", str(tmp_path / "00.png")).stdout
    assert "of 1 inputs changed" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gc", "--grace", "soon"], "--grace: expected a number and one of s, m, h, d"),
        (["rollback", "--to", "nightly"], "has no tag 'nightly'"),
        (["diff", "1", "9"], "has no version 9"),
        (["tag", "../x"], "is no name for a tag"),
        (["tag", "--delete"], "name the tag"),
        (["list", "--version", "99999999999999999999"], "is no name|has no"),
        (["replay", "1", "2", "--images", "nothing.png"], "nothing.png does not exist"),
    ],
)
def test_mistakes_are_told_in_one_message(folder: str, arguments: list[str], message: str) -> None:
    with pytest.raises(RTLError, match=message):
        call(arguments[0], folder, *arguments[1:])


def test_no_bank(tmp_path: Path) -> None:
    for command in ("list", "inspect", "verify", "history", "gc"):
        with pytest.raises(RTLError, match="there is no bank in"):
            call(command, str(tmp_path))


def test_most_commands_do_without_torch(folder: str) -> None:
    program = (
        "import sys\n"
        "from rtl_continual.store._commands import bank_app\n"
        "for command in (['history'], ['list'], ['tag', 'a'], ['diff', '1', '2'], ['gc']):\n"
        "    bank_app([command[0], sys.argv[1], *command[1:]], standalone_mode=False)\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program, folder], check=True, capture_output=True)


def test_images_are_resized_and_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(rng.integers(0, 255, (32, 32), dtype=np.uint8)).save(tmp_path / "b.jpg")
    (tmp_path / "notes.txt").write_text("no image")
    images, names = read_images([tmp_path], InputSpec(size=(32, 32)))
    assert (list(images.shape), images.dtype) == ([2, 3, 32, 32], torch.uint8)
    assert [Path(name).name for name in names] == ["a.png", "b.jpg"]
    grey, _ = read_images([tmp_path / "b.jpg"], InputSpec(channels=1))
    assert list(grey.shape) == [1, 1, 32, 32]
    with pytest.raises(DataError, match="of another size"):
        read_images([tmp_path], InputSpec())
    with pytest.raises(DataError, match="cannot be read as an image"):
        read_images([tmp_path / "notes.txt"], InputSpec())
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no image files in"):
        read_images([tmp_path / "empty"], InputSpec())
    monkeypatch.setattr("rtl_continual.store._images.MAX_PIXELS", 1999)
    with pytest.raises(DataError, match="has 50 x 40 pixels, at most 1999"):
        read_images([tmp_path / "a.png"], InputSpec())
