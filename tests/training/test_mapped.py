from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rtl_continual.backbones import build_backbone
from rtl_continual.errors import DataError
from rtl_continual.streams import ArraySet
from rtl_continual.tickets import TicketBank
from rtl_continual.training import MappedTrunkCache, TrunkCache

MakeData = Callable[..., ArraySet]
KEYS = {"data_key": "reds", "transform": "none"}


def count_batches(
    bank: TicketBank, monkeypatch: pytest.MonkeyPatch, fail_after: int = 99
) -> list[int]:
    """Notes the size of every trunk pass; the power goes off after some of them."""
    seen: list[int] = []
    run = bank.backbone.run_trunk

    def noted(images: torch.Tensor) -> object:
        if len(seen) == fail_after:
            raise KeyboardInterrupt
        seen.append(len(images))
        return run(images)

    monkeypatch.setattr(bank.backbone, "run_trunk", noted)
    return seen


def test_it_gives_what_the_cache_in_memory_gives(
    bank: TicketBank, make_data: MakeData, tmp_path: Path
) -> None:
    data = make_data(0, 40)
    mapped = MappedTrunkCache(bank, data, tmp_path, **KEYS, batch_size=16)
    memory = TrunkCache(bank, data, 2**30)
    index = torch.tensor([3, 39, 0, 17])
    for found, expected in zip(mapped.batch(index), memory.batch(index), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert mapped.batch(index)[0].is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(mapped.features, memory.features, rtol=1e-5, atol=1e-5)


def test_filling_goes_on_where_it_stopped(
    bank: TicketBank, make_data: MakeData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_data(0, 40)
    whole = MappedTrunkCache(bank, data, tmp_path / "a", **KEYS, batch_size=16)
    with monkeypatch.context() as patch:
        count_batches(bank, patch, fail_after=2)  # one image to see the shapes, then a batch
        with pytest.raises(KeyboardInterrupt):
            MappedTrunkCache(bank, data, tmp_path / "b", **KEYS, batch_size=16)
    for expected in ([1, 16, 8], [1]):
        with monkeypatch.context() as patch:
            seen = count_batches(bank, patch)
            again = MappedTrunkCache(bank, data, tmp_path / "b", **KEYS, batch_size=16)
            assert seen == expected
    every = torch.arange(40)
    assert torch.equal(again.batch(every)[0], whole.batch(every)[0])
    assert torch.equal(again.features, whole.features)


def test_other_weights_data_or_transforms_have_files_of_their_own(
    bank: TicketBank, make_data: MakeData, tmp_path: Path
) -> None:
    data = make_data(0, 8)
    other = TicketBank(build_backbone("glyphnet", weights="random:1", width=4), bank.task)
    folders = {
        MappedTrunkCache(bank, data, tmp_path, **KEYS).folder,
        MappedTrunkCache(bank, data, tmp_path, **(KEYS | {"transform": "flip"})).folder,
        MappedTrunkCache(bank, data, tmp_path, **(KEYS | {"data_key": "blues"})).folder,
        MappedTrunkCache(other, data, tmp_path, **KEYS).folder,
        MappedTrunkCache(bank, make_data(0, 7), tmp_path, **KEYS).folder,
    }
    assert len(folders) == 5


def test_a_folder_that_cannot_be_used_is_named(
    bank: TicketBank, make_data: MakeData, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot keep trunk activations in .*file"):
        MappedTrunkCache(bank, make_data(0, 8), tmp_path / "file", **KEYS)
    with pytest.raises(DataError, match="empty data set"):
        MappedTrunkCache(bank, make_data(0, 0), tmp_path, **KEYS)


@pytest.mark.parametrize("file", ["activations.f32", "done"])
def test_a_damaged_file_is_filled_anew(
    bank: TicketBank,
    make_data: MakeData,
    tmp_path: Path,
    file: str,
) -> None:
    data = make_data(0, 40)
    whole = MappedTrunkCache(bank, data, tmp_path, **KEYS, batch_size=16)
    index = torch.arange(40)
    expected = whole.batch(index)[0].clone()
    damaged = whole.folder / file
    damaged.write_bytes(damaged.read_bytes()[: -40 if file != "done" else 0])
    again = MappedTrunkCache(bank, data, tmp_path, **KEYS, batch_size=16)
    assert torch.equal(again.batch(index)[0], expected)
