"""Adding tickets from new data in a fresh process: what is found, judged, committed, refused."""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from rtl_continual import load_bank
from rtl_continual.backbones import Backbone, build_backbone
from rtl_continual.discovery import DiscoveryConfig
from rtl_continual.errors import BankError, ConfigError, DataError, RTLError
from rtl_continual.plugins import get_manager, hookimpl
from rtl_continual.routing import FlatRouter, FlatRouterConfig
from rtl_continual.store import AddConfig, Addition, BankStore, Manifest, bank_app, save_bank
from rtl_continual.streams import ArraySet
from rtl_continual.tasks import Classification
from rtl_continual.tickets import TicketBank, TicketInfo
from rtl_continual.training import TicketConfig, commit_ticket, learn_ticket

CLASSES = ("left", "right", "top")
TICKETS: dict[str, Any] = {"epochs": 8, "batch_size": 16, "sparsity": 0.5}
CONFIG = AddConfig(tickets=TicketConfig(**TICKETS))
SETTINGS = [f"tickets.{key}={value}" for key, value in TICKETS.items()]


def images_of(domain: int, count: int, seed: int = 0) -> ArraySet:
    """A bright patch tells the class, the colour the domain, and where the patch lies both."""
    rng = np.random.default_rng([seed, domain])
    targets = np.arange(count) % 3
    images = rng.integers(0, 50, (count, 3, 32, 32))
    images[:, domain] += 80
    for row, target in enumerate(targets):
        place = (target + domain) % 3
        top, left = (0, 8) if place == 2 else (8, 16 * place)
        images[row, :, top : top + 16, left : left + 16] += 100
    return ArraySet(images.astype(np.uint8), targets, domain)


def dump(data: ArraySet, folder: Path, classes: tuple[str, ...] = CLASSES) -> Path:
    for row in range(len(data)):
        image, target = data[row]
        place = folder / classes[target]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(place / f"{row:03d}.png")
    return folder


@pytest.fixture(scope="module")
def small() -> Backbone:
    return build_backbone("glyphnet", weights="random:0", width=8)


@pytest.fixture(scope="module")
def template(small: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bank with one ticket, for domain 0."""
    router = FlatRouter(FlatRouterConfig(samples_per_ticket=128))
    bank = TicketBank(small, Classification(3, CLASSES), router)
    ticket, learner = learn_ticket(
        bank, images_of(0, 90), CONFIG.tickets, info=TicketInfo("first"), seed=0
    )
    commit_ticket(bank, ticket, learner)
    folder = tmp_path_factory.mktemp("template") / "bank"
    save_bank(bank, folder)
    return folder


@pytest.fixture
def folder(template: Path, tmp_path: Path) -> Path:
    BankStore.open(template).export_version(tmp_path / "bank")
    return tmp_path / "bank"


def call(folder: Path, *arguments: str) -> Any:
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    result = CliRunner().invoke(bank_app, ["add", str(folder), *settings, *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_a_new_domain_gets_a_ticket(folder: Path, tmp_path: Path) -> None:
    night = dump(images_of(1, 90), tmp_path / "rain")
    result = call(folder, "--data", str(night), "--tag", "candidate", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["outcome"], found["base"], found["version"], found["shift"]) == (
        "added", 1, 2, True
    )  # fmt: skip
    (candidate,) = found["candidates"]
    trial = candidate["trial"]
    assert (candidate["name"], candidate["samples"]) == ("rain", 90)
    assert trial["held_out"] == 24
    assert trial["bank_after"] >= max(trial["bank_before"], trial["best_before"]) + 0.02
    assert found["changes"]["tickets"]["unchanged"] == 1
    store = BankStore.open(folder)
    assert store.verify().ok
    assert store.tags() == {"candidate": 2}
    bank = load_bank(folder, tag="candidate")
    provenance = bank[1].info.provenance
    assert provenance["trial"]["accepted"] is True
    assert provenance["data"] == found["data"]
    answer = bank.predict(images_of(1, 30, seed=5).images)
    assert answer.ticket_ids.tolist() == [1] * 30
    assert bank.class_name(0) == "left"


def test_the_ticket_is_that_of_the_one_step_function(folder: Path, small: Backbone) -> None:
    """Equal masks for the same data, options and seed, whoever drives the learning."""
    data = images_of(1, 90)
    load_bank(folder).add(data, name="rain", config=CONFIG)
    bank = load_bank(folder, version=1)
    from rtl_continual.store._add_trial import split_by_class

    fit, _ = split_by_class(data.targets, CONFIG.holdout, CONFIG.seed)
    ticket, _ = learn_ticket(
        bank, data.subset(fit), CONFIG.tickets, info=TicketInfo("rain"), seed=CONFIG.seed
    )
    assert load_bank(folder)[1].fingerprint == ticket.fingerprint


def test_known_data_need_no_ticket(folder: Path, tmp_path: Path) -> None:
    night = dump(images_of(0, 60, seed=3), tmp_path / "night")
    result = call(folder, "--data", str(night))
    assert result.exit_code == 4
    assert "no shift: " in result.stdout
    assert "'first' 60" in result.stdout
    assert BankStore.open(folder).versions() == [1]


def test_too_few_images_are_told(folder: Path, tmp_path: Path) -> None:
    result = call(folder, "--data", str(dump(images_of(1, 12), tmp_path / "few")))
    assert result.exit_code == 4
    assert "12 images are fewer than discovery.min_support (50)" in result.stdout


def test_a_candidate_that_gains_too_little_is_rejected(folder: Path, tmp_path: Path) -> None:
    night = dump(images_of(0, 60, seed=3), tmp_path / "night")
    result = call(folder, "--data", str(night), "--set", "growth=one", "--json")
    assert result.exit_code == 4
    found = json.loads(result.stdout)
    assert (found["outcome"], found["version"]) == ("rejected", None)
    trial = found["candidates"][0]["trial"]
    assert trial["accepted"] is False
    assert "the margin is 0.02" in trial["reason"]
    assert trial["best_ticket"] == "first"
    assert BankStore.open(folder).versions() == [1]


def test_a_ticket_that_takes_from_others_is_rejected(folder: Path) -> None:
    """The same images with other labels: the new ticket is right, but the router is lost."""
    data = images_of(0, 90)
    swapped = ArraySet(data.images, (data.targets + 1) % 3, 0)
    config = CONFIG.model_copy(update={"growth": "one", "margin": 0.0})
    found = load_bank(folder).add(swapped, config=config)
    assert found.outcome == "rejected"
    trial = found.candidates[0].trial
    assert trial.taken["first"] > 0.1
    assert "of the inputs of ticket 'first', at most 10.0% are allowed" in trial.reason


def test_plugins_hear_of_it(folder: Path) -> None:
    heard: list[tuple[str, str, dict[str, Any]]] = []

    class Listener:
        @hookimpl
        def shift_detected(self, folder: Path, unit: str, facts: dict[str, Any]) -> None:
            heard.append(("shift", unit, facts))

        @hookimpl
        def ticket_added(self, folder: Path, unit: str, facts: dict[str, Any]) -> None:
            heard.append((str(folder), unit, facts))

        @hookimpl
        def ticket_rejected(self, folder: Path, unit: str, facts: dict[str, Any]) -> None:
            heard.append(("rejected", unit, facts))

    get_manager().register(Listener(), "listener")
    try:
        bank = load_bank(folder)
        bank.add(images_of(1, 90), name="rain", config=CONFIG)
        one = CONFIG.model_copy(update={"growth": "one"})
        bank.add(images_of(0, 60, seed=3), name="again", config=one)
    finally:
        get_manager().unregister("listener")
    assert [(what, unit) for what, unit, _ in heard] == [
        ("shift", "bank add"),
        (str(folder), "bank add"),
        ("rejected", "bank add"),
    ]
    assert heard[0][2] == {"clusters": 1, "samples": 90}
    assert heard[1][2] == {"cluster": "rain", "version": 2}
    assert "margin" in heard[2][2]["reason"]


def test_collapse_is_watched_for_and_told(folder: Path, tmp_path: Path) -> None:
    assert AddConfig().tickets.collapse is not None
    assert AddConfig(tickets={"epochs": 3}).tickets.collapse is not None  # type: ignore[arg-type]
    assert AddConfig(tickets={"collapse": None}).tickets.collapse is None  # type: ignore[arg-type]
    night = dump(images_of(1, 90), tmp_path / "rain")
    result = call(
        folder, "--data", str(night), "--set", "tickets.collapse.score=similarity",
        "--set", "tickets.collapse.level=0.05", "--set", "tickets.start=cold",
    )  # fmt: skip
    assert "about to collapse at sparsity" in result.stdout


UNDISTURBED = BankStore.try_commit


def while_judging(monkeypatch: pytest.MonkeyPatch, *meanwhile: Callable[[], object]) -> None:
    """Let other writers come between a trial and its commit, one each time."""
    real, left = BankStore.try_commit, list(meanwhile)

    def late(self: BankStore, bank: TicketBank, *, message: str = "") -> Manifest | None:
        if left:
            left.pop(0)()
        return real(self, bank, message=message)

    monkeypatch.setattr(BankStore, "try_commit", late)


def other(folder: Path, name: str, domain: int, tag: str | None = None) -> Callable[[], Addition]:
    """Another process that adds a ticket and is not disturbed."""

    def add() -> Addition:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(BankStore, "try_commit", UNDISTURBED)
            return load_bank(folder).add(images_of(domain, 90), name=name, config=CONFIG, tag=tag)

    return add


def test_a_ticket_that_another_writer_made_needless_is_rejected(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two jobs learn from the same night: the second one gains nothing over the first."""
    while_judging(monkeypatch, other(folder, "theirs", 1))
    found = load_bank(folder).add(images_of(1, 90, seed=4), name="mine", config=CONFIG)
    assert (found.outcome, found.version) == ("rejected", None)
    assert (found.base, found.overtaken_by) == (2, (2,))
    assert found.candidates[0].trial.best_ticket == "theirs"
    assert "the margin is 0.02" in found.reason
    assert load_bank(folder).names == ("first", "theirs")
    assert BankStore.open(folder).verify().unused == 0


def test_a_ticket_is_judged_again_behind_those_of_others(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice others are faster; one of them has taken the name."""
    while_judging(
        monkeypatch, other(folder, "rain", 2), lambda: BankStore.open(folder).gc(grace=0, keep=1)
    )
    night = dump(images_of(1, 90), tmp_path / "rain")
    result = call(folder, "--data", str(night), "--tag", "candidate")
    assert result.exit_code == 0, result.output
    assert "judged again, against what others had committed meanwhile: 2, 3" in result.stdout
    assert "added 'rain-2' as version 4" in result.stdout
    assert "version 3 -> 4: 2 tickets unchanged, router changed" in result.stdout
    store = BankStore.open(folder)
    assert store.verify().problems == ()
    assert store.tags() == {"candidate": 4}
    bank = store.load()
    assert bank.names == ("first", "rain", "rain-2")
    assert bank[2].info.provenance["added_to_version"] == 3
    assert bank[2].info.provenance["trial"]["bank_before"] is not None
    assert bank.predict(images_of(1, 30, seed=5).images).ticket_ids.tolist() == [2] * 30
    assert bank.predict(images_of(2, 30, seed=5).images).ticket_ids.tolist() == [1] * 30


def test_a_parent_that_was_rolled_back_meanwhile_is_forgotten(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_bank(folder).add(images_of(2, 90), name="bad", config=CONFIG)
    while_judging(monkeypatch, lambda: BankStore.open(folder).rollback(1))
    near = images_of(2, 90, seed=7)
    tinted = ArraySet(near.images.numpy() + np.uint8(25), near.targets, 0)
    one = CONFIG.model_copy(update={"growth": "one", "margin": 0.0})
    dry = load_bank(folder).add(tinted, name="near", config=one, dry_run=True)
    assert (dry.shift, dry.candidates[0].parent) == (None, "bad")
    found = load_bank(folder).add(tinted, name="near", config=one)
    assert (found.outcome, found.version, found.overtaken_by) == ("added", 4, (3,))
    bank = load_bank(folder)
    assert (bank.names, bank[1].info.parent) == (("first", "near"), None)
    assert BankStore.open(folder).verify().ok


def test_a_tag_is_not_moved_back_by_a_slower_writer(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = BankStore.try_commit

    def early(self: BankStore, bank: TicketBank, *, message: str = "") -> Manifest | None:
        manifest = real(self, bank, message=message)
        other(folder, "later", 2, tag="candidate")()
        return manifest

    monkeypatch.setattr(BankStore, "try_commit", early)
    load_bank(folder).add(images_of(1, 90), name="mine", config=CONFIG, tag="candidate")
    assert BankStore.open(folder).tags() == {"candidate": 3}


def test_what_cannot_be_committed_is_told_before_anything_is_learned(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    night = dump(images_of(1, 90), tmp_path / "rain")
    with pytest.raises(BankError, match="is no name for a tag"):
        call(folder, "--data", str(night), "--tag", "Release 1")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("rtl_continual.store._storage.os.write", full)
    monkeypatch.setattr("rtl_continual.store._add.learn_ticket", None)
    with pytest.raises(BankError, match="no space left there"):
        call(folder, "--data", str(night))


@pytest.mark.parametrize(
    "kills", [6, pytest.param(60, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
def test_a_job_killed_at_any_moment_leaves_the_old_version_or_the_new(
    template: Path,
    tmp_path: Path,
    fork: Callable[[Callable[[], None]], int],
    kill_at: Callable[[int, float], bool],
    kills: int,
) -> None:
    """From the first look at the data to the tag; the next night begins where this one began."""
    night, draw = images_of(1, 90), random.Random(kills)

    def begin(folder: Path) -> int:
        BankStore.open(template).export_version(folder)
        return fork(lambda: work(folder))

    def work(folder: Path) -> None:
        load_bank(folder).add(night, name="rain", config=CONFIG, tag="candidate")

    _, status, used = os.wait4(begin(tmp_path / "whole"), 0)
    assert status == 0
    whole = used.ru_utime + used.ru_stime
    expected = [ticket.fingerprint for ticket in load_bank(tmp_path / "whole")]
    ends = {1: 0, 2: 0}
    for number in range(kills):
        folder = tmp_path / f"bank{number}"
        kill_at(begin(folder), draw.uniform(0, 1.05 * whole))
        store = BankStore.open(folder)
        assert store.verify().problems == ()
        head = store.head()
        ends[head] += 1
        assert [t.fingerprint for t in store.read().tickets] == expected[:head]
        assert store.tags() in ({}, {"candidate": 2})
        if number % 6 == 0 and head == 1:
            work(folder)
            assert [t.fingerprint for t in store.load()] == expected
    assert ends[1] > kills / 3


def test_a_dry_run_writes_nothing(folder: Path, tmp_path: Path) -> None:
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    night = dump(images_of(1, 90), tmp_path / "rain")
    result = call(folder, "--data", str(night), "--dry-run", "--tag", "candidate")
    assert result.exit_code == 0
    assert "would add 'rain'" in result.stdout
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


def test_domain_folders_are_recorded_but_not_learned_from(folder: Path, tmp_path: Path) -> None:
    dump(images_of(1, 60), tmp_path / "night" / "a")
    dump(images_of(1, 60, seed=1), tmp_path / "night" / "b")
    result = call(folder, "--data", str(tmp_path / "night"), "--name", "green", "--json")
    found = json.loads(result.stdout)
    (candidate,) = found["candidates"]
    assert candidate["domain_counts"] == {"a": 60, "b": 60}
    assert candidate["name"] == "green"


def test_two_new_domains_get_a_ticket_each(folder: Path, tmp_path: Path) -> None:
    dump(images_of(1, 60), tmp_path / "night" / "a")
    dump(images_of(2, 75), tmp_path / "night" / "b")
    # So few images do not tell a mixture how many groups there are; it is told.
    two = DiscoveryConfig(clusterer={"name": "kmeans", "clusters": 2})  # type: ignore[arg-type]
    config = CONFIG.model_copy(update={"discovery": two})
    found = load_bank(folder).add(tmp_path / "night", config=config)
    assert [c.name for c in found.candidates] == ["night", "night-2"]
    assert [c.domain_counts for c in found.candidates] == [{"b": 75}, {"a": 60}]
    assert len(load_bank(folder)) == 3


def test_a_list_of_files_names_classes_or_numbers(folder: Path, tmp_path: Path) -> None:
    data = images_of(1, 90)
    lines = []
    for row in range(len(data)):
        image, target = data[row]
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"im {row}.png")
        lines.append(f"im {row}.png {CLASSES[target] if row % 2 else target}")
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    found = load_bank(folder).add(tmp_path, labels=labels, name="listed", config=CONFIG)
    assert found.outcome == "added"
    same = load_bank(folder, version=1).add(data, name="x", config=CONFIG, dry_run=True)
    assert same.data == found.data


def test_broken_images_are_named_and_may_be_left_out(folder: Path, tmp_path: Path) -> None:
    night = dump(images_of(1, 96), tmp_path / "rain")
    files = sorted(night.rglob("*.png"))
    for file in files[:6]:
        file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(DataError, match=r"^6 of 96 images .*000.png.*, and 1 more\. .*max_broken"):
        call(folder, "--data", str(night), "--set", "max_broken=0.05")
    result = call(folder, "--data", str(night), "--set", "max_broken=0.1")
    assert result.exit_code == 0, result.output
    assert "6 images were left out: " in result.stdout
    assert "000.png cannot be read as an image" in result.stdout
    for file in files[:6]:
        file.unlink()
    same = load_bank(folder, version=1).add(night, name="x", config=CONFIG, dry_run=True)
    assert (same.images, same.broken) == (90, ())
    assert same.data == load_bank(folder)[1].info.provenance["data"]


def test_the_bank_that_adds_goes_with_what_it_follows(folder: Path) -> None:
    BankStore.open(folder).tag("production", 1)
    newest, tagged = load_bank(folder), load_bank(folder, tag="production")
    fixed = load_bank(folder, 1)
    assert newest.add(images_of(1, 90), name="rain", config=CONFIG).version == 2
    assert (newest.version, len(newest)) == (2, 2)
    assert not tagged.reload()
    assert not fixed.reload()
    BankStore.open(folder).tag("production", 2)
    assert tagged.reload()
    assert (tagged.version, tagged.names) == (2, ("first", "rain"))
    with pytest.raises(BankError, match="has a ticket named 'rain' already"):
        fixed.add(images_of(2, 90), name="rain", config=CONFIG)


def test_an_empty_bank_gets_its_first_ticket(small: Backbone, tmp_path: Path) -> None:
    save_bank(TicketBank(small, Classification(3, CLASSES), FlatRouter()), tmp_path / "bank")
    found = load_bank(tmp_path / "bank").add(images_of(0, 90), name="first", config=CONFIG)
    trial = found.candidates[0].trial
    assert (found.outcome, trial.bank_before, trial.best_ticket) == ("added", None, None)


def test_a_bank_without_router_is_refused(small: Backbone, tmp_path: Path) -> None:
    save_bank(TicketBank(small, Classification(3)), tmp_path / "bank")
    with pytest.raises(BankError, match="has no router"):
        load_bank(tmp_path / "bank").add(images_of(0, 90))


Prepare = Callable[[Path], list[str]]


def with_setting(setting: str) -> Prepare:
    def prepare(root: Path) -> list[str]:
        with_folders("left")(root)
        return ["--set", setting]

    return prepare


def with_folders(*names: str) -> Prepare:
    def prepare(root: Path) -> list[str]:
        for name in names:
            (root / name).mkdir(parents=True)
            Image.new("RGB", (32, 32)).save(root / name / "a.png")
        return []

    return prepare


def with_list(text: str) -> Prepare:
    def prepare(root: Path) -> list[str]:
        root.mkdir()
        Image.new("RGB", (32, 32)).save(root / "a.png")
        (root / "list.txt").write_text(text, encoding="utf-8")
        return ["--labels", str(root / "list.txt")]

    return prepare


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda root: [], "there is no such folder"),
        (with_folders("leftt"), "a class that the bank has not: unknown class 'leftt'; did you"),
        (with_folders("0"), "unknown class '0'"),
        (with_folders("left", "day/left"), "make it a folder per class, or a folder per domain"),
        (with_folders("a/b/c/left"), "has no images in class folders"),
        (with_list("a.png left\nb.png left\n"), r"list.txt:2: there is no such file"),
        (with_list("../list.txt left\n"), r"list.txt:1: the path must lie below"),
        (with_list("/etc/passwd left\n"), r"list.txt:1: the path must lie below"),
        (with_list("a.png 3\n"), "unknown class '3'"),
        (with_list("a.png\n"), "list.txt:1: must be a path, a blank and a class"),
        (with_setting("margin=2"), "--set margin: must be"),
        (with_setting("x.y=2"), "--set x.y: x: unknown key. Available: discovery,"),
        (with_setting("margin"), "--set margin: must be key.path=value"),
    ],
)
def test_mistakes_are_told(folder: Path, tmp_path: Path, prepare: Prepare, message: str) -> None:
    more = prepare(tmp_path / "night")
    with pytest.raises((DataError, ConfigError), match=message) as told:
        call(folder, "--data", str(tmp_path / "night"), *more)
    assert isinstance(told.value, RTLError)


def test_a_bank_without_class_names_takes_numbers(small: Backbone, tmp_path: Path) -> None:
    save_bank(TicketBank(small, Classification(3), FlatRouter()), tmp_path / "bank")
    night = dump(images_of(1, 12), tmp_path / "night", ("0", "1", "2"))
    assert "12 images are fewer" in call(tmp_path / "bank", "--data", str(night)).stdout
    night = dump(images_of(1, 12), tmp_path / "other")
    with pytest.raises(DataError, match="stores no class names, only numbers"):
        call(tmp_path / "bank", "--data", str(night))


def test_it_loads_no_avalanche(folder: Path, tmp_path: Path) -> None:
    night = dump(images_of(1, 90), tmp_path / "rain")
    program = (
        "import sys\n"
        "from rtl_continual.cli import app\n"
        "app(['bank', 'add', *sys.argv[1:]], standalone_mode=False)\n"
        "assert 'torch' in sys.modules\n"
        "assert 'avalanche' not in sys.modules\n"
    )
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder), "--data", str(night), *settings],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "added 'rain' as version 2" in done.stdout


def test_training_leaves_a_bank_in_service_alone(folder: Path) -> None:
    """Another thread's batch norm must not see the training mode of the new ticket."""
    import threading

    bank = load_bank(folder, version=1)
    images = images_of(0, 30, seed=9).images
    expected = bank.predict(images).outputs
    wrong: list[int] = []
    done = threading.Event()

    def serve() -> None:
        while not done.is_set():
            if not torch.equal(bank.predict(images).outputs, expected):
                wrong.append(1)

    server = threading.Thread(target=serve)
    server.start()
    try:
        bank.add(images_of(1, 90), name="rain", config=CONFIG)
    finally:
        done.set()
        server.join()
    assert not wrong
