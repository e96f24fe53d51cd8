"""Nothing on the way from disk to prediction can run code or leave the bank's folder."""

from __future__ import annotations

import ast
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import rtl_continual.store
from rtl_continual.errors import BankError, DataError
from rtl_continual.store import BankStore, bank_app, image_files, save_bank
from rtl_continual.store._storage import LocalStorage
from rtl_continual.tickets import TicketBank

ROOM = Path(rtl_continual.store.__file__).parent
FORBIDDEN = {
    "pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "shelve",
    "marshal",
    "joblib",
    "tarfile",
    "zipfile",
    "shutil",
    "subprocess",
}


def test_the_room_uses_nothing_that_runs_or_unpacks_files() -> None:
    sources = sorted(ROOM.glob("*.py"))
    assert len(sources) > 10
    for source in sources:
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [str(node.module)]
            elif isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in {"eval", "exec", "torch.load", "np.load", "yaml.load"}, source
            assert not FORBIDDEN.intersection(name.split(".")[0] for name in names), source


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch was-run",)


@pytest.mark.parametrize("kind", ["blob", "manifest", "tag"])
def test_a_pickle_in_place_of_a_file_is_refused(
    store: BankStore, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store.tag("production")
    name = {
        "blob": f"blobs/{store.read().tickets[0].blob}.safetensors",
        "manifest": "manifests/00000001.json",
        "tag": "tags/production.json",
    }[kind]
    (store.storage.root / name).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(BankError, match="damaged"):
        store.load(store.tagged("production"))[0]
    assert not (tmp_path / "was-run").exists()


NAMES = [
    "../x",
    "blobs/../x",
    "/etc/passwd",
    "blobs/a/b",
    "blobs/",
    "blobs/.x",
    "a\\b",
    "blobs/\0",
    "",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_that_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    storage = LocalStorage(tmp_path)
    for attempt in (
        lambda: storage.read(name, 10),
        lambda: storage.create(name, b""),
        lambda: storage.replace(name, b""),
        lambda: storage.remove(name),
        lambda: storage.has(name),
        lambda: storage.list(name),
    ):
        with pytest.raises(BankError, match="is no name of a file in a bank"):
            attempt()


def test_what_is_no_plain_file_or_too_long_is_not_read(store: BankStore) -> None:
    entry = store.read().tickets[0]
    path = store.storage.root / f"blobs/{entry.blob}.safetensors"
    data = path.read_bytes()
    path.write_bytes(data + b"x")
    with pytest.raises(BankError, match=f"has {len(data) + 1} bytes, at most {len(data)}"):
        store.load()[0]
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(BankError, match=r"is no plain file|is missing"):
        store.load()[0]
    path.unlink()
    path.mkdir()
    with pytest.raises(BankError, match=r"is missing|no plain file"):
        store.load()[0]


def test_names_cannot_command_a_terminal(bank: TicketBank, tmp_path: Path) -> None:
    bank.append(replace(bank[0], id=3, info=replace(bank[0].info, name="\x1b[2Jgone\nlie")))
    save_bank(bank, tmp_path / "bank", message="\x1b]0;title\x07")
    for command in (["list"], ["history"]):
        shown = CliRunner().invoke(bank_app, [*command, str(tmp_path / "bank")]).stdout
        assert "\x1b" not in shown
        assert "\\x1b[2Jgone\\nlie" in shown


def test_a_pipe_among_images_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(DataError, match="no image files"):
        image_files([tmp_path])


def test_foreign_files_in_the_folders_are_left_alone(store: BankStore) -> None:
    root = store.storage.root
    for name in ("manifests/notes.txt", "manifests/1.json", "blobs/readme", "tags/X.json"):
        (root / name).write_text("mine")
    assert store.versions() == [1]
    assert store.verify().ok
    store.gc(grace=0)
    assert (root / "blobs/readme").read_text() == "mine"
