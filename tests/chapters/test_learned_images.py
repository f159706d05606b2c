"""Paper 002 on images: one form for two data sets, equal budgets, records, tables and claims from known numbers."""

from __future__ import annotations

import itertools
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import mlkit
from mlkit.chapters import learned_images, learned_images_panels, learned_images_tables
from mlkit.chapters.learned_images import Training, initialization, settings
from mlkit.chapters.learned_images_data import ShownSpec, common_form, shown
from mlkit.chapters.learned_images_settings import METHODS, RULES, TRANSFER, Setting
from mlkit.figures import Timed, time_scores
from mlkit.learners import MAML, Turtle
from mlkit.models import conv4
from mlkit.papers import judged
from mlkit.records import record_key
from mlkit.seeding import seeded
from mlkit.stored import Record, write
from mlkit.tasks import TaskSpec, frozen, glyphs

GLYPHS = Setting("glyphs", "glyphs-negative", 1, "small", 4, 2, 2, 2)
PHOTOS = Setting("cifar_fs", "omniglot", 1, "small", 4, 2, 2, 0)
PAPERS = replace(PHOTOS, data="mini_imagenet", elsewhere="cub", network="huisman")
BASE = np.random.default_rng(0).uniform(0.3, 0.6, (2, 60))
_count = itertools.count()


def parameters(**changed: Any) -> SimpleNamespace:
    given = {
        "data": ["glyphs"], "elsewhere": ["glyphs-negative"], "shots": [1], "networks": ["small"],
        "training_tasks": [4], "meta_batches": [2], "lstm_steps": [2], "watched_tasks": [2], "methods": [],
        "query": 2, "train_query": 2, "inner_lr": 0.05, "inner_steps": 2, "test_steps": 3, "enhanced_steps": 3,
        "transfer_steps": 2, "meta_lr": 0.001, "validate_every": 2, "validation_tasks": 2, "test_tasks": 3,
        "seeds": [0], "chunk_size": 2, "workers": 1, "checkpoint": False, "device": "cpu",
    }  # fmt: skip
    return SimpleNamespace(**given | changed)


@pytest.fixture
def unit(tmp_path, monkeypatch):
    monkeypatch.setenv("MLKIT_ROOT", str(tmp_path))
    return mlkit.Unit("learned_optimizers_images", {})


def test_two_data_sets_meet_in_a_form_that_loses_nothing():
    assert common_form("cifar_fs", "omniglot") == (32, 3) and common_form("omniglot", "cifar_fs") == (32, 3)
    assert common_form("mini_imagenet", "cub") == (84, 3) and common_form("glyphs-negative", "glyphs") == (28, 1)
    source = glyphs("val").source
    assert shown(source, 28, 1) is source, "nothing to change"
    wide = shown(source, 32, 3)
    assert wide.images.shape[1:] == (3, 32, 32) and wide.names == source.names
    assert torch.equal(wide.images[:, 0], wide.images[:, 2]) and wide.content_hash != source.content_hash
    assert wide.images.float().mean() == pytest.approx(float(source.images.float().mean()), rel=0.02)
    negative = shown(source, 28, 1, negative=True)
    assert torch.equal(negative.images, 255 - source.images) and negative.name == "glyphs-negative"
    with pytest.raises(ValueError, match="expected at least 3 channels for glyphs, got 1"):
        shown(wide, 32, 1)


def test_tasks_elsewhere_are_of_classes_that_no_training_task_has():
    spec = ShownSpec(TaskSpec("glyphs-negative", 5, 1, 3, train_query=2), 28, 1)
    train, test = spec.split("train"), spec.split("test")
    assert not set(train.source.names) & set(test.source.names)
    assert (train.query, test.query, train.classes) == (2, 3, spec.classes)
    batches = replace(spec, batch_size=16).split("train")
    assert batches.describe()["batch_size"] == 16 and batches.classes == 640
    assert replace(spec, batch_size=16).describe() == spec.describe() | {"supervised_batch": 16}


def test_wrong_parameters_are_refused():
    assert settings(parameters()) == [GLYPHS]
    with pytest.raises(ValueError, match=r"expected one entry a setting in each of data, elsewhere.*'shots': 2"):
        settings(parameters(shots=[1, 5]))
    with pytest.raises(ValueError, match=r"expected methods out of from scratch, .*; got 'Turtle'"):
        Training(GLYPHS, "Turtle", parameters())


def test_every_method_is_another_record_and_no_data_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("MLKIT_DATA", str(tmp_path))
    said = {method: Training(PHOTOS, method, parameters()).describe() for method in METHODS}
    assert len({record_key("unit", "name", settings) for settings in said.values()}) == len(METHODS)
    assert said["MAML"]["tasks"]["size"] == 32 and said["MAML"]["elsewhere"]["name"] == "omniglot"
    assert said["finetuning"]["learner"]["classes"] == 64 and said["from scratch"]["learner"]["classes"] is None
    assert said["Baseline++"]["learner"]["classifier"] == "cosine"
    assert said["finetuning"]["learner"]["normalization"] == "running"
    assert {said[method]["learner"]["normalization"] for method in METHODS if method not in TRANSFER[1:]} == {
        "transductive"
    }


def test_the_rows_are_those_of_the_paper():
    trainings = {method: Training(replace(GLYPHS, training_tasks=120), method, parameters()) for method in METHODS}
    seen = {method: one.outer.iterations * one.outer.meta_batch for method, one in trainings.items()}
    assert seen == dict.fromkeys(METHODS, 120) | {"from scratch": 0}
    assert {one.outer.validate_every * one.outer.meta_batch for one in trainings.values()} == {2}
    lstm, enhanced = (trainings[method].learner for method in RULES[:2])
    assert (lstm.inner_steps, lstm.first_order, lstm.preprocessed) == (2, True, True)
    assert (enhanced.inner_steps, enhanced.first_order, enhanced.preprocessed) == (3, False, False)
    outer = trainings["LSTM"].outer
    assert (outer.meta_batch, outer.clip_norm, outer.clip_value, outer.on_divergence) == (1, 0.25, None, "freeze")
    outer = trainings["TURTLE"].outer
    assert (outer.meta_batch, outer.clip_value, outer.clipped, outer.on_divergence) == (2, 10.0, "theta.", "freeze")
    assert trainings["TURTLE (first order)"].learner.first_order and not trainings["TURTLE"].learner.first_order
    assert (trainings["MAML"].test_steps, trainings["TURTLE"].test_steps) == (3, None)
    assert [method for method, one in trainings.items() if one.watch is None] == list(TRANSFER)
    counts = learned_images.sizes(GLYPHS, parameters())
    assert counts["TURTLE"]["phi"] == 1761 and counts["TURTLE"]["inner_lr"] == counts["TURTLE"]["theta"]
    assert counts["LSTM"]["phi"] - counts["LSTM (enhanced)"]["phi"] == 240


def test_a_rule_is_taken_from_its_initialization_whole():
    """MAML would take TURTLE's `inner_lr.*` for learning rates of its own."""
    model, tasks = conv4("small", 5, size=28, channels=1), frozen(glyphs("val", query=2), 2, seed=0)[:2]
    meta = {name: tensor.expand(2, *tensor.shape) for name, tensor in Turtle(model).init(seeded("rule")).items()}
    plain = initialization(meta)
    assert plain.keys() == {name for name in meta if name.startswith("theta.")}
    ours, taken = (MAML(model, 0.05, 1).adapt(given, tasks).weights for given in (plain, meta))
    theta = MAML(model, 0.05, 1).adapt(plain, tasks, steps=0).weights
    rates = meta["inner_lr.head.weight"]
    moved = ours["head.weight"] - theta["head.weight"]
    torch.testing.assert_close(taken["head.weight"] - theta["head.weight"], moved * rates / 0.05, rtol=1e-3, atol=1e-6)
    assert float(moved.abs().max()) > 0


def test_a_killed_run_goes_on_to_the_same_record(unit, monkeypatch, tmp_path_factory):
    training = Training(replace(GLYPHS, training_tasks=2), "TURTLE", parameters(seeds=[0, 1]))
    with monkeypatch.context() as patch:
        patch.setattr(Training, "_judge", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            training.record(unit)
    found = training.record(unit)
    assert found.evidence["sessions"] == 2
    whole = training.record(mlkit.Unit(unit.name, {}, root=tmp_path_factory.mktemp("other")))
    assert found.key == whole.key and found.arrays.keys() == whole.arrays.keys()
    for name, values in whole.arrays.items():
        np.testing.assert_array_equal(found.arrays[name], values)
    monkeypatch.setattr(learned_images, "train", None)
    assert training.record(unit).arrays["elsewhere_scores"].shape == (2, 3), "nothing is trained twice"
    assert found.scores["tasks"] == 2 and found.scores["task_seconds"] > 0
    assert found.scores["descent"]["mean"] == pytest.approx(float(found.arrays["descent_scores"].mean()), abs=1e-6)
    assert found.data["stand_in"] and found.data["elsewhere"]["data"] == "glyphs-negative"
    assert found.arrays["history_gradient_product"].shape == (2, 2)


def test_baselines_leave_records_too(unit):
    records = learned_images.trainings(unit, parameters(methods=["from scratch", "Baseline++"]))
    scratch, cosine = records.values()
    assert scratch.scores["task_seconds"] is None and list(scratch.arrays["history_iteration"]) == [0]
    assert list(cosine.arrays["history_iteration"]) == [0, 2, 4] and "history_validation" in cosine.arrays
    assert list(learned_images_panels.learning(records, GLYPHS)[0]) == ["Baseline++"]
    assert list(learned_images_panels.relations(records)) == []


def made(folder: Any, setting: Setting, method: str, points: float, seconds: float = 60.0, **arrays: Any) -> Record:
    """Store a record that never ran, so many points of accuracy above what all have in common, give or take."""
    noise = np.random.default_rng(list(METHODS).index(method)).normal(0, 0.003, BASE.shape) if points else 0.0
    scores = np.clip(BASE + points / 100 + noise, 0, 1)
    summary = {"mean": float(scores.mean()), "ci95": 0.02, "median": float(np.median(scores)), "median_ci95": None}
    of = ("test", "elsewhere", "descent")
    body = {
        "unit": "made-up", "name": "made-up", "key": f"{next(_count):064d}",
        "settings": {"method": method, "seeds": [0, 1], "tasks": {"name": setting.data}, "test_tasks": 60,
                     "outer": {"meta_batch": 1, "validate_every": 10}},
        "scores": {**dict.fromkeys(of, summary), "train_seconds": seconds, "test_seconds": 20.0, "task_seconds": 0.05},
        "data": {"data": setting.data, "content_hash": "a"},
        "evidence": {"tasks": 60, "seconds": 90.0, "seeds": [0, 1], "hardware": {"gpu": None, "cores": 2, "cpu": "X"}},
    }  # fmt: skip
    kept = {f"{name}_scores": scores for name in of} | arrays
    return write(body, kept, folder / f"{setting.data}-{METHODS[method]}.json")


@pytest.fixture
def records(tmp_path):
    """Return one setting in which all that the paper says holds, and TURTLE takes twice as long as MAML."""
    points = dict(zip(METHODS, (0, 4, 8, 10, 14, 12, 13, 11, 16), strict=True))
    seconds = dict(zip(METHODS, (0, 10, 10, 60, 300, 40, 100, 60, 220), strict=True))
    return {(PHOTOS, m): made(tmp_path, PHOTOS, m, points[m], seconds[m]) for m in METHODS}


def test_claims_hold_where_the_differences_do(records):
    found = {(claim.figure, claim.says): claim.found for claim in learned_images_tables.claims(records)}
    assert {figure for figure, _ in found} == {"T3.1", "T3.4", "F3.4"}
    slow = ("F3.4", "TURTLE is not slower than MAML")
    assert [key for key, one in found.items() if one.holds is not True] == [slow]
    assert found[slow].value == pytest.approx((220 + 20) / (100 + 20))
    gap = found["T3.1", "the second order gains TURTLE more than MAML"]
    assert gap.value == pytest.approx(4, abs=0.3) and gap.holds
    assert learned_images_tables.ahead(records, PHOTOS, "MAML", "LSTM").tasks.value == pytest.approx(3, abs=0.3)


def test_equal_methods_confirm_nothing_but_what_is_weakly_said(tmp_path):
    same = {(PHOTOS, m): made(tmp_path, PHOTOS, m, 0.0) for m in ("Baseline++", "finetuning", "MAML")}
    found = {claim.says: claim.found.holds for claim in learned_images_tables.claims(same)}
    assert found["a cosine head is no worse than a linear one"] is True
    assert found["MAML is better than Baseline++"] is not True
    assert "pre-training helps" not in found, "of a method that was not trained nothing is said"


def test_every_cell_of_the_tables_is_answered(records):
    given = learned_images_tables.answers(records)
    found = {answer["id"]: judged(answer, data={}) for answer in given}
    assert len(found) == len(given) == 9 + 6 + 3 + 9 + 6 + 2 + 1
    turtle = found["002/T3.1/miniImageNet/5-way-1-shot/TURTLE"]
    assert (turtle["verdict"], turtle["stand_in"], turtle["seeds"]) == ("other data", True, 2)
    assert turtle["value"] == pytest.approx(records[PHOTOS, "TURTLE"].scores["test"]["median"])
    assert turtle["note"] == "2 of 2 comparisons as in the paper"
    assert found["002/T3.4/miniImageNet-to-CUB/5-way-1-shot/FO-MAML"]["data"] == "cifar_fs to omniglot"
    assert found["002/text/share-of-image-settings-won/share"]["value"] == 100
    assert found["002/text/enhanced-LSTM-vs-original/accuracy-gain"]["value"] == pytest.approx(4, abs=0.3)
    assert found["002/F3.4-left"]["value"] == pytest.approx(2.0) and found["002/F3.4-left"]["verdict"] == "other data"


def test_the_papers_own_data_may_reproduce(tmp_path):
    pair = {(PAPERS, m): made(tmp_path, PAPERS, m, points) for m, points in (("MAML", 10.0), ("TURTLE", -20.0))}
    found = {answer["id"]: judged(answer, data={}) for answer in learned_images_tables.answers(pair)}
    names = ("MAML", "TURTLE")
    verdicts = [found[f"002/T3.1/miniImageNet/5-way-1-shot/{name}"]["verdict"] for name in names]
    assert verdicts == ["reproduced", "not reached"]
    assert learned_images_tables.answers({(GLYPHS, "MAML"): pair[PAPERS, "MAML"]}) == []


def test_the_tables_stand_beside_the_papers(records):
    own, away = (learned_images_tables.table(records, where).data.splitlines() for where in ("test", "elsewhere"))
    assert own[0] == "| method | cifar_fs, 1-shot | the paper, miniImageNet |"
    assert own[-1].startswith("| TURTLE | 0.") and own[-1].endswith("| 0.48 ± 0.01 |")
    assert away[0] == "| method | cifar_fs → omniglot, 1-shot | the paper, miniImageNet->CUB |"
    assert away[2].endswith("| 0.30 ± 0.00 |")
    made_up = learned_images_tables.table({(GLYPHS, "MAML"): records[PHOTOS, "MAML"]}).data
    assert "paper" not in made_up
    assert "| cifar_fs, 1-shot | MAML | 50 | 83 | 1.0 |" in learned_images_panels.cost(records).data


def history(product: Any, accuracy: Any, scale: float = 1.0) -> dict[str, Any]:
    points = len(product) + 1
    both = {"gradient_product": product, "trajectory_cosine": accuracy, "test_accuracy": accuracy}
    rows = {f"history_{name}": np.stack([[0.0, *v], [0.0, *(scale * np.array(v))]], 1) for name, v in both.items()}
    return rows | {"history_iteration": 10 * np.arange(points)}


def test_coherence_is_correlated_run_by_run(tmp_path):
    rising, jagged = [1.0, 2.0, 3.0, 4.0, 5.0], [0.2, 0.25, 0.3, 0.28, 0.4]
    drawn = made(tmp_path, PHOTOS, "TURTLE", 0.0, **history(rising, jagged, 2.0))
    found = learned_images_panels.coherence(drawn, "gradient_product")
    assert found.value == pytest.approx(np.corrcoef(rising, jagged)[0, 1]) and found.count == 2
    claims = list(learned_images_panels.relations({(PHOTOS, "TURTLE"): drawn}))
    assert [claim.found.holds for claim in claims] == [True, True]
    assert "| gradient product | learned | 1 | 0 | 0 |" in learned_images_panels.counted(claims).data
    assert len(learned_images_panels.relation_bars({(PHOTOS, "TURTLE"): drawn}, PHOTOS)) == 2
    broken = made(tmp_path, PHOTOS, "LSTM", 0.0, **history([1.0, np.nan, np.nan, np.nan, 2.0], jagged))
    assert learned_images_panels.coherence(broken, "gradient_product") is None


def test_time_is_drawn_against_scores(records):
    panels = learned_images_panels.times(records, "cifar_fs")
    figure = time_scores(panels)
    assert list(panels) == ["cifar_fs, 1-shot: test accuracy (%)"] and len(figure.data) == 9
    turtle, first = (next(t for t in figure.data if t.name == name) for name in ("TURTLE", "TURTLE (first order)"))
    assert turtle.x[0] == pytest.approx((220 + 20) / 2) and figure.layout.xaxis.type == "log"
    assert first.marker.symbol == f"{turtle.marker.symbol}-open"
    with pytest.raises(ValueError, match="expected 'MAML' to take more than 0 seconds, got 0"):
        time_scores({"accuracy": {"MAML": Timed(0, 1.0)}})
