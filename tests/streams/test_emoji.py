"""The emoji stream, on tiny archives in the exact layout of the real packages."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import stat
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from rtl_continual.errors import DataError
from rtl_continual.streams import EmojiConfig, build_stream, prepare_stream, verify_stream
from rtl_continual.streams import _emoji_archives as archives
from rtl_continual.streams import _emoji_facts as facts
from rtl_continual.streams._emoji_draw import draw, load_rasteriser
from rtl_continual.streams._prepare import sha256_of
from rtl_continual.streams.emoji import split_by_concept

SUBGROUPS = ("animal-bird", "drink")
PER_CLASS = 20


class FakeRasteriser:
    """Answers as resvg-py does, with a square whose shade depends on the text."""

    def svg_to_bytes(self, *, svg_string: str, width: int, height: int, **_: object) -> bytes:
        buffer = io.BytesIO()
        shade = sum(svg_string.encode()) % 200
        Image.new("RGBA", (width, height), (shade, 0, 0, 255)).save(buffer, "PNG")
        return buffer.getvalue()


def pack(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def code_points() -> dict[str, str]:
    """Key to subgroup: two classes, of which a few emoji come in two genders."""
    keys = {}
    for number, subgroup in enumerate(SUBGROUPS):
        for i in range(PER_CLASS - 4):
            keys[f"1F{number + 1}{i:02X}"] = subgroup
        for i in range(2):
            for person in ("1F468", "1F469"):
                keys[f"{person}-200D-1F{number + 5}{i:02X}"] = subgroup
    return keys


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all five archives, their hashes pinned, and a rasteriser."""
    folder = tmp_path / "cache" / "emoji"
    folder.mkdir(parents=True)
    keys = code_points()
    extra = {"1F9FF": "other-object", "1F1E6-1F1E8": "country-flag", "1F101-1F3FB": "animal-bird"}
    rows = ["emoji,hexcode,group,subgroups,annotation"]
    rows += [f"x,{key},a group,{name},text" for key, name in {**keys, **extra}.items()]
    rows.append("x,1F2FF,extras-openmoji,drink,text")
    openmoji = {"data/openmoji.csv": "\n".join(rows).encode()}
    for i, key in enumerate([*keys, *extra, "1F2FF"]):
        svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 72 72">{i}</svg>'
        openmoji[f"color/svg/{key}.svg"] = svg.encode()
        openmoji[f"black/svg/{key}.svg"] = svg.replace("<svg", "<svg ").encode()
    rasters = {}
    for i, key in enumerate(keys):
        buffer = io.BytesIO()
        size = (32, 33) if i == 0 else (32, 32)
        Image.new("RGBA", size, (10 * (i % 20), 50, 0, 255 if i % 2 else 0)).save(buffer, "WEBP")
        rasters[f"assets/{key.lower()}-fe0f.webp"] = buffer.getvalue()
    names = {key.lower(): f"emoji-{i}" for i, key in enumerate(keys)}
    last = list(names.values())[-1]
    icons = {
        "prefix": "fake",
        "width": 36,
        "height": 36,
        "icons": {n: {"body": f"<path d='{n}'/>"} for n in names.values() if n != last}
        | {"old-name": {"body": "<path d='old'/>", "width": 18}},
        "aliases": {last: {"parent": "old-name"}},
    }
    iconify = {
        "chars.json": json.dumps(names).encode(),
        "icons.json": json.dumps(icons).encode(),
        "index.js": b"throw new Error('nobody runs this')",
    }
    contents = {"openmoji": openmoji, "fluent_3d": rasters}
    pinned = {}
    for name, package in facts.PACKAGES.items():
        pack(folder / package.archive, contents.get(name, iconify))
        pinned[name] = dataclasses.replace(package, sha256=sha256_of(folder / package.archive))
    monkeypatch.setattr(facts, "PACKAGES", pinned)
    monkeypatch.setitem(sys.modules, "resvg_py", FakeRasteriser())
    monkeypatch.setenv("RTL_CACHE", str(tmp_path / "cache"))
    return folder


CONFIG = EmojiConfig(classes=("animal-bird", "drink"))


def test_classes_are_all_subgroups_once() -> None:
    subgroups = [name for group in facts.CLASSES.values() for name in group]
    assert len(subgroups) == len(set(subgroups))
    assert len(facts.CLASSES) == 51


def test_every_style_has_the_same_emoji_and_the_same_split(packages: Path) -> None:
    stream = build_stream(CONFIG)
    assert stream.domains == facts.STYLES
    assert stream.classes == ("animal-bird", "drink")
    first = stream.experiences[0].train.targets
    for index, experience in enumerate(stream.experiences):
        assert np.array_equal(np.sort(experience.train.targets), np.sort(first))
        assert set(experience.train.domains.tolist()) == {index}
        sizes = len(experience.train) + len(experience.validation)
        assert sizes + len(stream.tests[experience.name]) == 2 * PER_CLASS
        image, _ = experience.train.batch([0])
        assert tuple(image.shape) == (1, 3, 64, 64)


def test_size_is_an_option(packages: Path) -> None:
    stream = build_stream(CONFIG.model_copy(update={"size": 128}))
    assert tuple(stream.experiences[0].train.batch([0])[0].shape) == (1, 3, 128, 128)
    with pytest.raises(ValidationError, match="64 or 128"):
        EmojiConfig(size=96)


def test_only_classes_that_exist() -> None:
    with pytest.raises(ValidationError, match="did you mean 'drink'"):
        EmojiConfig(classes=["drinks", "time"])


def test_what_is_left_out(packages: Path) -> None:
    keys = {emoji.key for emoji in archives.read_archives(packages)}
    assert keys == set(code_points())  # no skin tone, flag, OpenMoji extra or emoji of few styles


def test_an_alias_draws_its_parent_in_its_own_box(packages: Path) -> None:
    last = archives.read_archives(packages)[-1]
    assert "<path d='old'/>" in str(last.drawings["noto"])
    assert 'viewBox="0 0 18 36"' in str(last.drawings["noto"])


def test_concept_drops_skin_gender_and_joiners(packages: Path) -> None:
    concepts = {emoji.key: emoji.concept for emoji in archives.read_archives(packages)}
    assert concepts["1F468-200D-1F500"] == concepts["1F469-200D-1F500"] == "1F9D1-1F500"
    assert len(set(concepts.values())) == 2 * (PER_CLASS - 2)


def test_no_concept_is_in_two_parts() -> None:
    rng = np.random.default_rng(0)
    targets = np.repeat(np.arange(3), 40)
    concepts = np.array([f"{rng.integers(60)}" for _ in targets])
    held_out, order = split_by_concept(targets, concepts, 3)
    for concept in set(concepts.tolist()):
        assert len(set(held_out[concepts == concept].tolist())) == 1
        assert len(set(order[concepts == concept].tolist())) == 1
    assert 0.2 < held_out.mean() < 0.4
    again, _ = split_by_concept(targets, concepts, 4)
    assert not np.array_equal(held_out, again)


def test_validation_takes_whole_concepts(packages: Path) -> None:
    concept = {i: e.concept for i, e in enumerate(archives.read_archives(packages))}
    names = {name: i for i, name in enumerate(dict.fromkeys(concept.values()))}

    class Numbered(FakeRasteriser):
        def svg_to_bytes(self, *, svg_string: str, width: int, height: int, **_: object) -> bytes:
            number = svg_string.split("emoji-")[-1].split("'")[0]
            place = int(number) if number.isdecimal() else len(concept) - 1
            buffer = io.BytesIO()
            Image.new("RGB", (width, height), (names[concept[place]], 0, 0)).save(buffer, "PNG")
            return buffer.getvalue()

    sys.modules["resvg_py"] = Numbered()  # type: ignore[assignment]
    stream = build_stream(CONFIG.model_copy(update={"domains": ("noto",)}))
    parts = []
    for part in (
        stream.experiences[0].train,
        stream.experiences[0].validation,
        stream.tests["noto"],
    ):
        images, _ = part.batch(range(len(part)))
        parts.append(set(images[:, 0, 0, 0].tolist()))
    assert all(parts)
    assert len(parts[0] | parts[1] | parts[2]) == sum(map(len, parts))


def test_drawn_once_and_cached(packages: Path) -> None:
    before = build_stream(CONFIG).fingerprint
    for file in packages.iterdir():
        file.unlink()
    assert build_stream(CONFIG).fingerprint == before


def test_not_prepared(packages: Path) -> None:
    (packages / facts.PACKAGES["noto"].archive).unlink()
    with pytest.raises(DataError, match=r"noto.*is missing; run 'rtl data prepare emoji'"):
        build_stream(CONFIG)


def test_changed_archive_is_refused(packages: Path) -> None:
    path = packages / facts.PACKAGES["noto"].archive
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(DataError, match="is not the pinned archive"):
        build_stream(CONFIG)
    report = verify_stream(CONFIG)
    assert not report.passed
    assert report.findings[0].check == "archives"


def test_damaged_archive(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = facts.PACKAGES["noto"]
    pack(packages / package.archive, {"chars.json": b"{", "icons.json": b"{}"})
    changed = dataclasses.replace(package, sha256=sha256_of(packages / package.archive))
    monkeypatch.setitem(facts.PACKAGES, "noto", changed)
    with pytest.raises(DataError, match="a package is damaged"):
        build_stream(CONFIG)


def test_verify_counts(packages: Path) -> None:
    report = verify_stream(CONFIG)
    assert report.images["twemoji"] == {"images": 2 * PER_CLASS}
    # The fakes have two classes; all others are reported as too thin.
    assert report.findings[0].count == 49


def test_no_rasteriser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(DataError, match=r"pip install 'rtl-continual\[emoji\]'"):
        prepare_stream(CONFIG)


def test_no_npm(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = packages / facts.PACKAGES["twemoji"].archive
    archive.unlink()
    monkeypatch.setenv("PATH", str(packages))
    with pytest.raises(DataError, match=r"npm was not found.*put the files into") as caught:
        prepare_stream(CONFIG)
    assert "@iconify-json/twemoji@1.2.5" in str(caught.value)


def fake_npm(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "bin" / "npm"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for npm is a shell script")
def test_offline(packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (packages / facts.PACKAGES["noto"].archive).unlink()
    fake_npm(tmp_path, "echo 'npm error code ENOTFOUND' >&2; exit 1", monkeypatch)
    with pytest.raises(DataError, match=r"could not fetch @iconify-json/noto.*ENOTFOUND.*network"):
        prepare_stream(CONFIG)


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for npm is a shell script")
def test_npm_fetches_what_is_missing_and_runs_no_script(
    packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = packages / facts.PACKAGES["noto"].archive
    kept = archive.rename(tmp_path / "kept.tgz")
    script = f'echo "$@" > {tmp_path}/words; cp {kept} "$4/{archive.name}"'
    fake_npm(tmp_path, script, monkeypatch)
    prepare_stream(CONFIG)
    words = (tmp_path / "words").read_text().split()
    assert words[:3] == ["pack", "--ignore-scripts", "--pack-destination"]
    assert words[4] == "@iconify-json/noto@1.2.9"
    assert build_stream(CONFIG).domains == facts.STYLES


def test_raster_is_fitted_onto_white() -> None:
    buffer = io.BytesIO()
    Image.new("RGBA", (20, 40), (0, 0, 0, 255)).save(buffer, "PNG")
    drawn = draw(buffer.getvalue(), 64, FakeRasteriser())
    assert drawn.shape == (3, 64, 64)
    assert drawn[:, :, 2].min() == 255
    assert drawn[:, 32, 32].max() == 0


def test_vector_by_the_real_rasteriser() -> None:
    pytest.importorskip("resvg_py")
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 10">'
        '<rect width="5" height="10" fill="currentColor"/></svg>'
    )
    drawn = draw(svg, 64, load_rasteriser())
    assert drawn[:, :, 10].max() < 10
    assert drawn[:, :, 50].min() == 255
    with pytest.raises(DataError, match="cannot be drawn"):
        draw("<svg", 64, load_rasteriser())
