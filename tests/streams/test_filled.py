from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from rtl_continual.errors import DataError
from rtl_continual.streams import FilledRows
from rtl_continual.streams._filled import BLOCK

COUNT, WIDTH = 2 * BLOCK + 3, 5


class Maker:
    """Row ``i`` is ``i`` everywhere; the power goes off after some blocks."""

    def __init__(self, stop_after: int = 99) -> None:
        self.made: list[int] = []
        self.stop_after = stop_after

    def __call__(self, blocks: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        for block in blocks:
            if len(self.made) == self.stop_after:
                raise KeyboardInterrupt
            self.made.append(int(block[0]))
            yield np.repeat(block[:, None], WIDTH, axis=1).astype(np.float32)


def firsts(rows: FilledRows, index: Sequence[int]) -> list[float]:
    found = rows[np.asarray(index, dtype=np.int64)]
    assert found.shape == (len(index), WIDTH)
    return found[:, -1].tolist()


def test_rows_are_made_once_and_mapped(tmp_path: Path) -> None:
    maker = Maker()
    path = tmp_path / "trunk" / "a.f32"
    rows = FilledRows(path, (COUNT, WIDTH), maker)
    assert maker.made == [0, BLOCK, 2 * BLOCK]
    assert firsts(rows, [COUNT - 1, 0, BLOCK]) == [COUNT - 1, 0, BLOCK]
    assert isinstance(rows._rows, np.memmap)
    assert firsts(FilledRows(path, (COUNT, WIDTH), maker), range(COUNT)) == list(range(COUNT))
    assert len(maker.made) == 3


def test_filling_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / "a.f32"
    with pytest.raises(KeyboardInterrupt):
        FilledRows(path, (COUNT, WIDTH), Maker(stop_after=1))
    rest = Maker()
    rows = FilledRows(path, (COUNT, WIDTH), rest)
    assert rest.made == [BLOCK, 2 * BLOCK]
    assert firsts(rows, range(COUNT)) == list(range(COUNT))


def test_a_damaged_block_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.f32"
    FilledRows(path, (COUNT, WIDTH), Maker())
    with path.open("r+b") as file:
        file.seek(4 * WIDTH * BLOCK)
        file.write(b"\1" * 40)
    maker = Maker()
    rows = FilledRows(path, (COUNT, WIDTH), maker)
    with caplog.at_level(logging.WARNING):
        assert firsts(rows, [0, COUNT - 1]) == [0, COUNT - 1]
        assert maker.made == []
        assert firsts(rows, [BLOCK, BLOCK + 1]) == [BLOCK, BLOCK + 1]
    assert maker.made == [BLOCK]
    assert "a.f32 is damaged" in caplog.text
    again = FilledRows(path, (COUNT, WIDTH), Maker(stop_after=0))
    assert firsts(again, range(COUNT)) == list(range(COUNT))


@pytest.mark.parametrize("file", ["a.f32", "a.sums"])
def test_a_file_that_was_cut_off_is_filled_anew(tmp_path: Path, file: str) -> None:
    path = tmp_path / "a.f32"
    FilledRows(path, (COUNT, WIDTH), Maker())
    damaged = tmp_path / file
    damaged.write_bytes(damaged.read_bytes()[:-2])
    assert firsts(FilledRows(path, (COUNT, WIDTH), Maker()), range(COUNT)) == list(range(COUNT))


def test_several_may_ask_at_once(tmp_path: Path) -> None:
    maker = Maker()
    with ThreadPoolExecutor(4) as pool:
        jobs = [
            pool.submit(FilledRows, tmp_path / "a.f32", (COUNT, WIDTH), maker) for _ in range(4)
        ]
        assert all(firsts(job.result(), [1, BLOCK]) == [1, BLOCK] for job in jobs)
    assert len(maker.made) == 3


def test_no_rows(tmp_path: Path) -> None:
    rows = FilledRows(tmp_path / "a.f32", (0, WIDTH), Maker(stop_after=0))
    assert firsts(rows, []) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot write the cache file .*a\.f32: .*RTL_CACHE"):
        FilledRows(tmp_path / "file" / "a.f32", (3, WIDTH), Maker())
