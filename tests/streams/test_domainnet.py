"""DomainNet on a small tree in its exact layout: lists, selections, repair, scale, verification."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from rtl_continual.errors import DataError
from rtl_continual.streams import (
    DomainNetConfig,
    FileSet,
    ImageSet,
    Stream,
    VerifyReport,
    build_stream,
    published_results,
)
from rtl_continual.streams._domainnet_check import verify_domainnet
from rtl_continual.streams._domainnet_facts import (
    CLASSES,
    CLASSES_126,
    CLEANED_COUNTS,
    DOMAINS,
    ORIGINAL_TOTALS,
    PUBLISHED_FILES,
    PublishedFile,
    list_url,
)

LABELS = (0, 8, 300, 327)
"""aircraft_carrier, apple, syringe, t-shirt; the last two have gaps in painting's lists."""


def line(domain: str, label: int, number: int) -> str:
    return f"{domain}/{CLASSES[label]}/{domain}_{label + 1:03d}_{number:06d}.jpg {label}"


def lists_of(domain: str) -> dict[str, list[str]]:
    """Three training images and one test image of each class, with the gaps of the real lists."""
    lists: dict[str, list[str]] = {"train": [], "test": []}
    for label in LABELS:
        for number in range(4):
            lists["test" if number == 1 else "train"].append(line(domain, label, number))
    if domain == "painting":
        lists["train"] = [text for text in lists["train"] if not text.endswith(" 327")]
        lists["test"] = [text for text in lists["test"] if not text.endswith(" 300")]
        lists["test"].append(line(domain, 327, 2))
    return lists


SMALL = "images of 8 pixels, not 224"


def write_tree(root: Path) -> None:
    for domain in DOMAINS:
        for part, lines in lists_of(domain).items():
            (root / f"{domain}_{part}.txt").write_text("\n".join(lines) + "\n")
            for text in lines:
                path = root / text.split(" ")[0]
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (14, 11), (10 * DOMAINS.index(domain), 0, 0)).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_tree(tmp_path)
    return tmp_path


def build(root: Path, **options: Any) -> Stream:
    return build_stream(DomainNetConfig(root=str(root), image_size=8, workers=1, **options))


def verify(root: Path, sample: int | None = 100, **options: Any) -> VerifyReport:
    """With the tree's own numbers for the published ones."""
    files = {}
    for domain in DOMAINS:
        for part, lines in lists_of(domain).items():
            data = ("\n".join(lines) + "\n").encode()
            digest = hashlib.sha256(data).hexdigest()
            files[f"{domain}_{part}.txt"] = PublishedFile("", len(data), digest)
    counts = {d: (len(lists_of(d)["train"]), len(lists_of(d)["test"])) for d in DOMAINS}
    config = DomainNetConfig(root=str(root), image_size=8, workers=1, **options)
    return verify_domainnet(
        config,
        sample=sample,
        counts=counts,
        totals={domain: sum(pair) for domain, pair in counts.items()},
        files=files,
    )


def messages(report: VerifyReport, level: str = "error") -> list[str]:
    return [found.message for found in report.findings if found.level == level]


def names(part: ImageSet) -> list[str]:
    assert isinstance(part, FileSet)
    return [part.listing.names[int(row)] for row in part.rows]


def test_published_numbers_agree_with_each_other() -> None:
    assert len(CLASSES) == len(set(CLASSES)) == 345
    assert len(CLASSES_126) == len(set(CLASSES_126) & set(CLASSES)) == 126
    # 409,832 and 176,743 are the totals of the lists, as facts of the publisher's page.
    assert [sum(pair[i] for pair in CLEANED_COUNTS.values()) for i in (0, 1)] == [409_832, 176_743]
    assert all(sum(CLEANED_COUNTS[d]) <= ORIGINAL_TOTALS[d] for d in DOMAINS)
    assert len(PUBLISHED_FILES) == 18
    assert all(len(file.sha256) == 64 for file in PUBLISHED_FILES.values())
    # The fewest bytes a line can have: what is published as size must hold the published lines.
    assert all(
        PUBLISHED_FILES[f"{d}_{p}.txt"].size > 30 * CLEANED_COUNTS[d][i]
        for d in DOMAINS
        for i, p in enumerate(("train", "test"))
    )
    assert list_url("sketch", "test", "original").endswith("multi-source/txt/sketch_test.txt")


def test_six_domains_in_order_with_all_classes(root: Path) -> None:
    stream = build(root)
    assert stream.domains == DOMAINS
    assert stream.classes == CLASSES
    assert [e.name for e in stream.experiences] == list(DOMAINS)
    assert [len(e.train) for e in stream.experiences] == [12, 12, 9, 12, 12, 12]
    assert all(len(e.validation) == 0 for e in stream.experiences)
    images, targets = stream.tests["real"].batch(range(4))
    assert targets.tolist() == list(LABELS)
    assert abs(int(images[0, 0, 0, 0]) - 40) < 4
    assert stream.source["protocol_differences"] == [SMALL]


def test_order_b_and_own_orders(root: Path) -> None:
    assert build(root, order="B").domains == (
        "real", "quickdraw", "painting", "sketch", "infograph", "clipart",
    )  # fmt: skip
    two = build(root, domains=("sketch", "clipart"))
    assert two.domains == ("sketch", "clipart")
    assert two.source["protocol_differences"] == [
        "domains sketch, clipart: neither order A nor B",
        SMALL,
    ]


def test_classes_are_renumbered_in_the_official_order(root: Path) -> None:
    stream = build(root, classes=("t-shirt", "apple"), validation_fraction=0.3)
    assert stream.classes == ("apple", "t-shirt")
    assert stream.tests["clipart"].targets.tolist() == [0, 1]
    assert [len(e.validation) for e in stream.experiences] == [2, 2, 1, 2, 2, 2]
    pairs = {"domains": ("real", "clipart", "painting", "sketch"), "class_set": "domainnet-126"}
    subset = build(root, **pairs)
    assert len(subset.classes) == 126
    assert set(subset.tests["real"].targets.tolist()) == {0}
    assert "126 of 345 classes" in subset.source["protocol_differences"]  # type: ignore[operator]


def test_a_dry_run_takes_few_images(root: Path) -> None:
    stream = build(root, limit_images=2)
    assert {len(e.train) for e in stream.experiences} == {2}
    assert {len(part) for part in stream.tests.values()} == {2}


def test_the_tshirt_gap_and_its_repair(root: Path) -> None:
    moved = "painting/t-shirt/painting_328_000001.jpg"
    plain, repaired = build(root), build(root, repair_painting_tshirt=True)
    at = DOMAINS.index("painting")
    assert 327 not in plain.experiences[at].train.targets
    assert moved in names(plain.tests["painting"])
    assert names(repaired.experiences[at].train)[-1] == moved
    assert repaired.experiences[at].train.targets[-1] == 327
    assert moved not in names(repaired.tests["painting"])
    assert len(repaired.tests["painting"]) == len(plain.tests["painting"]) - 1
    repaired.experiences[at].train.batch([len(repaired.experiences[at].train) - 1])
    (root / moved).write_bytes(b"")
    with pytest.raises(DataError, match=r"328_000001\.jpg \(.*painting_test\.txt:3\)"):
        repaired.experiences[at].train.batch([len(repaired.experiences[at].train) - 1])


def test_a_repair_without_the_published_image_is_refused(root: Path) -> None:
    path = root / "painting_test.txt"
    path.write_text(path.read_text().replace("328_000001", "328_000002"))
    with pytest.raises(DataError, match=r"328_000001\.jpg is not in painting's test list"):
        build(root, repair_painting_tshirt=True)
    (root / "real/apple/real_009_000000.jpg").unlink()
    report = verify(root, repair_painting_tshirt=True)
    assert "painting: cannot be repaired" in messages(report)
    assert "real: listed, but not on disk" in messages(report)


def test_painting_alone_needs_its_repair(root: Path) -> None:
    with pytest.raises(DataError, match=r"has: t-shirt; .* set repair_painting_tshirt to true"):
        build(root, domains=["painting"])
    few = ("apple", "t-shirt")
    assert len(build(root, domains=["painting"], repair_painting_tshirt=True).experiences) == 1
    assert len(build(root, domains=["painting", "real"], classes=few).experiences) == 2


def test_a_folder_that_is_missing_is_all_that_is_said(tmp_path: Path) -> None:
    report = verify(tmp_path / "nowhere")
    (found,) = report.findings
    assert found.message.startswith("there is no such folder")
    assert found.examples == (str(tmp_path / "nowhere"),)
    assert not report.passed


def test_lists_may_lie_in_a_folder_of_their_own(root: Path) -> None:
    before = build(root).fingerprint
    for folder in ("splits", "original"):
        (root / folder).mkdir()
        for path in sorted(root.glob("*.txt")):
            (root / folder / path.name).write_bytes(path.read_bytes())
    for path in root.glob("*.txt"):
        path.unlink()
    assert build(root).fingerprint == before
    assert build(root, lists="original").fingerprint != before


def replace_line(root: Path, name: str, number: int, text: str) -> None:
    lines = (root / name).read_text().splitlines()
    lines[number - 1] = text
    (root / name).write_text("\n".join(lines))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (line("real", 8, 0).replace(" 8", " 9"), "has label 9, but apple is 8"),
        ("real/aple/real_009_000000.jpg 8", "unknown class 'aple'; did you mean 'apple'"),
        (line("sketch", 8, 0), "must be real/<class>/<file>, got 'sketch/apple/"),
        ("real/apple 8", "must be real/<class>/<file>"),
        ("real/apple/x.jpg", "must be a path, a blank and a label"),
        (f"real/apple/x.jpg {10**17}", f"has label {10**17}, but apple is 8"),
        (f"real/apple/x.jpg {10**18}", "a label has at most 18 digits, got '10000"),
        ("real/apple/x.jpg " + "9" * 5000, "a label has at most 18 digits, got '99999"),
    ],
)
def test_wrong_lines_are_refused_and_reported(root: Path, text: str, message: str) -> None:
    replace_line(root, "real_train.txt", 4, text)
    with pytest.raises(DataError, match=rf"real_train\.txt:4: .*{message}"):
        build(root)
    report = verify(root)
    assert any(message in example for found in report.findings for example in found.examples)


def test_the_tree_passes_and_its_gaps_are_named(root: Path) -> None:
    report = verify(root, sample=None)
    assert report.passed
    assert report.images["painting"] == {"train": 9, "test": 4}
    assert report.decoded == 6 * 16 - 3
    notes = {found.message: found.examples for found in report.findings}
    assert notes == {
        "painting: classes tested, but not trained on (a gap of the published lists)": ("t-shirt",),
        "painting: classes trained on, but not tested (a gap of the published lists)": ("syringe",),
    }
    assert json.loads(json.dumps(report.to_json()))["passed"] is True
    repaired = verify(root, repair_painting_tshirt=True)
    assert repaired.images["painting"] == {"train": 10, "test": 3}
    assert not any("t-shirt" in found.examples for found in repaired.findings)


def test_line_ends_and_blank_lines_change_nothing(root: Path) -> None:
    before = build(root)
    for path in root.glob("*.txt"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n\r\n"))
    after = build(root)
    assert after.fingerprint == before.fingerprint
    report = verify(root)
    assert report.passed
    notes = [found for found in report.findings if found.message.startswith("line ends differ")]
    assert [found.examples for found in notes][:2] == [
        ("clipart_train.txt",),
        ("clipart_test.txt",),
    ]


def damage(root: Path, kind: str) -> None:
    first = root / lists_of("real")["train"][0].split(" ")[0]
    if kind == "missing":
        first.unlink()
    elif kind == "empty":
        first.write_bytes(b"")
    elif kind == "cut":
        first.write_bytes(first.read_bytes()[:300])
    elif kind == "bomb":
        Image.new("L", (4000, 3000)).save(first)
    elif kind == "twice":
        replace_line(root, "real_train.txt", 2, lists_of("real")["train"][0])
    elif kind == "leak":
        replace_line(root, "real_test.txt", 1, lists_of("real")["train"][0])
    elif kind == "short":
        path = root / "real_train.txt"
        path.write_text("\n".join(path.read_text().splitlines()[:-1]))
    elif kind == "class":
        path = root / "real_test.txt"
        path.write_text(path.read_text() + line("real", 100, 0) + "\n")
    elif kind == "list":
        (root / "real_train.txt").unlink()


@pytest.mark.parametrize(
    ("kind", "message", "example"),
    [
        ("missing", "real: listed, but not on disk", "001_000000.jpg (ROOT/real_train.txt:1)"),
        ("empty", "real: empty files (0 bytes)", "001_000000.jpg (ROOT/real_train.txt:1)"),
        ("cut", "images that cannot be decoded", "cannot be read as an image"),
        ("bomb", "images that cannot be decoded", "4000 x 3000 pixels are more than max_pixels"),
        ("twice", "real: listed twice for train", "real_001_000000.jpg"),
        ("leak", "real: listed both for training and for testing", "real_001_000000.jpg"),
        ("short", "images listed", "real train: 11, published 12"),
        ("class", "real: tested classes that no domain trains on", "dumbbell"),
        ("list", "missing list", "real_train.txt"),
    ],
)
def test_damage_is_found(root: Path, kind: str, message: str, example: str) -> None:
    damage(root, kind)
    report = verify(root, max_pixels=1_000_000)
    assert not report.passed
    assert report.findings[0].level == "error"
    examples = {found.message: found.examples for found in report.findings}
    assert example.replace("ROOT", str(root)) in " ".join(examples[message])


def test_files_in_no_list_are_a_note(root: Path) -> None:
    extra = root / "real" / "apple" / "real_009_000099.jpg"
    extra.write_bytes(b"x")
    report = verify(root)
    assert report.passed
    assert "real: on disk, but in no list" in messages(report, "note")


def test_missing_lists_and_images_say_what_to_do(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no clipart_train\.txt .* rtl data prepare domainnet"):
        build(tmp_path / "none")
    (root / lists_of("clipart")["train"][0].split(" ")[0]).unlink()
    with pytest.raises(DataError, match=r"clipart_train\.txt:1\).*are the images unpacked"):
        build(root)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"domains": ("reel",)}, "unknown domain 'reel'; did you mean 'real'"),
        ({"domains": ("real", "real")}, "repeated: real"),
        ({"classes": ("aple",)}, "unknown class 'aple'; did you mean 'apple'"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DomainNetConfig(root="x", **options)


def test_published_rows_name_their_backbone() -> None:
    rows = published_results()
    assert all(0 < row.accuracy < 100 and "ViT" in row.backbone for row in rows)
    best = next(row for row in rows if row.method == "CP-Prompt")
    # Sample-weighted and domain mean differ: the large domains are the easier ones.
    assert (best.accuracy, best.domain_mean) == (73.35, 72.67)


MEASURE = """
import json, resource, sys, time
from rtl_continual.streams import DomainNetConfig, build_stream
before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
stream = build_stream(DomainNetConfig(root=sys.argv[1]))
seconds = time.process_time() - start
mega = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
count = sum(len(e.train) for e in stream.experiences) + sum(map(len, stream.tests.values()))
print(json.dumps([count, seconds, mega]))
"""


@pytest.mark.slow
def test_lists_of_full_size_open_fast_and_stay_small(tmp_path: Path) -> None:
    for domain, counts in CLEANED_COUNTS.items():
        for part, count in zip(("train", "test"), counts, strict=True):
            labels = (np.arange(count) * 345 // count).tolist()
            lines = [line(domain, label, number) for number, label in enumerate(labels)]
            (tmp_path / f"{domain}_{part}.txt").write_text("\n".join(lines))
        first = tmp_path / line(domain, 0, 0).split(" ")[0]
        first.parent.mkdir(parents=True)
        first.write_bytes(b"x")
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path)], capture_output=True, text=True, check=True
    )
    count, seconds, megabytes = json.loads(run.stdout)
    assert count == 586_575
    assert seconds < 3
    assert megabytes < 300
