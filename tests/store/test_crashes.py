"""Killed writers, many writers, full disks: HEAD is the old version or the new one."""

from __future__ import annotations

import errno
import os
import random
import resource
import stat
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from rtl_continual.backbones import Backbone
from rtl_continual.errors import BankError
from rtl_continual.store import BankStore, _storage
from rtl_continual.tasks import Classification
from rtl_continual.tickets import Ticket, TicketBank

Fork = Callable[[Callable[[], None]], int]
KillAt = Callable[[int, float], bool]
MakeTicket = Callable[..., Ticket]


@pytest.fixture
def path(empty_bank: TicketBank, tmp_path: Path) -> Path:
    """An empty bank's folder, without a router: its commits are small."""
    BankStore.create(tmp_path / "bank", empty_bank)
    return tmp_path / "bank"


def append(path: Path, template: Ticket, backbone: Backbone, name: str) -> tuple[int, float]:
    """What a writer does: open, add a ticket, commit.

    Returns:
        The new version, and the seconds that the process had computed when the commit began.
    """
    store = BankStore.open(path)
    bank = store.load(backbone=backbone)
    bank.append(replace(template, id=len(bank), info=replace(template.info, name=name)))
    began = time.process_time()
    return store.commit(bank).version, began


COMMITTED = struct.Struct("<Idd")
"""What a writer says after each commit: the version, and the seconds that it had computed when the
commit began and when it was over."""


def kill_rounds(
    path: Path,
    backbone: Backbone,
    make_ticket: MakeTicket,
    fork: Fork,
    kill_at: KillAt,
    kills: int,
    seed: int,
) -> int:
    """Kill a committing writer again and again; returns the number of commits, all kept."""
    clock = random.Random(seed)
    template = make_ticket(TicketBank(backbone, Classification(3)), "x", seed=seed)
    head = BankStore.open(path).head()
    for attempt in range(kills):
        reader, writer = os.pipe()

        def work(writer: int = writer, attempt: int = attempt) -> None:
            for i in range(1000):
                version, began = append(path, template, backbone, f"{seed}-{attempt}-{i}")
                os.write(writer, COMMITTED.pack(version, began, time.process_time()))

        child = fork(work)
        os.close(writer)
        # The next round will take as long as the last one did. Half of the moments are anywhere in
        # it, half in its commit.
        _, _, first = COMMITTED.unpack(os.read(reader, COMMITTED.size))
        acknowledged, began, ended = COMMITTED.unpack(os.read(reader, COMMITTED.size))
        since = first if attempt % 2 else began
        moment = ended + (since - first) + clock.uniform(0, 1) * (ended - since)
        assert kill_at(child, moment), "the writer ended by itself"
        while said := os.read(reader, COMMITTED.size):
            acknowledged, _, _ = COMMITTED.unpack(said)
        os.close(reader)
        store = BankStore.open(path)
        assert store.head() in (acknowledged, acknowledged + 1)
        assert len(store.read().tickets) == store.head() - 1
        head = store.head()
        assert store.verify().problems == ()
    return head - 1


def test_a_writer_killed_at_any_moment_loses_nothing(
    path: Path, backbone: Backbone, make_ticket: MakeTicket, fork: Fork, kill_at: KillAt
) -> None:
    kept = kill_rounds(path, backbone, make_ticket, fork, kill_at, kills=30, seed=0)
    assert kept >= 30
    store = BankStore.open(path)
    store.gc(grace=0)
    assert os.listdir(path / "tmp") == []
    report = store.verify()
    assert (report.ok, report.unused, report.tickets) == (True, 0, kept)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_three_hundred_kills(
    empty_bank: TicketBank,
    tmp_path: Path,
    backbone: Backbone,
    make_ticket: MakeTicket,
    fork: Fork,
    kill_at: KillAt,
) -> None:
    left = 0
    for seed in range(1, 11):
        store = BankStore.create(tmp_path / f"{seed}", empty_bank)
        kill_rounds(tmp_path / f"{seed}", backbone, make_ticket, fork, kill_at, 30, seed)
        report = store.verify()
        left += report.unused + report.unfinished
    assert left >= 10, "too few kills came in the middle of a commit"


@contextmanager
def unlocked(self: object, *, required: bool = False) -> Iterator[None]:
    yield


def no_links(*_: object, **__: object) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


@pytest.mark.parametrize("means", ["both", "links only", "lock only"])
@pytest.mark.parametrize(
    "commits", [3, pytest.param(25, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
def test_eight_writers_lose_nothing(
    path: Path,
    backbone: Backbone,
    make_ticket: MakeTicket,
    fork: Fork,
    monkeypatch: pytest.MonkeyPatch,
    means: str,
    commits: int,
) -> None:
    if means == "links only":
        monkeypatch.setattr(_storage.LocalStorage, "lock", unlocked)
    if means == "lock only":
        monkeypatch.setattr(_storage.os, "link", no_links)
    template = make_ticket(TicketBank(backbone, Classification(3)), "x")

    def work(writer: int) -> None:
        for i in range(commits):
            append(path, template, backbone, f"{writer}-{i}")

    children = [fork(lambda writer=writer: work(writer)) for writer in range(8)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 8
    store = BankStore.open(path)
    names = [entry.name for entry in store.read().tickets]
    assert sorted(names) == sorted(f"{w}-{i}" for w in range(8) for i in range(commits))
    assert store.head() == 8 * commits + 1
    assert store.verify().problems == ()


@pytest.mark.parametrize(
    "commits", [15, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
def test_a_reader_never_sees_a_torn_version(
    path: Path, backbone: Backbone, make_ticket: MakeTicket, fork: Fork, commits: int
) -> None:
    template = make_ticket(TicketBank(backbone, Classification(3)), "x")

    def work() -> None:
        for i in range(commits):
            append(path, template, backbone, f"{i}")

    child = fork(work)
    seen, last = set(), 0
    while last <= commits:
        bank = BankStore.open(path).load(backbone=backbone)
        assert bank.version >= last
        assert len(bank) == bank.version - 1
        if len(bank) and bank.version > last:
            assert bank[len(bank) - 1].fingerprint == template.fingerprint
        last = bank.version
        seen.add(last)
    assert os.waitpid(child, 0)[1] == 0
    assert len(seen) > 1


@contextmanager
def failing(call: str, at: int, code: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Let the ``at``-th use of a system call by the storage fail; counts the uses."""
    real = getattr(os, call)
    count = [0]

    def limited(*arguments: object, **options: object) -> object:
        count[0] += 1
        if count[0] == at:
            raise OSError(code, os.strerror(code))
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(_storage.os, call, limited)
        yield count


@pytest.mark.parametrize("call", ["open", "write", "fsync", "link", "close"])
def test_a_disk_that_fails_at_any_call_leaves_a_whole_bank(
    store: BankStore,
    grow: Callable[..., Ticket],
    monkeypatch: pytest.MonkeyPatch,
    call: str,
) -> None:
    at = uses = 1
    while at <= uses:
        bank, head = store.load(), store.head()
        grow(bank, f"{call} {at}", seed=at)
        message = "none"
        with failing(call, at, errno.ENOSPC, monkeypatch) as count:
            try:
                store.commit(bank)
            except BankError as error:
                message = str(error)
        uses = count[0] if message == "none" else at + 1
        after = BankStore.open(store.storage.root)
        assert after.head() in (head, head + 1)
        assert (after.head() == head) == ("the bank is as it was before" in message), message
        assert message == "none" or "no space left" in message
        assert after.verify().problems == ()
        at += 1
    assert at > 3, f"the storage does not use os.{call}"
    assert list((store.storage.root / "tmp").iterdir()) == []


@pytest.mark.parametrize("limit", [0, 300, 1200])
def test_a_full_disk(store: BankStore, grow: Callable[..., Ticket], limit: int) -> None:
    bank = store.load()
    grow(bank, "t3", seed=3)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(BankError, match=r"no space left there .*the bank is as it was before"):
            store.commit(bank)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert store.head() == 1
    assert store.verify().ok
    assert store.commit(bank).version == 2


def test_a_really_full_file_system(
    empty_bank: TicketBank, tmp_path: Path, grow: Callable[..., Ticket]
) -> None:
    mount = tmp_path / "disk"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(mount)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a file system can only be mounted by root")
    try:
        store = BankStore.create(mount / "bank", empty_bank)
        bank = store.load()

        def fill() -> None:
            for i in range(100):
                grow(bank, f"t{i}", seed=i)
                store.commit(bank)

        with pytest.raises(BankError, match="no space left there"):
            fill()
        assert store.head() > 2
        assert store.verify().problems == ()
        assert len(store.load()) == store.head() - 1
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_a_folder_that_may_only_be_read(
    bank: TicketBank, grow: Callable[..., Ticket], fork: Fork
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bank"
        store = BankStore.create(path, bank)
        grow(bank, "t3", seed=3)
        os.chmod(folder, 0o755)
        folders = [path, *(p for p in path.iterdir() if p.is_dir())]
        for part in folders:
            part.chmod(0o555)

        def work() -> None:
            if os.geteuid() == 0:
                os.setuid(65534)
            mine = BankStore.open(path)
            assert len(mine.load(backbone=bank.backbone)) == 3
            assert mine.verify().ok
            with pytest.raises(BankError, match=r"cannot write .*no permission"):
                mine.commit(bank)
            with pytest.raises(BankError, match=r"cannot write .*no permission"):
                mine.tag("production")
            with pytest.raises(BankError, match=r"cannot write .*no permission"):
                mine.rollback(1) if mine.head() > 1 else mine.gc(grace=0)
            with pytest.raises(BankError, match=r"cannot create .*no permission"):
                BankStore.create(path / "new", bank)

        try:
            assert os.waitpid(fork(work), 0)[1] == 0
        finally:
            for part in folders:
                part.chmod(stat.S_IRWXU)
        assert store.commit(bank).version == 2


def test_without_links_and_locks_nothing_is_written(
    path: Path,
    backbone: Backbone,
    make_ticket: MakeTicket,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_locks(self: object) -> None:
        raise NotImplementedError("no flock here")

    monkeypatch.setattr(_storage.os, "link", no_links)
    monkeypatch.setattr(_storage.FileLock, "acquire", no_locks)
    with pytest.raises(BankError, match="neither hard links nor locks"):
        append(path, make_ticket(TicketBank(backbone, Classification(3)), "x"), backbone, "x")
    assert BankStore.open(path).head() == 1


def test_without_locks_links_are_enough(
    path: Path, backbone: Backbone, make_ticket: MakeTicket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(self: object) -> None:
        raise NotImplementedError("no flock here")

    monkeypatch.setattr(_storage.FileLock, "acquire", no_locks)
    template = make_ticket(TicketBank(backbone, Classification(3)), "x")
    assert append(path, template, backbone, "x")[0] == 2


def test_a_writer_that_holds_the_lock_too_long(path: Path, empty_bank: TicketBank) -> None:
    holder = BankStore.open(path)
    waiting = BankStore(_storage.LocalStorage(path, lock_seconds=0.05))
    empty_bank.version, empty_bank.manifest = 1, holder.read().sha256
    with holder.storage.lock(), pytest.raises(BankError, match="another process has been writing"):
        waiting.commit(empty_bank)
    assert waiting.commit(empty_bank).version == 1
