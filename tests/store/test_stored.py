"""What an opened bank adds to a bank: any kind of image, names of classes, reloads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rtl_continual import load_bank
from rtl_continual.backbones import Backbone, InputSpec
from rtl_continual.errors import BankError, DataError
from rtl_continual.store import BankStore, decode_image, save_bank
from rtl_continual.store._image_files import ImageFiles
from rtl_continual.store._images import as_images, image_files, read_images
from rtl_continual.streams import IMAGE_SUFFIXES, FoldersConfig, build_folders
from rtl_continual.tasks import Classification
from rtl_continual.tickets import Ticket, TicketBank

Grow = Callable[..., Ticket]
FIXTURE = Path(__file__).parents[1] / "fixtures" / "bank-v1"


@pytest.fixture
def files(images: torch.Tensor, tmp_path: Path) -> list[Path]:
    paths = []
    for i, image in enumerate(images[:3]):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(paths[-1])
    return paths


def test_every_kind_of_image_gives_the_same_answer(
    store: BankStore, images: torch.Tensor, files: list[Path]
) -> None:
    bank = store.load()
    few = images[:3]
    expected = bank.predict(few).outputs
    last = few.permute(0, 2, 3, 1).numpy()
    pictures = [Image.open(path) for path in files]
    for given in (
        few.numpy(),
        last,
        last.astype(np.float32) / 255,
        list(last),
        list(few),
        files,
        [str(path) for path in files],
        pictures,
        [files[0], pictures[1], last[2]],
    ):
        assert torch.allclose(bank.predict(given).outputs, expected, atol=1e-5)
    for one in (files[0], str(files[0]), pictures[0], last[0]):
        assert torch.allclose(bank.predict(one).outputs, bank.predict(few[:1]).outputs, atol=1e-5)
    for picture in pictures:
        picture.close()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((5, 5)), r"an array of images is \[height, width, 3\] or a batch of such"),
        (np.zeros(5), "an array of images is"),
        (np.zeros((2, 8, 8, 3), np.uint8), "images must be"),
        ([], "there are no images in the list"),
        (b"bytes", "got bytes"),
        (7, "got int"),
        ([7], "got int"),
        ("nothing.png", "nothing.png does not exist"),
        ([Path("nothing.png")], "nothing.png does not exist"),
    ],
)
def test_what_shows_no_image_is_refused(store: BankStore, given: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        store.load().predict(given)


def test_files_are_cropped_as_streams_of_folders_crop_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, shape in (("a", (61, 40, 3)), ("b", (33, 90, 3)), ("c", (20, 20, 3))):
        place = tmp_path / "day" / "x"
        place.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 255, shape, dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{name}.png")
    stream = build_folders(
        FoldersConfig(root=str(tmp_path), image_size=32, resize=32, validation_fraction=0)
    )
    spec = InputSpec(size=(32, 32))
    for part in (stream.experiences[0].train, stream.tests["day"]):
        for row in range(len(part)):
            path = part.path(row)  # type: ignore[attr-defined]
            assert torch.equal(decode_image(path, spec), part[row][0])


def test_photographs_are_turned_upright_and_modes_are_understood(tmp_path: Path) -> None:
    tall = Image.fromarray(np.arange(32 * 32, dtype=np.uint8).reshape(32, 32)).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    tall.save(tmp_path / "turned.png", exif=exif)
    spec = InputSpec(size=(32, 32))
    turned = decode_image(tmp_path / "turned.png", spec)
    assert torch.equal(turned, torch.rot90(as_images(tall, spec)[0], -1, (1, 2)))
    deep = Image.fromarray(np.full((32, 32), 40_000, dtype=np.uint16))
    assert as_images(deep, spec).unique().tolist() == [40_000 >> 8]
    assert list(as_images(tall, InputSpec(channels=1)).shape) == [1, 1, 32, 32]


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_whatever_a_stream_takes_as_an_image_a_bank_takes(tmp_path: Path, suffix: str) -> None:
    picture = Image.fromarray(np.full((32, 32), 90, dtype=np.uint8))
    picture.save(tmp_path / f"a{suffix}")
    assert image_files([tmp_path]) == [tmp_path / f"a{suffix}"]
    images, _ = read_images([tmp_path], InputSpec(size=(32, 32)))
    assert abs(int(images[0, 0, 0, 0]) - 90) < 3


def test_only_common_decoders_are_asked(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    with pytest.raises(DataError, match=r"a\.png cannot be read as an image"):
        decode_image(tmp_path / "a.png", InputSpec())


def test_a_set_of_files_is_read_when_a_batch_is_asked_for(files: list[Path]) -> None:
    data = ImageFiles(files, np.array([2, 0, 1]), np.zeros(3), InputSpec(size=(32, 32)))
    files[0].unlink()
    images, targets = data.subset([2, 1]).batch([0, 1])
    assert (list(images.shape), targets.tolist()) == ([2, 3, 32, 32], [1, 0])
    with pytest.raises(DataError, match=r"0\.png cannot be read"):
        data.batch([0])


def test_names_of_classes_are_kept(backbone: Backbone, tmp_path: Path) -> None:
    names = ("cat", "dog", "bird with blanks")
    save_bank(TicketBank(backbone, Classification(3, names)), tmp_path / "bank")
    manifest = json.loads((tmp_path / "bank" / "manifests" / "00000001.json").read_text())
    assert manifest["manifest"]["task"] == {
        "name": "classification",
        "config": {"num_outputs": 3, "classes": list(names)},
    }
    bank = load_bank(tmp_path / "bank")
    assert bank.task.classes == names  # type: ignore[attr-defined]
    assert [bank.class_name(label) for label in (1, -1)] == ["dog", ""]
    other = TicketBank(backbone, Classification(3, names[::-1]))
    with pytest.raises(BankError, match="the tickets are for"):
        save_bank(other, tmp_path / "bank")


def test_banks_without_names_say_numbers() -> None:
    assert load_bank(FIXTURE).class_name(2) == "2"


def test_reload_keeps_the_backbone_and_what_is_in_memory(
    store: BankStore, bank: TicketBank, images: torch.Tensor, grow: Grow
) -> None:
    service = store.load()
    before = service.snapshot()
    service.predict(images, ticket_ids=1)
    assert not service.reload()
    grow(bank, "t3", seed=3)
    store.commit(bank)
    assert service.reload()
    assert (service.version, before.version, len(service), len(before)) == (2, 1, 4, 3)
    assert service.backbone is before.backbone
    assert service.prepared == (1,)
    assert torch.equal(
        service.predict(images, ticket_ids=1).outputs, before.predict(images, ticket_ids=1).outputs
    )
    store.rollback(1)
    assert service.reload()
    assert (service.version, len(service)) == (3, 3)


def test_tickets_that_are_not_committed_are_not_lost_by_a_reload(
    store: BankStore, bank: TicketBank, grow: Grow
) -> None:
    service = store.load()
    grow(service, "mine", seed=5)
    grow(bank, "t3", seed=3)
    store.commit(bank)
    with pytest.raises(BankError, match="not in the version to go to: mine"):
        service.reload()
    assert store.commit(service).version == 3
    assert service.reload()
    assert service.names == ("t0", "t1", "t2", "t3", "mine")


def test_a_version_or_a_tag(store: BankStore) -> None:
    store.tag("production")
    with pytest.raises(BankError, match="give a version or a tag, not both"):
        load_bank(store.storage.root, 1, "production")
