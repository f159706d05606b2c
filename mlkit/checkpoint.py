"""Checkpoints that survive being killed: written whole, the one before kept, read without pickle."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

NAME, PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"


def save(folder: Path, state: dict[str, Any]) -> Path:
    """Write `state` as the folder's checkpoint; the one that was there becomes the previous.

    Args:
        folder: made where it is missing.
        state: tensors, numbers, strings, lists and dicts.

    Raises:
        OSError: the folder cannot be written; the checkpoint that was there is untouched.
    """
    path, fresh = folder / NAME, folder / f"{NAME}.new"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with fresh.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            os.replace(path, folder / PREVIOUS)
        os.replace(fresh, path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        raise OSError(
            f"could not write the checkpoint {path}: {error}; free some space or pass another folder"
        ) from error
    finally:  # whatever happened, a second Ctrl-C included, nothing half-written stays
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)
    return path


def load(folder: Path) -> dict[str, Any] | None:
    """Read the folder's checkpoint, or the previous one where it is damaged; None where there is none.

    Raises:
        ValueError: there are checkpoints and none can be read.
    """
    damaged = []
    for name in (NAME, PREVIOUS):
        path = folder / name
        if not path.exists():
            continue
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # a cut zip, a foreign file: torch has no single type for it
            damaged.append(f"{path} ({type(error).__name__})")
            continue
        if damaged:
            warnings.warn(f"damaged checkpoint {damaged[0]}; went on from {path}", stacklevel=2)
        return state
    if damaged:
        raise ValueError(f"no checkpoint can be read: {', '.join(damaged)}; delete the folder to start again")
    return None


class Interrupted(KeyboardInterrupt):
    """Training was asked to stop (Ctrl-C or SIGTERM) and has saved its state."""


@contextlib.contextmanager
def deferred_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in the yielded list instead of acting on them, so that a step can be finished.

    Outside the main thread signals cannot be caught; then the list stays empty. A second signal acts at once.
    """
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return

    def note(number: int, frame: Any) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
