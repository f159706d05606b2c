"""Records: found by their settings, whole or not there, and damaged ones named."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from mlkit import project
from mlkit.papers import AnswerError
from mlkit.records import BENCHMARKS, Result, Unit, record_key, records
from mlkit.stored import RecordError, load, write

SETTINGS = {"steps": 5, "seeds": [0, 1]}


class Counted:
    """A computation that counts how often it ran."""

    def __init__(self, **result):
        self.calls = 0
        self.result = {"scores": {"loss": 0.5}} | result

    def __call__(self, work):
        self.calls += 1
        self.folder = work.folder
        return Result(**self.result)


@pytest.fixture(autouse=True)
def _no_modes(monkeypatch):
    monkeypatch.delenv("MLKIT_RECORDS", raising=False)
    monkeypatch.delenv("MLKIT_ROOT", raising=False)


@pytest.fixture
def unit(tmp_path):
    return Unit("sines", {"device": "cpu", "shots": 5}, root=tmp_path)


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


def test_equal_settings_are_computed_once(unit):
    compute = Counted(arrays={"losses": np.arange(3.0)})
    first = unit.record("maml", SETTINGS, compute)
    again = unit.record("maml", {"seeds": (0, 1), "steps": np.int64(5), "device": "cuda", "workers": 4}, compute)
    assert compute.calls == 1
    assert first.body == again.body
    assert first.arrays["losses"].tolist() == again.arrays["losses"].tolist() == [0.0, 1.0, 2.0]
    assert unit.record("maml", SETTINGS | {"steps": 6}, compute).key != first.key
    assert unit.record("reptile", SETTINGS, compute).key != first.key
    assert compute.calls == 3
    assert [record.name for record in unit.used] == ["maml", "maml", "maml", "reptile"]


def test_the_key_is_a_function_of_unit_name_and_settings():
    key = record_key("sines", "maml", {"steps": 5, "lr": 0.1})
    assert key == record_key("sines", "maml", {"lr": 0.1, "steps": 5.0, "chunk_size": 8})
    assert (
        len({key, record_key("waves", "maml", {"steps": 5, "lr": 0.1}), record_key("sines", "maml", {"steps": 5})}) == 3
    )


def test_shipped_records_come_first_and_fresh_ignores_them(unit, tmp_path, monkeypatch):
    local = unit.record("maml", SETTINGS, Counted(scores={"loss": 1.0}))
    write({**local.body, "scores": {"loss": 2.0}}, {}, tmp_path / "book/records/sines" / local.path.name)
    compute = Counted(scores={"loss": 3.0})
    assert unit.record("maml", SETTINGS, compute).scores["loss"] == 2.0
    monkeypatch.setenv("MLKIT_RECORDS", "fresh")
    fresh = Unit("sines", root=tmp_path)
    assert fresh.record("maml", SETTINGS, compute).scores["loss"] == 3.0
    assert fresh.record("maml", SETTINGS, compute).scores["loss"] == 3.0
    assert compute.calls == 1  # once in a build, not once a request
    assert Unit("sines", root=tmp_path).record("maml", SETTINGS, compute).scores["loss"] == 3.0
    assert compute.calls == 2
    assert [record.scores["loss"] for record in records(tmp_path)] == [2.0, 3.0]


def test_publish_ships_what_is_found_or_computed(unit, tmp_path, monkeypatch):
    found = unit.record("maml", SETTINGS, Counted(arrays={"x": np.ones(2)}))
    monkeypatch.setenv("MLKIT_RECORDS", "publish")
    shipped = Unit("sines", root=tmp_path).record("maml", SETTINGS, Counted())
    assert shipped.path == tmp_path / "book/records/sines" / found.path.name
    assert shipped.body == found.body
    assert shipped.arrays["x"].tolist() == [1.0, 1.0]
    monkeypatch.setenv("MLKIT_RECORDS", "frehs")
    with pytest.raises(RecordError, match="did you mean 'fresh'"):
        Unit("sines", root=tmp_path)


def test_numbers_of_any_library_become_json(unit):
    scores = {
        "a": np.float32(0.5),
        "b": torch.tensor(2),
        "c": torch.ones(2),
        "d": (1, 2),
        5: Path("x"),
        "e": [float("nan"), -np.inf],
    }
    record = unit.record("maml", {}, Counted(scores=scores))
    assert record.scores == {"a": 0.5, "b": 2, "c": [1.0, 1.0], "d": [1, 2], "5": "x", "e": [None, None]}
    assert record.notes == ["scores.e[0] was nan, stored as null", "scores.e[1] was -inf, stored as null"]
    assert "NaN" not in record.path.read_text()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": float("nan")}, "settings.lr: expected a finite number, got nan"),
        ({"net": object()}, "settings.net: expected numbers, text, lists and dicts, got object"),
        ({(1, 2): 3}, "expected text as a key, got tuple"),
    ],
)
def test_settings_that_are_no_json_stop_before_computing(unit, settings, message):
    compute = Counted()
    with pytest.raises(RecordError) as error:
        unit.record("maml", settings, compute)
    assert message in str(error.value)
    assert compute.calls == 0


def test_objects_are_never_pickled(unit):
    with pytest.raises(RecordError, match=r"arrays\.x: expected numbers, booleans or text, got dtype object"):
        unit.record("maml", {}, Counted(arrays={"x": np.array([{}])}))
    with pytest.raises(RecordError, match=r"expected compute to return mlkit\.Result for maml-\w{8}, got dict"):
        unit.record("maml", {}, lambda work: {})
    with pytest.raises(RecordError, match="lower-case"):
        unit.record("../maml", {}, Counted())


@pytest.mark.parametrize("damage", ["truncated", "edited", "empty", "no npz", "other npz", "no json object"])
def test_damage_is_named_with_a_remedy(unit, damage):
    path = unit.record("maml", SETTINGS, Counted(arrays={"x": np.ones(3)})).path
    text = path.read_text()
    match damage:
        case "truncated":
            path.write_text(text[:-40])
        case "edited":
            path.write_text(text.replace('"loss": 0.5', '"loss": 0.1'))
        case "empty":
            path.write_text("")
        case "no json object":
            path.write_text("[1]")
        case "no npz":
            path.with_suffix(".npz").unlink()
        case "other npz":
            path.with_suffix(".npz").write_bytes(b"PK")
    with pytest.raises(
        RecordError, match=r"maml-\w{8}\.(json|npz): expected a record .* delete it to compute it again"
    ):
        unit.record("maml", SETTINGS, Counted())


def test_a_killed_computation_finds_its_checkpoints_again(unit, tmp_path):
    def interrupted(work):
        time.sleep(0.05)
        (work.folder / "step").write_text("7")
        raise KeyboardInterrupt

    def resumed(work):
        return Result(scores={"step": int((work.folder / "step").read_text())})

    with pytest.raises(KeyboardInterrupt):
        unit.record("maml", SETTINGS, interrupted)
    record = unit.record("maml", SETTINGS, resumed)
    assert record.scores == {"step": 7}
    assert record.evidence["sessions"] == 2
    assert record.evidence["seconds"] >= 0.05  # the time of the killed session counts
    assert files(tmp_path) == {record.path.name}


def test_a_full_disk_leaves_nothing_half_written(unit, tmp_path, monkeypatch):
    old = unit.record("maml", SETTINGS, Counted(arrays={"x": np.ones(3)}))
    before = {path: path.read_bytes() for path in old.path.parent.glob("maml*")}

    compute = Counted(arrays={"x": np.zeros(3)})

    def full(descriptor):
        if compute.calls:  # the disk is full by the time there is a result
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setenv("MLKIT_RECORDS", "fresh")
    for name in ("maml", "other"):
        compute.calls = 0
        with pytest.raises(RecordError, match=rf"cannot write in {tmp_path}.*No space left on device; free space"):
            Unit("sines", root=tmp_path).record(name, SETTINGS, compute)
        assert compute.calls == 1
    assert compute.folder.is_dir()  # its checkpoints
    assert {path: path.read_bytes() for path in old.path.parent.glob("*.*")} == before
    assert not [name for name in files(tmp_path) if name.endswith(".part")]
    monkeypatch.undo()
    assert load(old.path).arrays["x"].tolist() == [1.0, 1.0, 1.0]


def test_a_folder_that_cannot_be_written_stops_before_computing(tmp_path):
    (tmp_path / "runs").write_text("a file where a folder should be")
    compute = Counted()
    with pytest.raises(RecordError, match=r"cannot write in .*runs.*MLKIT_ROOT"):
        Unit("sines", root=tmp_path).record("maml", SETTINGS, compute)
    assert compute.calls == 0


def slow(root: str, marks: str, mode: str) -> None:
    def compute(work):
        with (Path(marks) / str(os.getpid())).open("w"):
            time.sleep(0.3)
        return Result(scores={"pid": os.getpid()}, arrays={"x": np.full(1000, os.getpid())})

    os.environ["MLKIT_RECORDS"] = mode
    record = Unit("sines", root=root).record("maml", {}, compute)
    assert int(record.arrays["x"][0]) == record.scores["pid"]


@pytest.mark.parametrize("mode", ["", "fresh"])
def test_two_processes_compute_once(tmp_path, mode):
    marks = tmp_path / "marks"
    marks.mkdir()
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=slow, args=(str(tmp_path), str(marks), mode)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    record = next(records(tmp_path))
    assert int(record.arrays["x"][0]) == record.scores["pid"]
    if not mode:
        assert len(list(marks.iterdir())) == 1


def test_a_killed_process_gives_its_lock_back(tmp_path):
    script = (
        "import os, sys; from mlkit.records import Unit\n"
        "Unit('sines', root=sys.argv[1]).record('maml', {}, lambda work: os.kill(os.getpid(), 9))"
    )
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path)], timeout=60, check=False).returncode == -9
    assert Unit("sines", root=tmp_path).record("maml", {}, Counted()).evidence["sessions"] == 2


def test_answers_get_their_verdict_and_wrong_ones_stop(unit, tmp_path):
    row = "003/text/Omniglot-20-way-1-shot/MAML-second-order/target_accuracy"
    answer = {"id": row, "value": 93.9, "ci95": 0.4, "tasks": 600, "seeds": 5}
    record = unit.record("real", {}, Counted(answers=[answer], data={"data": "omniglot", "stand_in": False}))
    assert record.answers[0]["verdict"] == "reproduced"
    assert record.evidence["tasks"] == 600
    record = unit.record("stand-in", {}, Counted(answers=[answer], data={"data": "glyphs", "stand_in": True}))
    assert record.answers[0]["verdict"] == "other data"
    with pytest.raises(
        AnswerError, match="did you mean '003/text/Omniglot-20-way-1-shot/MAML-second-order/target_accuracy'"
    ):
        unit.record("typo", {}, Counted(answers=[answer | {"id": row.replace("MAML-", "MAM-")}]))
    assert not list((tmp_path / "runs/sines").glob("typo*"))


def test_shipped_records_are_whole_and_small():
    folder = project.root(Path(__file__).parent) / "book/records"
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= 25e6
    shipped = [path for path in folder.glob("*/*.json") if path.parent.name != BENCHMARKS]
    assert shipped
    for path in shipped:
        record = load(path)
        assert json.loads(path.read_text())["arrays"] is None or record.arrays
        assert path.name == f"{record.name}-{record.key[:8]}.json"
        assert record.key == record_key(record.unit, record.name, record.settings)


def test_timings_beside_the_units_are_no_records(tmp_path):
    folder = tmp_path / "book" / "records" / "benchmarks"
    folder.mkdir(parents=True)
    (folder / "peers.json").write_text('{"rows": []}')
    assert list(records(tmp_path)) == []
