"""The cache folder: verified on load, written in one step."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest

from rtl_continual.errors import DataError
from rtl_continual.streams import cache_folder
from rtl_continual.streams._cache import cached_arrays, content_hash


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RTL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Maker:
    """Counts how often arrays are made."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> dict[str, np.ndarray]:
        self.calls += 1
        return {"images": np.arange(400, dtype=np.uint8), "targets": np.arange(4)}


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RTL_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "rtl_continual"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "rtl_continual"
    monkeypatch.setenv("RTL_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"


def test_made_once_then_loaded(folder: Path) -> None:
    make = Maker()
    first, digest = cached_arrays("a.npz", make)
    second, again = cached_arrays("a.npz", make)
    assert make.calls == 1
    assert digest == again == content_hash(first)
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert os.listdir(folder) == ["a.npz"]


def test_hash_covers_names_types_shapes_and_bytes() -> None:
    base = {"a": np.zeros(4, np.uint8)}
    others: list[dict[str, np.ndarray]] = [
        {"b": np.zeros(4, np.uint8)},
        {"a": np.zeros(4, np.int8)},
        {"a": np.zeros((2, 2), np.uint8)},
        {"a": np.array([0, 0, 0, 1], np.uint8)},
    ]
    assert len({content_hash(arrays) for arrays in [base, *others]}) == 5


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[200] ^= 0xFF
    path.write_bytes(bytes(data))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:300])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def swap_content(path: Path) -> None:
    """A sound file whose arrays are not those of its hash."""
    with np.load(path) as archive:
        arrays = dict(archive)
    arrays["images"] = arrays["images"][::-1]
    np.savez(path, **arrays)


def drop_hash(path: Path) -> None:
    np.savez(path, images=np.arange(3))


@pytest.mark.parametrize("damage", [flip, cut, empty, swap_content, drop_hash])
def test_damage_is_noticed_and_mended(
    folder: Path, damage: object, caplog: pytest.LogCaptureFixture
) -> None:
    make = Maker()
    arrays, digest = cached_arrays("a.npz", make)
    assert callable(damage)
    damage(folder / "a.npz")
    with caplog.at_level(logging.WARNING):
        mended, again = cached_arrays("a.npz", make)
    assert make.calls == 2
    assert "damaged" in caplog.text
    assert "a.npz" in caplog.text
    assert again == digest
    assert np.array_equal(mended["images"], arrays["images"])
    cached_arrays("a.npz", make)
    assert make.calls == 2


def test_pickled_content_is_never_loaded(folder: Path) -> None:
    folder.mkdir()
    np.savez(folder / "a.npz", images=np.array([{"a": 1}], dtype=object))
    make = Maker()
    arrays, _ = cached_arrays("a.npz", make)
    assert make.calls == 1
    assert arrays["images"].dtype == np.uint8


def test_failed_write_leaves_nothing_behind(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(DataError, match=r"No space left on device; set RTL_CACHE"):
        cached_arrays("a.npz", Maker())
    assert os.listdir(folder) == []


def test_unwritable_folder_is_one_clear_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("RTL_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DataError, match="set RTL_CACHE to a folder that can be written"):
        cached_arrays("a.npz", Maker())
