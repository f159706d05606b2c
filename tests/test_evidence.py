"""The evidence of a record: complete, measured on the computation alone, and one line for a caption."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from mlkit import project
from mlkit.evidence import seeds_of
from mlkit.records import Result, Unit

SETTINGS = {"steps": 5, "seeds": [0, 1]}


@pytest.fixture
def unit(tmp_path, monkeypatch):
    monkeypatch.delenv("MLKIT_RECORDS", raising=False)
    monkeypatch.delenv("MLKIT_ROOT", raising=False)
    return Unit("sines", {"device": "cpu", "shots": 5}, root=tmp_path)


def returning(**result):
    return lambda work: Result(scores={}, **result)


def test_evidence_is_complete(unit):
    data = {"data": "omniglot", "split": "test", "content_hash": "ab12cd34ef", "stand_in": False}
    record = unit.record("maml", SETTINGS | {"chunk_size": 4}, returning(data=data, tasks=600))
    evidence = record.evidence
    assert (evidence["seeds"], evidence["tasks"], evidence["data_hash"], evidence["stand_in"]) == (
        [0, 1],
        600,
        "ab12cd34ef",
        False,
    )
    assert evidence["software"].keys() == {"mlkit", "torch", "numpy", "python", "platform", "commit", "dirty"}
    assert evidence["software"]["torch"] == torch.__version__
    assert evidence["hardware"]["cpu"]
    assert evidence["hardware"]["cores"] >= 1
    assert 0 <= evidence["seconds"] < 60
    assert evidence["memory_bytes"] > 10 * 2**20
    assert record.parameters == {"device": "cpu", "shots": 5}
    assert record.body["execution"] == {"device": "cpu", "chunk_size": 4}
    line = record.evidence_line()
    for part in (
        "2 seeds × 600 tasks",
        "omniglot (sha ab12cd34)",
        "CPU",
        " s, ",
        " MiB",
        "mlkit 0",
        evidence["date"][:10],
    ):
        assert part in line


def test_a_stand_in_is_named_in_the_evidence_line(unit):
    record = unit.record("maml", {"seed": 3}, returning(data={"data": "glyphs", "stand_in": True}))
    assert "1 seed, glyphs (a stand-in)" in record.evidence_line()


def test_peak_memory_is_that_of_the_computation(unit):
    def hungry(work):
        block = np.ones(2**27, dtype=np.uint8)
        return Result(scores={"sum": block.sum()})

    small = unit.record("small", {}, returning()).evidence["memory_bytes"]
    large = unit.record("large", {}, hungry).evidence["memory_bytes"]
    assert 0.8 * 2**27 < large - small < 1.5 * 2**27
    if sys.platform == "linux":
        assert unit.record("small-again", {}, returning()).evidence["memory_bytes"] < large - 0.8 * 2**27


def test_the_root_is_found_from_below(tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "mlkit"\n')
    (tmp_path / "notebooks").mkdir()
    assert project.root(tmp_path / "notebooks") == tmp_path
    monkeypatch.setenv("MLKIT_ROOT", str(tmp_path / "notebooks"))
    assert project.root() == tmp_path / "notebooks"


def test_seeds_are_a_list_a_count_or_one():
    assert seeds_of({"seeds": [3, 5]}, {"seed": 1}) == [3, 5]
    assert seeds_of({"steps": 1}, {"seeds": 3}) == [0, 1, 2]
    assert seeds_of({"seed": 7}) == [7]
    assert seeds_of({}) == []
