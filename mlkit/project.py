"""Where the project lies on disk, how its files are written, and how a wrong name is answered."""

from __future__ import annotations

import contextlib
import difflib
import os
import tomllib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

Writer = Callable[[BinaryIO], object]


def root(start: Path | str | None = None) -> Path:
    """Return the folder that holds `book/`, `notebooks/` and `runs/`.

    The first that applies: the environment variable MLKIT_ROOT; the nearest folder at or above `start` (default: the
    current folder) whose pyproject.toml names this project; the checkout that this package was installed from; `start`.
    """
    if named := os.environ.get("MLKIT_ROOT"):
        return Path(named).expanduser().resolve()
    here = Path(start or ".").resolve()
    for folder in (here, *here.parents, Path(__file__).resolve().parents[1]):
        if _is_project(folder):
            return folder
    return here


def _is_project(folder: Path) -> bool:
    try:
        return tomllib.loads((folder / "pyproject.toml").read_text())["project"]["name"] == "mlkit"
    except (OSError, KeyError, tomllib.TOMLDecodeError, UnicodeDecodeError):
        return False


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return `did you mean 'x'? ` for the closest valid name, or nothing where none is close.

    Example:
        >>> nearest("shot", ["shots", "steps"])
        "did you mean 'shots'? "
    """
    close = difflib.get_close_matches(str(name), list(valid), n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}? " if close else ""


@contextlib.contextmanager
def staged(path: Path, write: Writer) -> Iterator[Path]:
    """Write a temporary neighbor of `path`, flushed to disk; inside the block, `os.replace` puts it in place.

    Whatever happens, no temporary file is left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Write `path` whole or not at all."""
    with staged(path, lambda file: file.write(content)) as temporary:
        os.replace(temporary, path)
