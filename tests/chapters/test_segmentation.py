"""Trainings of the chapters on segmentation: told apart, equal budgets, trained once, weights that stay at home."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import mlkit
from mlkit.chapters import pictures, segmentation, weight_updates
from mlkit.chapters.methods import METHODS, settings
from mlkit.chapters.segmentation import Training
from mlkit.initializations import published
from mlkit.landscape.displacement import displacement
from mlkit.models import block_of
from mlkit.parameters import check, read
from mlkit.records import record_key
from mlkit.running import preset
from tests.chapters.tiny import SHAPES, parameters
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Return a project of its own whose records are to be published."""
    root = tmp_path_factory.mktemp("project")
    (root / "notebooks").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLKIT_ROOT", str(root))
        patch.setenv("MLKIT_RECORDS", "publish")
        yield root
    segmentation._stores.cache_clear()


def names(folder: Path) -> list[str]:
    return sorted(path.stem.rpartition("-")[0] for path in folder.glob("*.json"))


def test_settings_are_the_columns_of_the_parameters():
    p = parameters(data=["shapes", "fss1000"], sizes=[16, 32], widths=[0.25, 0.5])
    with pytest.raises(ValueError, match=r"expected one entry a setting in each of data, sizes.*'encoders': 1"):
        settings(p)
    assert settings(parameters()) == [SHAPES]


@pytest.mark.parametrize(
    ("change", "message"), [({}, "expected a method out of FOMAML"), ({"optimizer": "rms"}, "optim")]
)
def test_unknown_names_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Training(SHAPES, "FOMAML*" if change else "Reptil", parameters(**change))


def test_every_method_is_another_training_and_no_data_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("MLKIT_DATA", str(tmp_path))
    setting = replace(SHAPES, data="voc_ccp_eth80", encoder="random")
    described = {name: Training(setting, name, parameters()).describe() for name in METHODS}
    keys = {record_key("initializations", "training", settings) for settings in described.values()}
    assert len(keys) == len(METHODS)
    assert described["FOMAML* (no regularization)"]["learner"]["dropout"] == 0
    assert "l2" not in described["FOMAML* (no regularization)"]["learner"]
    assert described["Reptile"]["tasks"]["train_fixed_support"]
    assert described["FOMAML* (6-3)"]["learner"]["parameters"] > described["FOMAML*"]["learner"]["parameters"]


def test_all_methods_have_the_same_budget():
    p = parameters(meta_batch=5, inner_steps=5)
    trainings = {name: Training(SHAPES, name, p) for name in METHODS}
    assert {name for name, one in trainings.items() if one.mini_batches == 0} == {
        "transfer (encoder alone)",
        "from scratch",
    }
    assert {one.mini_batches for one in trainings.values()} == {0, 50}
    assert (trainings["joint-trained"].outer.iterations, trainings["joint-trained"].outer.meta_batch) == (10, 5)


def test_the_papers_joint_training_takes_one_mini_batch_a_step():
    p = parameters(optimizer="sgd", meta_lr=0.1)
    setting = replace(SHAPES, joint_iterations=30)
    joint, star = (Training(setting, name, p).outer.describe() for name in ("joint-trained", "FOMAML*"))
    assert (joint["iterations"], joint["meta_batch"], joint["optimizer"]) == (30, 1, {"name": "SGD", "lr": 0.005})
    assert star["optimizer"] == {"name": "SGD", "lr": 0.1}
    assert (star["schedule"]["end_factor"], star["schedule"]["total_iters"]) == (1e-4, 2)


def test_scores_ship_and_weights_stay(project):
    training = Training(SHAPES, "FOMAML*", parameters())
    first = training.record()
    assert names(project / "book/records/initializations") == ["fomaml-star-shapes-16"]
    assert names(project / "runs/initializations") == ["fomaml-star-shapes-16", "weights-fomaml-star-shapes-16"]
    assert first.arrays["iou_5_shot"].shape == first.arrays["iou_1_shot"].shape == (1, 4)
    assert first.scores["mini_batches"] == 8
    assert first.scores["5-shot"]["mean"] == pytest.approx(float(first.arrays["iou_5_shot"].mean()), abs=1e-6)
    assert list(first.arrays["history_iteration"]) == [0, 1, 2]
    assert first.data["stand_in"] and first.data["training_data"] == "shapes"
    kept = training.weights()
    for path in (project / "runs/initializations").glob("weights-*"):
        path.unlink()
    again = training.weights()
    assert kept.keys() == again.keys()
    assert all(torch.equal(kept[name], again[name]) for name in kept), "trained again, to the bit"


@pytest.mark.parametrize(
    ("encoder", "method", "expected"),
    [
        ("imagenet", "FOMAML*", False),
        ("random", "FOMAML*", True),
        ("random", "from scratch", False),
        ("imagenet", "from scratch", False),
        ("own.pth", "joint-trained", True),
    ],
)
def test_on_the_papers_data_another_encoder_is_a_stand_in(tmp_path, monkeypatch, encoder, method, expected):
    torch.save({}, tmp_path / "own.pth")
    setting = replace(SHAPES, data="fss1000", encoder=str(tmp_path / encoder) if "." in encoder else encoder)
    papers = SimpleNamespace(describe=lambda: {"data": "fss1000", "stand_in": False, "content_hash": ""})
    monkeypatch.setattr(Training, "test", lambda *_: SimpleNamespace(tasks=papers, content_hash=""))
    monkeypatch.setattr(Training, "tasks", lambda *_: SimpleNamespace(split=lambda _: papers))
    assert Training(setting, method, parameters())._data()["stand_in"] is expected


def test_a_new_session_finds_what_there_is(project, monkeypatch):
    segmentation._stores.cache_clear()
    monkeypatch.setattr(segmentation, "train", None)  # nothing is trained
    assert set(segmentation.trainings(parameters(), ["FOMAML*", "transfer (encoder alone)"])) == {(SHAPES, "FOMAML*")}


def test_pictures_show_some_by_lot_and_the_worst(project):
    unit = mlkit.Unit("segmentation", {})
    found = pictures.pictured(unit, SHAPES, ["FOMAML*"], parameters(), count=2)
    training = Training(SHAPES, "FOMAML*", parameters())
    scores = training.record().arrays["iou_5_shot"][0]
    worst = found.record.settings["tasks"][2:]
    assert sorted(scores[worst].tolist(), reverse=True) == scores[worst].tolist()
    assert scores[worst[-1]] == scores.min()
    drawn, failures = found.gallery().values()
    assert (len(drawn), len(failures)) == (2, pictures.FAILURES)
    batch = found.tasks[:1]
    truth, query = batch.query.y[0].numpy().round() > 0.5, int(found.record.arrays["query"][0])
    mask = drawn[0].mask > 0.5
    iou = (mask & truth[query]).sum() / (mask | truth[query]).sum()
    assert found.record.arrays["iou"][0, 0] == pytest.approx(iou, abs=1e-4)
    choice = found.choices()[0]
    assert list(choice.panels) == ["picture", "truth", "FOMAML*"]
    assert len(choice.support) == 5
    np.testing.assert_array_equal(choice.panels["FOMAML*"].mask, drawn[0].mask)
    assert [answer["verdict"] for answer in found.answers()] == ["other data"] * 2


def test_moves_are_those_of_the_trained_weights(project):
    training = Training(SHAPES, "FOMAML*", parameters())
    record = weight_updates.moves(mlkit.Unit("weight_updates", {}), training)
    found = displacement(training.learner, training.weights(), training.test(5), block=block_of, chunk_size=2)
    assert record.scores["blocks"][0] == "all" and record.scores["blocks"][-1] == "head"
    for row, block in enumerate(record.scores["blocks"]):
        np.testing.assert_allclose(record.arrays["distance"][row], found["distance"][block], rtol=1e-5)
    assert record.settings["of"] == [training.record().key]


def test_the_initialization_ships_small(project):
    training = Training(SHAPES, "FOMAML*", parameters())
    record = segmentation.ready(mlkit.Unit("segmentation", {}), training)
    assert record.path.parent == project / "book/records/segmentation"
    ours, theirs = training.weights(), published(project).meta
    assert ours.keys() == theirs.keys()
    for name in (name for name in ours if "noise" not in name):
        torch.testing.assert_close(theirs[name], ours[name].float(), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["quick", "smoke", "cpu", "paper"])
def test_both_chapters_name_the_same_trainings(name):
    def values(unit: str) -> dict[str, Any]:
        return vars(check(read(ROOT / "notebooks" / f"{unit}.ipynb"), preset(name, unit, ROOT)))

    ours, theirs = values("segmentation"), values("weight_updates")
    assert ours.keys() - theirs.keys() == {"pictures"} and theirs.keys() <= ours.keys()
    assert {key: ours[key] for key in theirs} == theirs


def test_no_file_of_weights_lies_among_the_shipped(project):
    shutil.rmtree(project / "runs")
    segmentation._stores.cache_clear()
    assert not [path for path in (project / "book").rglob("*") if path.name.startswith("weights-")]
    assert Training(SHAPES, "FOMAML*", parameters()).record().path.parent == project / "book/records/initializations"
