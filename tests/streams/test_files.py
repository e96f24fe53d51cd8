"""Sets of image files: decoding, its limits and errors, and the cache of decoded images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, InterpolationMode, Resize

from rtl_continual.errors import DataError
from rtl_continual.streams import FileNames, FileSet, ImageForm, Listing, concatenate
from rtl_continual.streams._decode import decode_image
from rtl_continual.streams._decoded import DecodedCache
from rtl_continual.streams._files import join_listings

FORM = ImageForm(size=8, resize=10)


def save(path: Path, size: tuple[int, int] = (16, 12), seed: int = 0, mode: str = "RGB") -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def listing(names: list[str], targets: list[int] | None = None) -> Listing:
    count = len(names)
    return Listing(
        FileNames.pack([name.encode() for name in names]),
        np.asarray(targets or [0] * count, dtype=np.int64),
        ("train.txt",),
        np.zeros(count, dtype=np.int16),
        np.arange(1, count + 1, dtype=np.int32),
    )


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    names = [f"a/{number}.png" for number in range(5)]
    for number, name in enumerate(names):
        save(tmp_path / name, seed=number)
    return names


@pytest.mark.parametrize("size", [(16, 12), (12, 17), (9, 9), (10, 31)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_pixels_are_torchvisions(tmp_path: Path, size: tuple[int, int], interpolation: str) -> None:
    path = save(tmp_path / "x.png", size)
    form = ImageForm(size=8, resize=10, interpolation=interpolation)  # type: ignore[arg-type]
    resized = Resize(10, InterpolationMode(interpolation))(Image.open(path))
    expected = np.asarray(CenterCrop(8)(resized))
    assert np.array_equal(decode_image(path, form), expected)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    path = save(tmp_path / ("x.tif" if mode == "CMYK" else "x.png"), mode=mode)
    assert decode_image(path, FORM).shape == (8, 8, 3)


def test_a_transparent_palette_is_no_warning(tmp_path: Path) -> None:
    image = Image.new("P", (8, 8))
    image.putpalette([10, 20, 30] * 256)
    image.save(tmp_path / "x.png", transparency=bytes([0] * 256))
    assert decode_image(tmp_path / "x.png", ImageForm(8, 8))[0, 0].tolist() == [10, 20, 30]


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 0x8000, dtype=np.uint16)).save(tmp_path / "x.png")
    assert decode_image(tmp_path / "x.png", ImageForm(8, 8))[0, 0].tolist() == [128] * 3


def test_upright_follows_the_camera(tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 8))
    image.paste((255, 255, 255), (0, 0, 8, 4))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter clockwise: the top becomes the right side
    image.save(tmp_path / "x.png", exif=exif)
    assert decode_image(tmp_path / "x.png", ImageForm(8, 8))[0, 0, 0] == 255
    turned = decode_image(tmp_path / "x.png", ImageForm(8, 8, upright=True))
    assert turned[0, 0, 0] == 0
    assert turned[0, 7, 0] == 255


@pytest.mark.parametrize("workers", [1, 3])
def test_batches_come_in_the_order_asked_for(
    tmp_path: Path, pictures: list[str], workers: int
) -> None:
    part = FileSet(tmp_path, listing(pictures, [4, 3, 2, 1, 0]), 2, FORM, workers=workers)
    images, targets = part.batch([3, 0, 3])
    assert images.dtype == torch.uint8
    assert images.shape == (3, 3, 8, 8)
    assert targets.tolist() == [1, 4, 1]
    expected = decode_image(tmp_path / pictures[3], FORM).transpose(2, 0, 1)
    assert np.array_equal(images[0].numpy(), expected)
    assert torch.equal(images[0], images[2])
    assert part.batch([])[0].shape == (0, 3, 8, 8)
    assert part.domains.tolist() == [2] * 5


def test_subsets_and_concatenations_stay_lazy(tmp_path: Path, pictures: list[str]) -> None:
    whole = FileSet(tmp_path, listing(pictures, [0, 1, 2, 3, 4]), 1, FORM)
    part = whole.subset([4, 2]).subset([1, 0])
    assert part.targets.tolist() == [2, 4]
    assert part.domains.tolist() == [1, 1]
    assert part.path(0) == tmp_path / pictures[2]
    both = concatenate([part, whole.subset([0])])
    (tmp_path / pictures[4]).unlink()
    images, targets = both.batch([2, 0])
    assert targets.tolist() == [0, 2]
    assert torch.equal(images, whole.batch([0, 2])[0])


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"", r"empty \(0 bytes\)"),
        (b"not an image", "no image that Pillow can read"),
        ("cut", "cannot be read as an image"),
    ],
)
def test_bad_files_are_named_with_their_line(
    tmp_path: Path, pictures: list[str], content: bytes | str | None, message: str, workers: int
) -> None:
    bad = tmp_path / pictures[3]
    whole = bad.read_bytes()
    bad.unlink()
    if content is not None:
        bad.write_bytes(whole[: len(whole) // 2] if content == "cut" else content)  # type: ignore[arg-type]
    part = FileSet(tmp_path, listing(pictures), 0, FORM, workers=workers)
    with pytest.raises(DataError, match=rf"3\.png \(train\.txt:4\): .*{message}"):
        part.batch(range(5))


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = save(tmp_path / "x.png", (40, 30))
    form = ImageForm(8, 10, max_pixels=1199)
    with pytest.raises(DataError, match=r"x\.png: 40 x 30 pixels are more than max_pixels"):
        decode_image(path, form)
    assert decode_image(path, ImageForm(8, 10, max_pixels=1200)).shape == (8, 8, 3)


def test_a_bomb_that_pillow_refuses_is_our_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "x.png", (40, 30))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match="too many pixels"):
        decode_image(path, FORM)


def test_names_take_their_own_length() -> None:
    names = FileNames.pack([b"a/1", b"", b"b/\xff"])
    assert [names.raw(row) for row in range(3)] == [b"a/1", b"", b"b/\xff"]
    assert names.take([2, 0]).buffer == b"b/\xffa/1"


def test_joined_listings_keep_their_places() -> None:
    joined = join_listings(listing(["a", "b"]), listing(["c"]))
    assert [joined.names[row] for row in range(3)] == ["a", "b", "c"]
    assert joined.place(2) == " (train.txt:1)"
    assert joined.sources == ("train.txt", "train.txt")


def test_the_cache_answers_without_the_files(tmp_path: Path, pictures: list[str]) -> None:
    cache = DecodedCache(tmp_path / "cache" / "x.images", (3, 8, 8))
    part = FileSet(tmp_path, listing(pictures), 0, FORM, cache=cache)
    first, _ = part.batch([1, 2])
    for name in pictures:
        (tmp_path / name).unlink()
    again = FileSet(tmp_path, listing(pictures), 0, FORM, cache=DecodedCache(cache.path, (3, 8, 8)))
    assert torch.equal(again.batch([1, 2])[0], first)
    with pytest.raises(DataError, match="no such file"):
        again.batch([0])


def test_a_damaged_record_is_decoded_again(tmp_path: Path, pictures: list[str]) -> None:
    cache = DecodedCache(tmp_path / "x.images", (3, 8, 8))
    part = FileSet(tmp_path, listing(pictures), 0, FORM, cache=cache)
    expected, _ = part.batch(range(5))
    data = bytearray(cache.path.read_bytes())
    data[cache.record + 10] ^= 1  # a pixel of the second image
    cache.path.write_bytes(data[:-3])  # and the last record is cut off
    assert cache.get(0) is not None
    assert cache.get(1) is None
    assert cache.get(4) is None
    assert torch.equal(part.batch(range(5))[0], expected)
    assert cache.get(4) is not None


def test_a_cache_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match=r"cannot write the cache file .* set RTL_CACHE"):
        DecodedCache(tmp_path / "file" / "x.images", (3, 8, 8))
