"""All methods on the same tasks: equal budgets, records, the table and its script, a guide that the records write."""

from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import mlkit
from mlkit.chapters import all_methods, all_methods_costs, all_methods_table
from mlkit.chapters.all_methods import Training, budgets, settings, sizes, trainings
from mlkit.chapters.all_methods_features import BodyFeatures
from mlkit.chapters.all_methods_settings import DESCENT, LANDSCAPE, METHODS, WITHOUT, Setting
from mlkit.costs import peak_bytes, seconds_of
from mlkit.learners import MAML
from mlkit.records import record_key

GLYPHS = Setting("glyphs", 1, "small", 0.05, 4, 2, 2)
PHOTOS = replace(GLYPHS, data="cifar_fs", shots=5)


def parameters(**changed: Any) -> SimpleNamespace:
    given = {
        "data": ["glyphs"], "shots": [1], "networks": ["small"], "inner_lrs": [0.05], "training_tasks": [4],
        "meta_batches": [2], "lstm_steps": [2], "methods": [], "query": 2, "train_query": 2, "inner_steps": 2,
        "test_steps": 3, "transfer_steps": 2, "gamma": 0.5, "reptile_batch": 5, "reptile_lr": 1.0, "meta_lr": 0.001,
        "points": 1, "validation_tasks": 2, "test_tasks": 3, "watched_tasks": 3, "curvature_tasks": 1, "seeds": [0],
        "chunk_size": 2, "workers": 1, "checkpoint": False, "device": "cpu",
    }  # fmt: skip
    return SimpleNamespace(**given | changed)


@pytest.fixture
def unit(tmp_path, monkeypatch):
    monkeypatch.setenv("MLKIT_ROOT", str(tmp_path))
    return mlkit.Unit("all_methods", {})


def test_wrong_parameters_are_refused():
    assert settings(parameters()) == [GLYPHS]
    with pytest.raises(ValueError, match=r"expected one entry a setting in each of data, shots.*'shots': 2"):
        settings(parameters(shots=[1, 5]))
    with pytest.raises(ValueError, match=r"expected methods out of MAML, .*; got 'Turtle'"):
        Training(GLYPHS, "Turtle", parameters())


def test_every_method_learns_from_as_many_images():
    setting, p = replace(PHOTOS, training_tasks=120, meta_batch=4), parameters(points=6)
    of_a_task = 5 * (5 + p.train_query)

    def images(one: Training) -> int:
        return one.outer.iterations * one.outer.meta_batch * of_a_task

    trained = {method: Training(setting, method, p) for method in METHODS}
    seen = {method: images(one) for method, one in trained.items()}
    half = images(trained["LEO"].body.training)
    assert half == 60 * of_a_task
    assert seen == dict.fromkeys(METHODS, 120 * of_a_task) | {"LEO": 60 * of_a_task, "from scratch": 0}
    assert trained["Baseline++"].spec.batch_size == of_a_task and trained["MAML"].spec.batch_size is None
    assert budgets(parameters(training_tasks=[120])) == {
        replace(GLYPHS, training_tasks=120): {"tasks": 120, "images": 1800}
    }


def test_the_rows_are_what_they_are_called():
    trained = {method: Training(GLYPHS, method, parameters()) for method in METHODS}
    assert trained["ANIL"].learner.adapted == "head." and trained["MAML"].learner.adapted == ""
    assert trained["Meta-SGD"].learner.learn_inner_lr and trained["FOMAML"].learner.first_order
    assert trained["regularized MAML"].learner.gamma == 0.5 and isinstance(trained["regularized MAML"].tester, MAML)
    reptile = trained["Reptile"]
    assert (reptile.learner.variant, reptile.learner.pool, reptile.learner.batch_size) == ("reptile", "all", 5)
    assert reptile.outer.describe()["optimizer"] == {"name": "SGD", "lr": 1.0} and reptile.outer.clip_value is None
    assert {trained[method].tester.inner_steps for method in DESCENT} == {3}
    assert {trained[method].learner.describe()["inner_steps"] for method in DESCENT} == {2}
    assert trained["LEO"].learner.features == trained["LEO"].body.features == 32
    assert [method for method, one in trained.items() if one.watch is None] == ["LEO", "finetuning", "Baseline++"]
    counts = sizes(GLYPHS, parameters())
    assert counts["Meta-SGD"] == 2 * counts["MAML"] == 2 * counts["from scratch"]
    assert counts["TURTLE"] == 2 * counts["MAML"] + 1761


def test_every_method_is_another_record_and_no_data_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("MLKIT_DATA", str(tmp_path))
    said = {method: Training(PHOTOS, method, parameters()).describe() for method in METHODS}
    assert len({record_key("unit", "name", each) for each in said.values()}) == len(METHODS)
    other = Training(replace(PHOTOS, training_tasks=8), "LEO", parameters()).describe()
    assert other["tasks"]["features"]["training"] != said["LEO"]["tasks"]["features"]["training"]


def check_costs(unit, p, records):
    measured = all_methods_costs.costs(unit, p)
    whole = all_methods_costs.with_costs(records, measured)
    for (_, method), each in whole.items():
        for name, key in (("iteration_seconds", "iteration"), ("iteration_bytes", "memory")):
            assert (each.scores[name] is None) == (method in WITHOUT[key]), (method, name)
        assert each.scores["adapt_seconds"] > 0 and each.scores["mean"] == records[GLYPHS, method].scores["mean"]
    leo, anil = (whole[GLYPHS, method].scores for method in ("LEO", "ANIL"))
    assert leo["feature_seconds"] > 0 == anil["feature_seconds"] and anil["iteration_bytes"] > 1e5
    body = all_methods_costs.Measured(Training(GLYPHS, "LEO", p).body.training)
    assert leo["iteration_bytes"] >= 0.9 * body.memory()["iteration_bytes"], "of LEO or of its body"
    assert all_methods_costs.costs(unit, p)[GLYPHS].key == measured[GLYPHS].key


def test_a_killed_run_goes_on_and_all_are_judged_on_the_same_images(unit, monkeypatch):
    monkeypatch.setattr(BodyFeatures, "__call__", lambda _, x: F.adaptive_avg_pool2d(x, (4, 8)).flatten(1))  # quick
    p = parameters(methods=["ANIL", "LEO", "from scratch"])
    with monkeypatch.context() as patch:
        patch.setattr(all_methods, "evaluate", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            trainings(unit, p)
    with monkeypatch.context() as patch:
        patch.setattr("mlkit.training._step", lambda *_: pytest.fail("trained again"))
        record = Training(GLYPHS, "ANIL", p).record(unit)
    records = trainings(unit, p)
    assert records[GLYPHS, "ANIL"].key == record.key
    assert len({each.scores["tasks_hash"] for each in records.values()}) == 1
    for (_, method), each in records.items():
        for name in LANDSCAPE:
            assert (each.scores.get(name) is None) == (method in WITHOUT[name]), (method, name)
        assert each.arrays["test_scores"].shape == (1, 3)
    check_costs(unit, p, records)
    assert all_methods_table.missing(records).data.count("\n") == 2 and "LEO" in all_methods_table.missing(records).data


def test_features_are_those_of_the_trained_body(unit):
    body = BodyFeatures(Training(GLYPHS, "finetuning", parameters()))
    images = torch.rand(3, 1, 28, 28)
    alone, together = body(images[:1]), body(images)
    assert together.shape == (3, 32) and torch.allclose(alone, together[:1], atol=1e-6), "no image sees another"
    assert body.record.path.parent.name == "encoders" and body.record.settings["outer"]["iterations"] == 4


def test_costs_are_counted(capfd):
    calls: list[int] = []
    assert 0.01 <= seconds_of(lambda: calls.append(time.sleep(0.01)), times=3) < 1 and len(calls) == 4
    assert 4e6 <= peak_bytes(lambda: torch.empty(1_000_000).add_(1)) < 5e6
    assert peak_bytes(lambda: None) == 0
    assert capfd.readouterr() == ("", ""), "a page shows what is printed"
