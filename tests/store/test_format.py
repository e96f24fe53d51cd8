"""The written format, by a reader that knows docs/bank-format.md and Python's standard library."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rtl_continual import load_bank
from rtl_continual.store import BankStore
from rtl_continual.training import commit_ticket

FIXTURES = Path(__file__).parents[1] / "fixtures"
BANK = FIXTURES / "bank-v1"
"""Written when format 1 was new. Version 1: two tickets. 2: one more. 3: back to 1. 4: one more."""

TRAINED = FIXTURES / "bank-v1-trained"
"""Written by 0.1.0: trained tickets over the built-in weights, one version for each kind of router
and of its state, one of them retired."""

NAMES = {"F32": "torch.float32", "I64": "torch.int64"}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")


def unseal(kind: str, path: Path) -> tuple[dict[str, Any], str]:
    data = path.read_bytes()
    head = b'{"%s":' % kind.encode()
    body = data[len(head) : -78]
    digest = sha256(body)
    assert data == head + body + b',"sha256":"' + digest.encode() + b'"}\n'
    value = json.loads(body)
    assert canonical(value) == body
    return value, digest


def read_blob(
    name: str, size: int
) -> tuple[dict[str, Any], dict[str, tuple[str, list[int], bytes]]]:
    data = (BANK / f"blobs/{name}.safetensors").read_bytes()
    assert (len(data), sha256(data)) == (size, name)
    length = int.from_bytes(data[:8], "little")
    header, content = json.loads(data[8 : 8 + length]), data[8 + length :]
    metadata = header.pop("__metadata__")
    assert list(metadata) == ["rtl_continual"]
    facts = json.loads(metadata["rtl_continual"])
    assert canonical(facts).decode() == metadata["rtl_continual"]
    assert facts["format_version"] == 1
    return facts, {
        key: (entry["dtype"], entry["shape"], content[slice(*entry["data_offsets"])])
        for key, entry in header.items()
    }


def unpack(code: bytes, layers: list[dict[str, Any]]) -> bytes:
    bits, start = b"", 0
    for layer in layers:
        part = code[start : start + layer["bytes"]]
        start += layer["bytes"]
        packed = part if layer["code"] == "bits" else zlib.decompress(part, wbits=-15)
        weights = math.prod(layer["shape"])
        if layer["code"] == "gaps":
            packed = from_gaps(packed).to_bytes(math.ceil(weights / 8), "little")
        assert len(packed) == math.ceil(weights / 8)
        number = int.from_bytes(packed, "little")
        assert (number.bit_count(), number >> weights) == (layer["kept"], 0)
        bits += packed
    assert start == len(code)
    return bits


def from_gaps(gaps: bytes) -> int:
    number = place = 0
    for gap in gaps:
        place += gap
        if gap < 255:
            number |= 1 << place
            place += 1
    return number


def tensor_hash(digest: Any, tensors: dict[str, tuple[str, list[int], bytes]]) -> str:
    for name, (kind, shape, data) in sorted(tensors.items()):
        sizes = ", ".join(map(str, shape))
        digest.update(f"{name}|{NAMES[kind]}|[{sizes}]|".encode() + data)
    return str(digest.hexdigest())


def test_a_reader_by_the_book_reads_the_same() -> None:
    files = sorted((BANK / "manifests").iterdir())
    assert [path.name for path in files] == [f"{n:08d}.json" for n in (1, 2, 3, 4)]
    before = None
    codes = set()
    for number, path in enumerate(files, start=1):
        manifest, digest = unseal("manifest", path)
        assert (manifest["version"], manifest["format"]) == (number, "rtl-continual-bank")
        assert manifest["parent"] == before
        before = {"version": number, "sha256": digest}
        bank = load_bank(BANK, version=number)
        assert len(manifest["tickets"]) == len(bank)
        for entry, ticket in zip(manifest["tickets"], bank, strict=True):
            facts, tensors = read_blob(entry["blob"], entry["bytes"])
            assert facts["format"] == "rtl-continual-ticket"
            assert facts["info"] == ticket.info.to_json()
            assert facts["backbone"] == manifest["backbone"]["identity"]
            codes |= {layer["code"] for layer in facts["mask"]}
            kind, shape, code = tensors.pop("mask")
            assert (kind, shape) == ("U8", [len(code)])
            bits = unpack(code, facts["mask"])
            assert bits == ticket.mask.bits.tobytes()
            assert sum(layer["kept"] for layer in facts["mask"]) == entry["kept"]
            assert entry["name"] == ticket.name == facts["info"]["name"]
            fingerprint = tensor_hash(hashlib.sha256(bits), tensors)
            assert fingerprint == entry["fingerprint"] == ticket.fingerprint
        facts, _ = read_blob(manifest["router"]["blob"], manifest["router"]["bytes"])
        assert (facts["format"], facts["name"]) == ("rtl-continual-router", "flat")
        entry = manifest["backbone"]
        facts, tensors = read_blob(entry["blob"], entry["bytes"])
        header = {"name": "glyphnet", "split": entry["config"]["split"], "taps": None}
        start = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
        assert tensor_hash(start, tensors) == entry["identity"] == facts["identity"]
    assert codes == {"bits", "deflate", "gaps"}
    pointer, _ = unseal("pointer", BANK / "tags/production.json")
    assert pointer["name"] == "production"
    assert pointer["manifest"] == unseal("manifest", files[pointer["version"] - 1])[1]


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_a_bank_of_format_1_predicts_as_on_the_day_it_was_written(version: int) -> None:
    """Expected values: written by the first writer of the format, on a CPU."""
    expected = load_file(FIXTURES / "bank-v1.expected.safetensors")
    found = load_bank(BANK, version=version).predict(expected["images"])
    assert torch.equal(found.ticket_ids, expected[f"v{version}.ticket_ids"])
    assert torch.equal(found.labels, expected[f"v{version}.labels"])
    torch.testing.assert_close(found.outputs, expected[f"v{version}.outputs"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        found.confidence, expected[f"v{version}.confidence"], rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("version", [None, 1, 3, 4, 5, 6, 7, 8, 9])
def test_a_bank_of_0_1_0_predicts_as_on_the_day_it_was_written(version: int | None) -> None:
    """Routers of every kind, half-precision mixtures, names of classes, options of the task.

    The weights are named, not embedded: the package must be able to build them for ever.
    """
    expected = load_file(FIXTURES / "bank-v1-trained.expected.safetensors")
    bank = load_bank(TRAINED, version=version)
    found = bank.predict(expected["images"])
    key = f"v{bank.version}"
    assert torch.equal(found.ticket_ids, expected[f"{key}.ticket_ids"])
    assert torch.equal(found.labels, expected[f"{key}.labels"])
    torch.testing.assert_close(found.outputs, expected[f"{key}.outputs"], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(
        found.confidence, expected[f"{key}.confidence"], rtol=1e-3, atol=1e-3
    )


def test_a_bank_of_0_1_0_is_sound_and_grows(tmp_path: Path) -> None:
    store = BankStore.open(TRAINED)
    assert store.verify().problems == ()
    assert [row["operation"] for row in store.history()] == ["create", *["commit"] * 8, "collect"]
    assert [row["version"] for row in store.history() if row["retired"]] == [2]
    bank = load_bank(TRAINED, tag="production")
    assert (bank.version, bank.class_name(3), bank.task.config.label_smoothing) == (1, "3", 0.1)
    shutil.copytree(TRAINED, tmp_path / "bank")
    grown = load_bank(tmp_path / "bank", version=4)
    twin = replace(grown[0], id=2, info=replace(grown[0].info, name="twin"))
    commit_ticket(grown, twin)
    assert BankStore.open(tmp_path / "bank").try_commit(grown) is None, "4 is not the newest"
    newest = load_bank(tmp_path / "bank")
    commit_ticket(newest, twin)
    assert BankStore.open(tmp_path / "bank").commit(newest).version == 11


def test_a_bank_of_format_1_is_sound_and_reading_leaves_it_alone() -> None:
    before = sorted(BANK.rglob("*"))
    store = BankStore.open(BANK)
    assert store.verify().problems == ()
    assert [row["operation"] for row in store.history()] == [
        "create",
        "commit",
        "rollback",
        "commit",
    ]
    assert load_bank(BANK, tag="production").names == ("dark", "middle")
    assert load_bank(BANK)[2].info.provenance["note"] == "naïve Größe ✓"
    assert sorted(BANK.rglob("*")) == before
