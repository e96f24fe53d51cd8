"""Streams of folders and list files: layouts, splits, selections, and what is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from rtl_continual.errors import DataError
from rtl_continual.streams import (
    DomainLists,
    FileSet,
    FoldersConfig,
    ImageSet,
    Stream,
    build_stream,
    verify_stream,
)
from rtl_continual.streams._assemble import class_ranks, split_by_class


def picture(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 10), (value, 0, 0)).save(path)


def tree(root: Path, folders: Sequence[str], count: int) -> None:
    """``count`` pictures in each folder."""
    for folder in folders:
        for number in range(count):
            picture(root / folder / f"{number}.png", number)


def build(root: Path, **options: Any) -> Stream:
    config = {"image_size": 8, "workers": 1, **options}
    return build_stream(FoldersConfig(root=str(root), **config))


def names(part: ImageSet) -> list[str]:
    assert isinstance(part, FileSet)
    return [part.listing.names[int(row)] for row in part.rows]


@pytest.fixture
def office(tmp_path: Path) -> Path:
    tree(tmp_path, ["Art/Bed", "Art/Chair", "Clipart/Bed", "Clipart/Chair"], 10)
    return tmp_path


def test_domains_and_classes_come_from_the_folders(office: Path) -> None:
    stream = build(office, test_fraction=0.2, validation_fraction=0.1)
    assert stream.domains == ("Art", "Clipart")
    assert stream.classes == ("Bed", "Chair")
    for index, experience in enumerate(stream.experiences):
        parts = [experience.train, experience.validation, stream.tests[experience.name]]
        assert [np.bincount(part.targets).tolist() for part in parts] == [[7, 7], [1, 1], [2, 2]]
        assert len({name for part in parts for name in names(part)}) == 20
        assert all(set(part.domains.tolist()) == {index} for part in parts)
    images, targets = stream.tests["Art"].batch([3])
    name = names(stream.tests["Art"])[3]
    assert name.startswith("Art/Chair/")
    assert targets.tolist() == [1]
    assert int(images[0, 0, 0, 0]) == int(Path(name).stem)


def test_the_split_depends_on_the_seed_alone(office: Path) -> None:
    alone = build(office, domains=["Clipart"])
    both = build(office)
    other = build(office, seed=1)
    chosen = [names(stream.tests["Clipart"]) for stream in (alone, both, other)]
    assert chosen[0] == chosen[1]
    assert chosen[0] != chosen[2]
    assert both.fingerprint == build(office, workers=2).fingerprint
    assert len({alone.fingerprint, both.fingerprint, other.fingerprint}) == 3


def test_domains_arrive_in_the_order_asked_for(office: Path) -> None:
    stream = build(office, domains=["Clipart", "Art"])
    assert [experience.name for experience in stream.experiences] == ["Clipart", "Art"]
    assert names(stream.experiences[1].train)[0].startswith("Art/")
    assert stream.experiences[1].train.domains[0] == 1


def test_parts_in_folders_of_their_own(tmp_path: Path) -> None:
    tree(tmp_path, ["gan/train/real", "gan/train/fake", "wild/train/real", "wild/train/fake"], 3)
    tree(tmp_path, [f"{d}/val/{c}" for d in ("gan", "wild") for c in ("real", "fake")], 2)
    stream = build(
        tmp_path, layout="{domain}/{split}/{class}", test_folder="val", validation_fraction=0
    )
    assert [len(experience.train) for experience in stream.experiences] == [6, 6]
    assert [len(experience.validation) for experience in stream.experiences] == [0, 0]
    assert all("/val/" in name for name in names(stream.tests["wild"]))
    with pytest.raises(DataError, match=r"needs images in 'train' and 'test' .*it has: train, val"):
        build(tmp_path, layout="{domain}/{split}/{class}")


def test_any_number_of_folders_in_between(tmp_path: Path) -> None:
    tree(tmp_path, ["a/x/real", "a/x/fake", "a/y/real", "b/real", "b/fake"], 3)
    stream = build(tmp_path, layout="{domain}/**/{class}", validation_fraction=0)
    assert stream.classes == ("fake", "real")
    assert (
        sum(map(len, stream.tests.values())) + sum(len(e.train) for e in stream.experiences) == 15
    )
    tree(tmp_path / "data", ["a/x/real"], 3)
    only = build(tmp_path, layout="data/{domain}/*/{class}", validation_fraction=0)
    assert only.domains == ("a",)


def test_sessions_that_are_for_testing_only(tmp_path: Path) -> None:
    tree(tmp_path, [f"s{s}/o{o}" for s in (1, 2, 3) for o in (1, 2)], 4)
    stream = build(tmp_path, test_domains=["s2"], test_fraction=0.25, validation_fraction=0)
    assert stream.domains == ("s1", "s3", "s2")
    assert [experience.name for experience in stream.experiences] == ["s1", "s3"]
    assert {name: len(part) for name, part in stream.tests.items()} == {"s1": 2, "s3": 2, "s2": 8}
    assert set(stream.tests["s2"].domains.tolist()) == {2}


def test_other_files_and_hidden_ones_are_no_images(office: Path) -> None:
    (office / "Art" / "Bed" / "notes.txt").write_text("x")
    (office / "Art" / "Bed" / ".thumb.png").write_bytes(b"x")
    (office / ".cache" / "Bed").mkdir(parents=True)
    assert len(build(office).tests["Art"]) == 6
    report = verify_stream(FoldersConfig(root=str(office)))
    assert report.passed
    (note,) = report.findings
    assert note.examples == ("Art/Bed/notes.txt",)
    assert report.decoded == 40


def test_classes_shots_limits_and_exclusions(office: Path) -> None:
    chairs = build(office, classes=["Chair"])
    assert chairs.classes == ("Chair",)
    assert set(chairs.experiences[0].train.targets.tolist()) == {0}
    few = build(office, images_per_class=2, test_fraction=0.5, validation_fraction=0.25)
    assert np.bincount(few.experiences[1].train.targets).tolist() == [2, 2]
    assert np.bincount(few.experiences[1].validation.targets).tolist() == [1, 1]
    assert len(few.tests["Art"]) == 10
    limited = build(office, limit_images=3)
    assert [len(e.train) for e in limited.experiences] == [3, 3]
    assert np.bincount(limited.experiences[0].train.targets).min() == 1
    assert {len(part) for part in limited.tests.values()} == {3}
    one = build(office, limit_images=1)
    assert one.tests["Art"].targets.tolist()[0] in {
        int(e.train.targets[0]) for e in one.experiences
    }
    less = build(office, exclude=["Art/Bed/0.png"])
    kept = [*names(less.experiences[0].train), *names(less.experiences[0].validation)]
    assert "Art/Bed/0.png" not in [*kept, *names(less.tests["Art"])]
    with pytest.raises(DataError, match=r"exclude names images .* not have: Art/Bed/99\.png"):
        build(office, exclude=["Art/Bed/99.png"])


def test_decoded_images_are_kept_where_asked(office: Path, session_cache: Path) -> None:
    stream = build(office, cache=True)
    images, _ = stream.tests["Art"].batch([0])
    (office / names(stream.tests["Art"])[0]).unlink()
    assert np.array_equal(stream.tests["Art"].batch([0])[0], images)
    assert list((session_cache / "decoded").glob("*.images"))


def write_lists(root: Path) -> dict[str, dict[str, str]]:
    """Two domains with labels from 1, one list with Windows line ends, blank lines and a BOM."""
    tree(root, ["photo/dog", "photo/the cat", "art/dog", "art/the cat"], 3)
    for domain in ("photo", "art"):
        for part, numbers in (("train", (0, 1)), ("test", (2,))):
            lines = [
                f"{domain}/{name}/{number}.png {label}"
                for label, name in ((1, "dog"), (2, "the cat"))
                for number in numbers
            ]
            text = "\r\n\r\n".join(lines) if domain == "art" else "\n".join(lines)
            (root / f"{domain}_{part}.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
    return {d: {"train": f"{d}_train.txt", "test": f"{d}_test.txt"} for d in ("photo", "art")}


def test_lists_with_any_labels_and_blanks_in_names(tmp_path: Path) -> None:
    lists = write_lists(tmp_path)
    stream = build(tmp_path, lists=lists, validation_fraction=0)
    assert stream.domains == ("photo", "art")
    assert stream.classes == ("dog", "the cat")
    assert names(stream.tests["art"]) == ["art/dog/2.png", "art/the cat/2.png"]
    assert stream.tests["art"].targets.tolist() == [0, 1]
    assert len(stream.experiences[0].train) == 4
    (tmp_path / "art/the cat/2.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"2\.png \(.*art_test\.txt:3\): the file is empty"):
        stream.tests["art"].batch([1])
    report = verify_stream(FoldersConfig(root=str(tmp_path), lists=lists))
    assert not report.passed
    assert [found.message for found in report.findings] == ["art: empty files (0 bytes)"]
    assert report.decoded == 11


def test_a_list_may_lack_its_test_part_or_its_training_part(tmp_path: Path) -> None:
    lists = write_lists(tmp_path)
    stream = build(
        tmp_path,
        lists={"photo": {"train": lists["photo"]["train"]}, "art": {"test": "art_test.txt"}},
        validation_fraction=0,
    )
    assert [experience.name for experience in stream.experiences] == ["photo"]
    assert {name: len(part) for name, part in stream.tests.items()} == {"photo": 2, "art": 2}


def test_label_names_for_images_that_lie_anywhere(tmp_path: Path) -> None:
    tree(tmp_path, ["images"], 6)
    lines = [f"images/{number}.png {number % 2}" for number in range(6)]
    (tmp_path / "all.txt").write_text("\n".join(lines))
    lists = {"photo": {"train": "all.txt"}}
    with pytest.raises(DataError, match=r"all\.txt:2: label 1 lies in folder .* give label_names"):
        build(tmp_path, lists=lists)
    stream = build(tmp_path, lists=lists, label_names=["even", "odd"])
    assert stream.classes == ("even", "odd")
    with pytest.raises(DataError, match=r"all\.txt:2: label 1 has no name"):
        build(tmp_path, lists=lists, label_names=["even"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("photo/dog/1.png", "must be a path, a blank and a label from 0, got 'photo/dog/1.png'"),
        ("photo/dog/1.png -1", "label from 0"),
        ("photo/dog/1.png dog", "label from 0"),
        ("../x/1.png 0", "must lie below the root"),
        ("/etc/x/1.png 0", "must lie below the root"),
    ],
)
def test_lines_that_cannot_be_used(tmp_path: Path, line: str, message: str) -> None:
    tree(tmp_path, ["photo/dog"], 2)
    (tmp_path / "train.txt").write_text(f"photo/dog/0.png 0\n\n{line}\n")
    with pytest.raises(DataError, match=rf"train\.txt:3: .*{message}"):
        build(tmp_path, lists={"photo": {"train": "train.txt"}})


def test_lines_that_cannot_be_used_are_listed_with_the_rest(tmp_path: Path) -> None:
    tree(tmp_path, ["photo/dog"], 2)
    (tmp_path / "train.txt").write_text("photo/dog/9.png 0\nphoto/dog/0.png 0\nphoto/dog/1.png x")
    lists = {"photo": DomainLists(train="train.txt")}
    for label_names in (None, ["dog"]):
        config = FoldersConfig(root=str(tmp_path), lists=lists, label_names=label_names)
        report = verify_stream(config)
        found = {found.message: found.examples for found in report.findings}
        assert "train.txt:3: must be a path" in found["cannot be used"][0]
        assert "photo: listed, but not on disk" in found
    (tmp_path / "train.txt").write_text("photo/dog/0.png 0\nphoto/dog/1.png 1\n")
    (found, *_) = verify_stream(config).findings
    assert "train.txt:2: label 1 has no name" in found.examples[0]


def bytes_tree(root: Path, folder: bytes, count: int) -> None:
    """Pictures in a folder whose name is no text."""
    try:
        tree(root, [os.fsdecode(folder)], count)
    except OSError:
        pytest.skip("this file system takes UTF-8 names alone")


@pytest.mark.parametrize("folder", [b"photo/d\xffx", b"ph\xffto/dog"])
def test_folders_with_names_that_are_no_text_are_refused(tmp_path: Path, folder: bytes) -> None:
    tree(tmp_path, ["photo/cat", "photo/dog"], 4)
    bytes_tree(tmp_path, folder, 4)
    shown = folder.decode("utf-8", "replace")
    with pytest.raises(DataError, match=rf"{shown}: the name of .* is no UTF-8 text; rename it"):
        build(tmp_path)
    report = verify_stream(FoldersConfig(root=str(tmp_path)))
    assert not report.passed
    assert shown in report.findings[0].examples[0]
    assert report.decoded == 12
    json.dumps(report.to_json(), ensure_ascii=False).encode()
    if folder.startswith(b"ph\xff"):
        build(tmp_path, domains=["photo"])


def test_lists_with_class_folders_that_are_no_text_are_refused(tmp_path: Path) -> None:
    bytes_tree(tmp_path, b"photo/d\xffx", 4)
    tree(tmp_path, ["photo/cat"], 4)
    lines = [b"photo/d\xffx/%d.png 0" % n for n in range(4)] + [b"photo/cat/0.png 0"]
    (tmp_path / "train.txt").write_bytes(b"\n".join(lines))
    lists = {"photo": DomainLists(train="train.txt")}
    with pytest.raises(
        DataError, match=r"train\.txt:1: .*'d\ufffdx' is no UTF-8 .*; rename"
    ) as stop:
        build(tmp_path, lists=lists)
    assert "train.txt:5: label 0 lies in folder 'cat', but label 0 is 'd\ufffdx'" in str(stop.value)
    report = verify_stream(FoldersConfig(root=str(tmp_path), lists=lists))
    assert [found.count for found in report.findings if found.level == "error"] == [2]
    json.dumps(report.to_json(), ensure_ascii=False).encode()
    stream = build(tmp_path, lists=lists, label_names=["any"])
    assert stream.classes == ("any",)


def test_files_with_names_that_are_no_text_do_no_harm(tmp_path: Path) -> None:
    tree(tmp_path, ["photo/dog"], 4)
    try:
        (tmp_path / "photo/dog/0.png").rename(tmp_path / os.fsdecode(b"photo/dog/\xff.png"))
        (tmp_path / os.fsdecode(b"photo/dog/\xff.txt")).write_text("x")
    except OSError:
        pytest.skip("this file system takes UTF-8 names alone")
    assert len(build(tmp_path).experiences) == 1
    report = verify_stream(FoldersConfig(root=str(tmp_path)))
    assert report.passed
    json.dumps(report.to_json(), ensure_ascii=False).encode()


def test_parts_without_images_are_found(tmp_path: Path) -> None:
    tree(tmp_path, ["x/dog", "y/dog"], 1)
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "b.txt").write_text("y/dog/0.png 0\n")

    def errors(**lists: dict[str, str]) -> list[str]:
        parts = {domain: DomainLists(**files) for domain, files in lists.items()}
        report = verify_stream(FoldersConfig(root=str(tmp_path), lists=parts))
        with pytest.raises(DataError, match="has no"):
            build(tmp_path, lists=parts)
        return [f.message for f in report.findings if f.level == "error" and f.check == "counts"]

    assert errors(x={"train": "a.txt"}) == ["x: no images to train", "x: no images to test"]
    assert errors(x={"train": "b.txt", "test": "a.txt"}) == ["x: no images to test"]
    assert errors(y={"train": "b.txt"}) == ["y: no images to test"]
    assert not verify_stream(FoldersConfig(root=str(tmp_path))).passed


def test_what_is_missing_is_named(office: Path) -> None:
    with pytest.raises(DataError, match="there is no such folder"):
        build(office / "none")
    with pytest.raises(DataError, match="unknown domain 'Artt'; did you mean 'Art'"):
        build(office, domains=["Artt"])
    with pytest.raises(DataError, match="unknown class 'Bad'; did you mean 'Bed'"):
        build(office, classes=["Bad"])
    with pytest.raises(DataError, match="no images under"):
        build(office / "Art")
    with pytest.raises(DataError, match="there is no such list file"):
        build(office, lists={"Art": {"train": "none.txt"}})
    (office / "list.txt").write_text("Art/Bed/100.png 0\n")
    with pytest.raises(DataError, match=r"100\.png \(.*list\.txt:1\): there is no such file; are"):
        build(office, lists={"Art": {"train": "list.txt"}})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "{domain}"}, "must have {domain} and end with {class}"),
        ({"layout": "{domian}/{class}"}, "a part in braces"),
        ({"layout": "{domain}/{domain}/{class}"}, "repeated part"),
        ({"layout": "../{domain}/{class}"}, "empty or a repeated part"),
        ({"domains": ["a", "a"]}, "repeated: a"),
        ({"domains": ["a"], "test_domains": ["a"]}, "repeated: a"),
        ({"label_names": ["a"]}, "belongs to lists"),
        ({"lists": {"a": {}}}, "needs a train or a test list"),
        ({"lists": {"a": {"train": "x"}}, "domains": ["b"]}, "unknown domain 'b'"),
        ({"image_size": 64, "resize": 32}, r"resize must be at least image_size \(64\), got 32"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        FoldersConfig(root="x", **options)


def test_splitting_by_class_leaves_each_class_something() -> None:
    targets = np.array([0] * 10 + [1] * 2 + [2])
    kept, given = split_by_class(targets, 0.3, np.random.default_rng(0))
    assert np.bincount(targets[given], minlength=3).tolist() == [3, 1, 0]
    assert sorted([*kept, *given]) == list(range(13))
    ranks = class_ranks(targets, np.random.default_rng(0))
    assert sorted(ranks[:10]) == list(range(10))
    assert sorted(ranks[10:12]) == [0, 1]
