"""Fetch an archive and unpack it: resumed where it broke off, checked before use, whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import http.client
import os
import shutil
import ssl
import stat
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from tqdm import tqdm

from mlkit.catalogue import Archive

CHUNK = 1 << 20  # bytes
NETWORK = (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError, ssl.SSLError)
DAMAGED = (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error)


class DownloadError(RuntimeError):
    """No mirror delivered the file."""


def download(archive: Archive, folder: Path) -> Path:
    """Return the archive in `folder`, from the first mirror that delivers what its sha256 promises.

    What has arrived is kept as <file>.part, and the next call goes on from there.

    Raises:
        DownloadError: No mirror delivered it; the message says what each of them did.
        OSError: The folder cannot be written, or the disk is full.
    """
    target, part = folder / archive.filename, folder / f"{archive.filename}.part"
    problems = []
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for url in archive.urls:
            try:
                _fetch(url, part, archive.bytes)
            except NETWORK as error:
                problems.append(f"{url}: {error}")
                continue
            got = _sha256(part)
            if got == archive.sha256:
                os.replace(part, target)
                return target
            part.unlink()
            problems.append(f"{url}: expected sha256 {archive.sha256}, got {got}; what came was deleted")
    raise DownloadError(
        f"could not download {archive.filename}:\n" + "\n".join(problems) + "\nRun the command again to resume, or put "
        f"the file at {target} yourself"
    )


def _fetch(url: str, part: Path, size: int) -> None:
    """Bring `part` up to `size` bytes, asking only for what is missing."""
    start = part.stat().st_size if part.exists() else 0
    if start > size:
        start = 0
    if start == size:
        return
    if shutil.disk_usage(part.parent).free < size - start:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(part))
    headers = {"User-Agent": "mlkit"} | ({"Range": f"bytes={start}-"} if start else {})
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:  # the server sends the whole file again
            start = 0
        offered = int(response.headers["Content-Length"] or size - start)
        if offered != size - start:
            raise ConnectionError(f"expected {size - start} bytes, the server offers {offered}: it is another file")
        with (
            part.open("ab" if start else "wb") as file,
            tqdm(desc=part.stem, initial=start, total=size, unit="B", unit_scale=True, leave=False) as progress,
        ):
            while start < size and (chunk := response.read(min(CHUNK, size - start))):
                file.write(chunk)
                start += len(chunk)
                progress.update(len(chunk))
    if start < size:
        raise ConnectionError(f"the connection ended after {start} of {size} bytes, which are kept")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unpack(archive: Path, folder: Path, *, top: str) -> Path:
    """Unpack the folder `top` of a zip or tar archive as `folder`/`top`, whole or not at all.

    Raises:
        ValueError: The archive is damaged, has no folder `top`, or a member is a link or points outside.
        OSError: The folder cannot be written, or the disk is full.
    """
    with explained(folder), tempfile.TemporaryDirectory(dir=folder, prefix=".unpack-") as temporary:
        try:
            for name, content in _members(archive):
                path = Path(temporary) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("wb") as file:
                    shutil.copyfileobj(content, file, CHUNK)
        except DAMAGED as error:
            raise ValueError(f"{archive} is damaged ({error}); remove it, then download it again") from error
        if not (Path(temporary) / top).is_dir():
            raise ValueError(f"expected a folder {top} in {archive}, found none; is it the file of another data set?")
        os.replace(Path(temporary) / top, folder / top)
    return folder / top


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield the files of an archive, each checked to lie inside of it."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as pack:
            for info in pack.infolist():
                if _is_file(archive, info.filename, link=stat.S_ISLNK(info.external_attr >> 16), folder=info.is_dir()):
                    with pack.open(info) as content:
                        yield info.filename, content
        return
    with tarfile.open(archive) as pack:
        for member in pack:
            link = not (member.isfile() or member.isdir())
            if _is_file(archive, member.name, link=link, folder=member.isdir()):
                yield member.name, pack.extractfile(member)
        while pack.fileobj.read(CHUNK):  # to the end, where gzip keeps its checksum
            pass


def _is_file(archive: Path, name: str, *, link: bool, folder: bool) -> bool:
    path = PurePosixPath(name)
    if link or path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
        raise ValueError(f"{archive} holds {name!r}, a link or a path outside of it; nothing was unpacked")
    return not folder


@contextlib.contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Say what to do when `folder` cannot be written."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "free some space"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            remedy = "make it writable"
        else:
            raise
        raise OSError(
            error.errno, f"{error.strerror}; {remedy} or set MLKIT_DATA to another folder", str(folder)
        ) from error
