"""Checkpoints: whole or not there, the one before kept, read without pickle."""

from __future__ import annotations

import errno
import os
import pickle
import resource
import signal
import threading
from pathlib import Path

import pytest
import torch

from mlkit import checkpoint
from mlkit.checkpoint import NAME, PREVIOUS, deferred_signals, load, save

STATES = [{"step": step, "weights": {"w": torch.full((3,), float(step))}, "names": ["w", None]} for step in range(4)]


def step_in(folder: Path) -> int:
    state = load(folder)
    assert torch.equal(state["weights"]["w"], torch.full((3,), float(state["step"])))
    return state["step"]


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.fixture
def folder(tmp_path):
    """Two checkpoints were saved: steps 0 and 1."""
    for state in STATES[:2]:
        save(tmp_path / "run", state)
    return tmp_path / "run"


def test_what_is_saved_is_loaded(tmp_path):
    folder = tmp_path / "a" / "new" / "one"
    assert load(folder) is None
    assert save(folder, STATES[3]) == folder / NAME
    assert step_in(folder) == 3
    assert load(folder)["names"] == ["w", None]
    assert files(folder) == {NAME}


def test_the_one_before_is_kept(folder):
    save(folder, STATES[2])
    assert step_in(folder) == 2
    assert torch.load(folder / PREVIOUS, weights_only=True)["step"] == 1
    assert files(folder) == {NAME, PREVIOUS}


@pytest.mark.parametrize(
    "failure",
    [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("PytorchStreamWriter failed writing file")],
    ids=["from the system", "from torch"],
)
def test_a_full_disk_leaves_what_was_there(folder, monkeypatch, failure):
    def half(state, file):
        file.write(b"half of it")
        raise failure

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(
        OSError, match=r"could not write the checkpoint .*free some space or pass another folder"
    ) as caught:
        save(folder, STATES[2])
    assert str(failure) in str(caught.value)
    assert str(folder / NAME) in str(caught.value)
    assert files(folder) == {NAME, PREVIOUS}
    assert step_in(folder) == 1


def test_a_write_that_the_system_cuts_short_leaves_what_was_there(folder):
    """The system's own refusal, in place of a disk that is really full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OSError, match="could not write the checkpoint"):
            save(folder, {"weights": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert files(folder) == {NAME, PREVIOUS}
    assert step_in(folder) == 1


@pytest.mark.parametrize("failure", [KeyboardInterrupt, MemoryError, TypeError])
def test_any_other_end_of_writing_leaves_what_was_there(folder, monkeypatch, failure):
    def half(state, file):
        file.write(b"half of it")
        raise failure

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(failure):
        save(folder, STATES[2])
    assert files(folder) == {NAME, PREVIOUS}
    assert step_in(folder) == 1


def test_killed_between_the_two_moves_the_one_before_counts(folder):
    os.replace(folder / NAME, folder / PREVIOUS)
    assert step_in(folder) == 1
    save(folder, STATES[2])
    assert step_in(folder) == 2


def test_a_file_left_by_a_kill_does_no_harm(folder):
    (folder / f"{NAME}.new").write_bytes(b"half of it")
    assert step_in(folder) == 1
    save(folder, STATES[2])
    assert step_in(folder) == 2
    assert files(folder) == {NAME, PREVIOUS}


@pytest.mark.parametrize("closed", ["folder", "parent"])
def test_a_folder_that_cannot_be_written_says_what_to_do(tmp_path, monkeypatch, closed):
    """Root may write anywhere, so that the refusal is the system's only for other users."""
    place = tmp_path / "closed"
    place.mkdir(mode=0o500)
    folder = place if closed == "folder" else place / "run"

    def refuse(*_arguments, **_options):
        raise PermissionError(errno.EACCES, "Permission denied")

    if os.geteuid() == 0:
        monkeypatch.setattr(Path, "open", refuse)
        if closed == "parent":
            monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(OSError, match=r"Permission denied; free some space or pass another folder"):
        save(folder, STATES[0])
    assert files(place) == set()


def test_a_file_in_the_place_of_the_folder_says_what_to_do(tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(OSError, match="pass another folder"):
        save(tmp_path / "run", STATES[0])
    assert (tmp_path / "run").read_text() == "a file"


@pytest.mark.parametrize(
    "damage", [truncate, lambda path: path.write_bytes(b""), lambda path: path.write_text("no zip")]
)
def test_a_damaged_one_falls_back_to_the_one_before(folder, damage):
    damage(folder / NAME)
    with pytest.warns(UserWarning, match=f"damaged checkpoint .*{NAME}.*; went on from .*{PREVIOUS}"):
        assert step_in(folder) == 0


def test_two_damaged_ones_are_an_error_that_names_both(folder):
    for name in (NAME, PREVIOUS):
        truncate(folder / name)
    with pytest.raises(ValueError, match=f"{NAME} .*{PREVIOUS} .*delete the folder to start again"):
        load(folder)


def test_one_damaged_one_alone_is_an_error(tmp_path):
    truncate(save(tmp_path, STATES[0]))
    with pytest.raises(ValueError, match="no checkpoint can be read"):
        load(tmp_path)


class Trap:
    """Runs code when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("write", [torch.save, lambda trap, path: path.write_bytes(pickle.dumps(trap))])
def test_code_in_a_checkpoint_is_never_run(tmp_path, write):
    write(Trap(tmp_path / "ran"), tmp_path / NAME)
    with pytest.raises(ValueError, match="no checkpoint can be read"):
        load(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_deferred_signals_are_collected_and_handlers_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with deferred_signals() as caught:
        signal.raise_signal(signal.SIGTERM)
    assert caught == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(KeyboardInterrupt), deferred_signals():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_signals_are_left_alone_in_other_threads():
    seen = []

    def elsewhere():
        with deferred_signals() as caught:
            seen.append((caught, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [([], signal.getsignal(signal.SIGINT))]


def test_an_interruption_is_one_of_the_keyboard():
    assert issubclass(checkpoint.Interrupted, KeyboardInterrupt)
