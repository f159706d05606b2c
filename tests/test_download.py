from __future__ import annotations

import dataclasses
import errno
import hashlib
import io
import os
import shutil
import stat
import tarfile
import threading
import zipfile
from collections import namedtuple
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mlkit.data
from mlkit import catalogue
from mlkit import download as module
from mlkit.catalogue import Archive
from mlkit.download import DownloadError, download, unpack

CONTENT = np.random.default_rng(0).bytes(300_000)


class Server(ThreadingHTTPServer):
    """Serves `files`; can break off after so many bytes, and forget about ranges."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.break_after: int | None = None
        self.ranges = True
        self.asked: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        asked = self.headers["Range"]
        self.server.asked.append((self.path, asked))
        if self.path not in self.server.files:
            self.send_error(404)
            return
        content = self.server.files[self.path]
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.server.ranges else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:][: self.server.break_after])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def archive(*urls: str, content: bytes = CONTENT, unpacks_to: str = "top") -> Archive:
    return Archive(urls, len(content), hashlib.sha256(content).hexdigest(), unpacks_to)


def test_a_file_arrives_whole(server: Server, tmp_path: Path):
    server.files["/a.zip"] = CONTENT
    path = download(archive(f"{server.url}/a.zip"), tmp_path / "new")
    assert path == tmp_path / "new" / "a.zip" and path.read_bytes() == CONTENT
    assert os.listdir(tmp_path / "new") == ["a.zip"]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_download_goes_on_where_it_ended(server: Server, tmp_path: Path, ranges: bool):
    server.files["/a.zip"], server.break_after, server.ranges = CONTENT, 100_000, ranges
    wanted = archive(f"{server.url}/a.zip")
    with pytest.raises(DownloadError, match=r"ended after 100000 of 300000 bytes, which are kept[\s\S]*to resume"):
        download(wanted, tmp_path)
    assert (tmp_path / "a.zip.part").read_bytes() == CONTENT[:100_000] and not (tmp_path / "a.zip").exists()
    server.break_after = None
    assert download(wanted, tmp_path).read_bytes() == CONTENT
    assert [asked for _, asked in server.asked] == [None, "bytes=100000-"]


def test_mirrors_are_tried_in_order(server: Server, tmp_path: Path):
    server.files |= {"/2/a.zip": b"x" * len(CONTENT), "/3/a.zip": CONTENT, "/4/a.zip": CONTENT}
    closed = "http://127.0.0.1:9/a.zip"
    download(archive(closed, *(f"{server.url}/{i}/a.zip" for i in (1, 2, 3, 4))), tmp_path)
    assert [path for path, _ in server.asked] == ["/1/a.zip", "/2/a.zip", "/3/a.zip"]
    assert os.listdir(tmp_path) == ["a.zip"]


def test_a_wrong_checksum_is_never_used(server: Server, tmp_path: Path):
    server.files["/a.zip"] = bad = CONTENT[:-1] + b"?"
    with pytest.raises(DownloadError) as caught:
        download(archive(f"{server.url}/a.zip"), tmp_path)
    assert hashlib.sha256(CONTENT).hexdigest() in str(caught.value)
    assert hashlib.sha256(bad).hexdigest() in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_a_page_in_place_of_the_file_is_not_taken_for_it(server: Server, tmp_path: Path):
    server.files["/a.zip"] = b"<html>quota exceeded</html>"
    with pytest.raises(DownloadError, match="expected 300000 bytes, the server offers 27"):
        download(archive(f"{server.url}/a.zip"), tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_seen_before_anything_is_written(server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: namedtuple("Usage", "free")(1000))
    with pytest.raises(OSError, match=r"free some space or set MLKIT_DATA") as caught:
        download(archive(f"{server.url}/a.zip"), tmp_path)
    assert caught.value.errno == errno.ENOSPC and os.listdir(tmp_path) == [] and server.asked == []


def test_a_read_only_folder_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(OSError, match=r"make it writable or set MLKIT_DATA"):
        download(archive("http://127.0.0.1:9/a.zip"), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def zipped(files: dict[str, bytes], *, link: str | None = None) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as pack:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = ((stat.S_IFLNK if name == link else stat.S_IFREG) | 0o644) << 16
            pack.writestr(info, content)
    return buffer.getvalue()


def tarred(files: dict[str, bytes], *, link: str | None = None, kind: bytes = tarfile.SYMTYPE) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as pack:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            if name == link:
                info.type, info.linkname = kind, content.decode()
                pack.addfile(info)
            else:
                info.size = len(content)
                pack.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_an_archive_is_unpacked_whole(tmp_path: Path, pack):
    path = tmp_path / "a"
    path.write_bytes(pack({"top/x/1": b"one", "top/2": b"two", "else/3": b"three"}))
    assert unpack(path, tmp_path, top="top") == tmp_path / "top"
    assert (tmp_path / "top" / "x" / "1").read_bytes() == b"one" and (tmp_path / "top" / "2").read_bytes() == b"two"
    assert sorted(os.listdir(tmp_path)) == ["a", "top"]


@pytest.mark.parametrize("pack", [zipped, tarred])
@pytest.mark.parametrize("name", ["../evil", "top/../../evil", "/tmp/evil", "..\\evil", "C:/evil", "link"])
def test_an_archive_that_escapes_is_refused(tmp_path: Path, pack, name: str):
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "a"
    path.write_bytes(pack({"top/good": b"1", name: b"/etc/passwd"}, link="link"))
    with pytest.raises(ValueError, match=r"a link or a path outside of it; nothing was unpacked"):
        unpack(path, tmp_path / "in", top="top")
    assert os.listdir(tmp_path / "in") == ["a"] and os.listdir(tmp_path) == ["in"]


def test_a_hard_link_or_a_device_is_refused(tmp_path: Path):
    for kind in (tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
        (tmp_path / "a").write_bytes(tarred({"top/good": b"1", "top/odd": b"top/good"}, link="top/odd", kind=kind))
        with pytest.raises(ValueError, match="a link or a path outside"):
            unpack(tmp_path / "a", tmp_path, top="top")
        assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("pack", [zipped, tarred])
@pytest.mark.parametrize("keep", [0.99, 0.5, 0.0])
def test_a_truncated_archive_leaves_nothing(tmp_path: Path, pack, keep: float):
    content = pack({f"top/{i}": CONTENT[i * 10_000 : (i + 1) * 10_000] for i in range(20)})
    (tmp_path / "a").write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(ValueError, match="is damaged"):
        unpack(tmp_path / "a", tmp_path, top="top")
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_a_changed_byte_leaves_nothing(tmp_path: Path, pack):
    content = bytearray(pack({f"top/{i}": CONTENT[i * 10_000 : (i + 1) * 10_000] for i in range(3)}))
    content[12_000] ^= 255
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ValueError, match="is damaged"):
        unpack(tmp_path / "a", tmp_path, top="top")
    assert os.listdir(tmp_path) == ["a"]


def test_the_archive_of_another_data_set_is_refused(tmp_path: Path):
    (tmp_path / "a").write_bytes(zipped({"other/1": b"1"}))
    with pytest.raises(ValueError, match="expected a folder top in"):
        unpack(tmp_path / "a", tmp_path, top="top")
    assert os.listdir(tmp_path) == ["a"]


def test_a_disk_that_fills_up_while_unpacking_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a").write_bytes(zipped({"top/1": b"1", "top/2": b"2"}))
    copied = shutil.copyfileobj

    def fill(source, target, length):
        if target.name.endswith("2"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        copied(source, target, length)

    monkeypatch.setattr(module.shutil, "copyfileobj", fill)
    with pytest.raises(OSError, match="free some space"):
        unpack(tmp_path / "a", tmp_path, top="top")
    assert os.listdir(tmp_path) == ["a"]


@pytest.fixture
def small_omniglot(server: Server, monkeypatch: pytest.MonkeyPatch) -> catalogue.Dataset:
    """A catalogue whose omniglot is ten characters on a local server."""
    image = io.BytesIO()
    Image.new("1", (105, 105), 1).save(image, "png")
    archives = []
    for part in ("images_background", "images_evaluation"):
        names = [f"{part}/Greek/character0{k}/{k}_{i:02d}.png" for k in range(5) for i in range(20)]
        server.files[f"/{part}.zip"] = zipped(dict.fromkeys(names, image.getvalue()))
        archives.append(archive(f"{server.url}/{part}.zip", content=server.files[f"/{part}.zip"], unpacks_to=part))
    small = dataclasses.replace(catalogue.find("omniglot"), archives=tuple(archives), classes=10)
    monkeypatch.setattr(
        catalogue, "CATALOGUE", tuple(small if d.name == small.name else d for d in catalogue.CATALOGUE)
    )
    return small


def test_get_brings_what_is_missing_and_no_more(small_omniglot, server: Server, tmp_path: Path):
    folder = mlkit.data.get("omniglot", tmp_path)
    assert sorted(os.listdir(folder)) == ["images_background", "images_evaluation"] and len(server.asked) == 2
    assert mlkit.data.get("omniglot_background", tmp_path) == folder and len(server.asked) == 2
    shutil.rmtree(folder / "images_evaluation")
    mlkit.data.get("omniglot", tmp_path)
    assert [path for path, _ in server.asked[2:]] == ["/images_evaluation.zip"]


def test_check_counts_and_names_what_is_wrong(small_omniglot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = mlkit.data.get("omniglot", tmp_path)
    names = [f"images_{part}/Greek/character0{k}" for part in ("background", "evaluation") for k in range(5)]
    monkeypatch.setattr(mlkit.data, "split_classes", lambda _: {"train": names})
    report = mlkit.data.check("omniglot", tmp_path)
    assert report.ok and (report.classes, report.images) == (10, 200) and report.folder == folder
    (folder / "images_background/Greek/character00/0_00.png").write_bytes(b"no image")
    (folder / "images_background/Greek/character01/1_00.png").unlink()
    shutil.rmtree(folder / "images_evaluation/Greek/character04")
    report = mlkit.data.check("omniglot", tmp_path)
    assert not report.ok and (report.classes, report.images) == (9, 179)
    first, second, third = report.problems
    assert "0_00.png" in first and "character04 is not there" in second and "expected 20 images, got 19" in third


def test_what_cannot_be_downloaded_says_how(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"By hand \(ImageNet terms[\s\S]*1\. Accept[\s\S]*84 x 84"):
        mlkit.data.get("mini_imagenet", tmp_path)
    report = mlkit.data.check("cub", tmp_path)
    assert not report.ok and str(tmp_path / "cub") in report.problems[0]
    with pytest.raises(ValueError, match="did you mean 'omniglot'"):
        mlkit.data.get("omniglott", tmp_path)
    assert mlkit.data.check("glyphs", tmp_path).ok and mlkit.data.get("glyphs", tmp_path) == tmp_path / "glyphs"


def test_every_entry_of_the_catalogue_is_complete():
    for dataset in mlkit.data.catalogue():
        assert dataset.license and dataset.citation and dataset.size and dataset.layout and dataset.tasks
        assert bool(dataset.steps) != bool(dataset.archives) or dataset.name in ("glyphs", "shapes")
        assert not any("google" in url for item in dataset.archives for url in item.urls)
        assert all(len(item.sha256) == 64 and item.bytes > 10**6 for item in dataset.archives)
