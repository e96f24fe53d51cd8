"""Downloads that resume, archives that mean no harm, and DomainNet from a server of our own."""

from __future__ import annotations

import hashlib
import io
import stat
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from rtl_continual.errors import DataError
from rtl_continual.streams import DomainNetConfig, build_stream, prepare_stream
from rtl_continual.streams import _domainnet_check as domainnet_check
from rtl_continual.streams._domainnet_facts import DOMAINS, PublishedFile
from rtl_continual.streams._prepare import download, sha256_of, unpack_zip


@dataclass
class Server:
    """Files by name, and what was asked for."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    ranges: bool = True
    cut_at: int | None = None

    def published(self, name: str, data: bytes) -> PublishedFile:
        self.files[name] = data
        return PublishedFile(self.url + name, len(data), hashlib.sha256(data).hexdigest())


@pytest.fixture
def server() -> Iterator[Server]:
    """A server on this machine alone; nothing goes over a network."""
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            name = self.path.lstrip("/")
            state.asked.append((name, wanted))
            if name not in state.files:
                self.send_error(404)
                return
            data = state.files[name]
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and state.ranges else 0
            self.send_response(206 if start else 200)
            rest = data[start:]
            self.send_header("Content-Length", str(len(rest)))
            self.end_headers()
            self.wfile.write(rest if state.cut_at is None else rest[: state.cut_at])

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        state.url = f"http://127.0.0.1:{http.server_port}/"
        yield state
        http.shutdown()
        thread.join()


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_goes_on_where_it_was_cut_off(
    tmp_path: Path, server: Server, ranges: bool
) -> None:
    data = bytes(range(256)) * 20
    known = server.published("a.zip", data)
    target = tmp_path / "new" / "a.zip"
    server.cut_at, server.ranges = 1000, ranges
    with pytest.raises(DataError, match=r"a\.zip: (the connection ended|cannot be downloaded)"):
        download(known.url, target, size=known.size, sha256=known.sha256)
    assert not target.exists()
    assert (target.parent / "a.zip.part").stat().st_size == 1000
    server.cut_at = None
    heard: list[int] = []
    download(
        known.url,
        target,
        size=known.size,
        sha256=known.sha256,
        progress=lambda text, done, total: heard.append(done),
    )
    assert target.read_bytes() == data
    assert server.asked[-1] == ("a.zip", "bytes=1000-")
    assert heard[-1] == len(data)
    assert sorted(path.name for path in target.parent.iterdir()) == ["a.zip"]


def test_what_is_not_the_published_file_is_deleted(tmp_path: Path, server: Server) -> None:
    known = server.published("a.zip", b"right")
    for wrong in (b"wrong", b"longer than that"):
        server.files["a.zip"] = wrong
        with pytest.raises(DataError, match=r"not the published file|more than the published"):
            download(known.url, tmp_path / "a.zip", size=known.size, sha256=known.sha256)
    assert not (tmp_path / "a.zip").exists()


def test_a_file_of_unknown_size_is_taken_whole(tmp_path: Path, server: Server) -> None:
    server.files["list.txt"] = b"x" * 10
    (tmp_path / "list.txt.part").write_bytes(b"old")
    download(server.url + "list.txt", tmp_path / "list.txt")
    assert (tmp_path / "list.txt").read_bytes() == b"x" * 10


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/x", "file:///etc/hostname"])
def test_what_cannot_be_reached_is_named(tmp_path: Path, url: str) -> None:
    with pytest.raises(DataError, match=f"{url}: cannot be downloaded"):
        download(url, tmp_path / "x")


def test_no_room_is_seen_before(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"needs 1000000\.0 GB, the disk has less"):
        download("http://127.0.0.1:9/x", tmp_path / "x", size=10**15)


def archive(path: Path, entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in entries.items():
            file.writestr(name, data)
    return path


def test_unpacking_takes_one_folder_and_keeps_what_is_there(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", {"a/x/1.jpg": b"one", "a/x/2.jpg": b"two", "b/3": b"no"})
    target = tmp_path / "out"
    target.mkdir()
    assert unpack_zip(path, target, only="a") == 2
    assert (target / "a/x/2.jpg").read_bytes() == b"two"
    assert not (target / "b").exists()
    (target / "a/x/1.jpg").write_bytes(b"")
    assert unpack_zip(path, target, only="a") == 1
    assert sorted(p.name for p in (target / "a/x").iterdir()) == ["1.jpg", "2.jpg"]


@pytest.mark.parametrize(
    "name", ["../a/1.jpg", "/a/1.jpg", "a/../../1.jpg", "a\\..\\1.jpg", "C:/a"]
)
def test_archives_that_point_out_of_the_folder(tmp_path: Path, name: str) -> None:
    path = archive(tmp_path / "a.zip", {"a/0.jpg": b"x", name: b"x"})
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match="points out of the folder; nothing unpacked"):
        unpack_zip(path, tmp_path / "out", only="a")
    assert not list((tmp_path / "out").iterdir())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zip", "out"]


def test_archives_with_links(tmp_path: Path) -> None:
    entry = zipfile.ZipInfo("a/link")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr(entry, "/etc")
    with pytest.raises(DataError, match="'a/link' is a link or a device"):
        unpack_zip(tmp_path / "a.zip", tmp_path, only="a")


def test_archives_that_unpack_to_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = archive(tmp_path / "a.zip", {"a/0.jpg": bytes(3 << 20)})
    with pytest.raises(DataError, match=r"a/0\.jpg' unpacks from \d+ to 3145728 bytes"):
        unpack_zip(path, tmp_path, only="a")
    many = archive(tmp_path / "b.zip", {f"a/{number}": b"x" for number in range(3)})
    monkeypatch.setattr("rtl_continual.streams._prepare.MAX_ENTRIES", 2)
    with pytest.raises(DataError, match="would unpack to 3 files"):
        unpack_zip(many, tmp_path, only="a")


def test_damaged_archives(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", {"a/0.jpg": b"x" * 100, "a/1.jpg": b"y" * 100})
    data = bytearray(path.read_bytes())
    data[40] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.zip: is damaged: .*; delete it and get it again"):
        unpack_zip(path, tmp_path, only="a")
    assert not list((tmp_path / "a").glob("*0.jpg*"))
    path.write_bytes(b"no archive")
    with pytest.raises(DataError, match="is damaged"):
        unpack_zip(path, tmp_path, only="a")


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (9, 9)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def published(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The publisher's files in small."""
    files = {}
    for domain in DOMAINS:
        names = [f"{domain}/ant/{domain}_007_{number:06d}.jpg" for number in range(3)]
        packed = archive(tmp_path / "packed.zip", dict.fromkeys(names, jpeg()))
        parts = {"train": names[:2], "test": names[2:]}
        files[f"{domain}.zip"] = server.published(f"{domain}.zip", packed.read_bytes())
        for part, chosen in parts.items():
            data = "".join(f"{name} 6\n" for name in chosen).encode()
            name = f"{domain}_{part}.txt"
            files[name] = server.published(name, data)
    monkeypatch.setattr(domainnet_check, "PUBLISHED_FILES", files)
    return server


def test_domainnet_is_fetched_unpacked_and_left_alone(tmp_path: Path, published: Server) -> None:
    config = DomainNetConfig(root=str(tmp_path / "data"), image_size=8)
    heard: set[str] = set()
    prepare_stream(config, lambda text, done, total: heard.add(text))
    assert len(published.asked) == 18
    assert {"real.zip", "checking real.zip.part", "unpacking real.zip"} <= heard
    stream = build_stream(config)
    assert [len(e.train) for e in stream.experiences] == [2] * 6
    assert stream.tests["sketch"].batch([0])[0].shape == (1, 3, 8, 8)
    prepare_stream(config)
    assert len(published.asked) == 18
    (tmp_path / "data/real/ant/real_007_000001.jpg").unlink()
    prepare_stream(config)
    assert len(published.asked) == 18
    assert (tmp_path / "data/real/ant/real_007_000001.jpg").exists()


def test_only_what_is_chosen_is_fetched(tmp_path: Path, published: Server) -> None:
    prepare_stream(DomainNetConfig(root=str(tmp_path / "data"), domains=("real",)))
    assert [name for name, _ in published.asked] == ["real_train.txt", "real_test.txt", "real.zip"]


def test_without_a_network_every_missing_file_is_named(tmp_path: Path, published: Server) -> None:
    root = tmp_path / "data"
    config = DomainNetConfig(root=str(root), domains=("real", "sketch"))
    del published.files["real.zip"], published.files["sketch_test.txt"]
    with pytest.raises(DataError) as caught:
        prepare_stream(config)
    text = str(caught.value)
    assert "real.zip: cannot be downloaded: HTTP Error 404" in text
    wanted = [line.strip().removeprefix("-> ") for line in text.splitlines() if "->" in line]
    assert wanted == [
        str(root / name)
        for name in ("real.zip", "sketch_train.txt", "sketch_test.txt", "sketch.zip")
    ]


def test_an_archive_put_there_by_hand_is_checked(tmp_path: Path, published: Server) -> None:
    root = tmp_path / "data"
    root.mkdir()
    config = DomainNetConfig(root=str(root), domains=("real",))
    (root / "real.zip").write_bytes(b"half")
    with pytest.raises(DataError, match=r"real\.zip: is not the published file \(4 bytes"):
        prepare_stream(config)
    (root / "real.zip").write_bytes(published.files["real.zip"])
    assert sha256_of(root / "real.zip") == domainnet_check.PUBLISHED_FILES["real.zip"].sha256
    prepare_stream(config)
    assert (root / "real/ant/real_007_000000.jpg").exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="file/data: cannot be written"):
        prepare_stream(DomainNetConfig(root=str(tmp_path / "file" / "data")))
