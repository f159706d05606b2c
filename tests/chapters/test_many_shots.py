"""The chapter on many shots: judged classes that no training saw, shared trainings, and claims that numbers decide."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import mlkit
from mlkit.chapters import many_shots, segmentation
from mlkit.chapters.methods import Setting, settings
from mlkit.chapters.segmentation import Training
from mlkit.chapters.update_hyperparameters import tunable
from mlkit.driver import for_tasks
from mlkit.many_shots import score
from mlkit.papers import judged
from mlkit.parameters import check, read
from mlkit.running import preset
from mlkit.segmentation_losses import IOU
from mlkit.stored import Record
from mlkit.tasks.many_shots import FP_K, PASCAL
from mlkit.tasks.segmentation_datasets import REST, listed
from tests.chapters import tiny
from tests.conftest import ROOT

SHOTS = [1, 5, 10, 50]
RULES = {"left": {}, "middle": {}, "right": {}}
STAR, JOINT = "FOMAML*", "joint-trained"


def parameters(**changed: Any) -> SimpleNamespace:
    own = {"labeled": [1, 10], "classes": 2, "repeats": 1, "max_steps": 4, "check_every": 2, "trials": 0}
    return tiny.parameters(**own | {"methods": [STAR, JOINT], "inner_lr": 0.02} | changed)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Return a project of its own."""
    root = tmp_path_factory.mktemp("project")
    (root / "notebooks").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLKIT_ROOT", str(root))
        patch.delenv("MLKIT_RECORDS", raising=False)
        yield root
    segmentation._stores.cache_clear()


def test_the_data_that_is_learned_from_decides_what_is_judged(tmp_path: Path):
    p = parameters()
    names = [many_shots.target(replace(tiny.SHAPES, data=data), p).name for data in many_shots.TARGETS]
    assert names == ["shapes", "voc", "fp_k"]
    own = many_shots.target(replace(tiny.SHAPES, data=str(tmp_path)), p)
    assert (own.name, own.shots, own.size, own.classes) == (str(tmp_path / "test"), (1, 10), 16, 2)
    assert {f"voc/{name}" for name in PASCAL} == set(listed(REST)["test"])
    assert many_shots.classes(replace(tiny.SHAPES, data="voc_rest"), p) == "dog, cat of PASCAL VOC"
    assert "2 classes of `shapes`" in many_shots.classes(tiny.SHAPES, p)
    assert all(f"| {ours} | {theirs} |" in many_shots.table6(p).data for ours, theirs in FP_K.items())


@pytest.mark.parametrize("name", ["quick", "smoke", "cpu"])
def test_trainings_are_those_of_the_chapter_on_segmentation(name):
    ours, theirs = (check(read(ROOT / f"notebooks/{unit}.ipynb"), preset(name, unit, ROOT)) for unit in
                    ("many_shots", "segmentation"))  # fmt: skip
    (setting,) = [each for each in settings(ours) if each.is_drawn]
    assert setting in settings(theirs)
    setting = replace(setting, encoder="random")  # any other is pre-trained to be described
    same_time = {"workers": 1}  # they change time only
    known = {method: Training(setting, method, theirs).describe() | same_time for method in theirs.methods}
    trained = {method: Training(setting, method, ours).describe() | same_time for method in ours.methods}
    assert trained.items() <= known.items()


def test_every_task_is_adapted_to_and_nothing_twice(project, monkeypatch):
    p, unit = parameters(), mlkit.Unit("many_shots")
    trainings = many_shots.trained(p)
    records = {key: many_shots.adapted(unit, training) for key, training in trainings.items()}
    star = records[tiny.SHAPES, STAR]
    assert star.arrays["scores"].shape == (3, 2, 1, 2) and np.isfinite(star.arrays["scores"]).all()
    assert star.settings["of"] == [trainings[tiny.SHAPES, STAR].record().key]
    assert star.settings["few"] == {"1": {"inner_lr": 0.02, "steps": 2}} and "learner" not in star.settings
    assert set(star.arrays["steps"][:, :, :, 1].flatten()) <= {2.0, 4.0}
    assert not np.array_equal(star.arrays["scores"], records[tiny.SHAPES, JOINT].arrays["scores"])
    monkeypatch.setattr(Training, "learner", None)  # a page is drawn from records alone
    monkeypatch.setattr(Training, "weights", None)
    again = many_shots.trained(p)[tiny.SHAPES, STAR]
    assert many_shots.adapted(mlkit.Unit("many_shots"), again).key == star.key
    panels = many_shots.curves(records, tiny.SHAPES)
    assert len(panels) == 3 and list(next(iter(panels.values()))) == [STAR, JOINT]
    mean = 100 * star.arrays["scores"][2].astype(float).mean((0, 1))
    np.testing.assert_allclose(panels["fixed learning rate, patience 100: IoU (%)"][STAR].value, mean)


def test_a_walk_is_what_adapting_for_so_many_steps_comes_to(project):
    p = parameters(labeled=[1, 3, 60])
    training = many_shots.trained(p)[tiny.SHAPES, JOINT]
    found = many_shots.walked(mlkit.Unit("many_shots"), training)
    assert found.scores == {"shots": 3} and found.arrays["steps"].tolist() == [2, 4]
    tasks = replace(many_shots.target(tiny.SHAPES, p), shots=(3,), repeats=1).load()
    batch = tasks.gather([0, 1], 3)
    meta = for_tasks(training.weights(), torch.zeros_like(batch.seeds))
    with torch.no_grad():
        after = training.learner.adapt(meta, batch, steps=4)
        expected = score(training.learner, after, batch.query, IOU)
    np.testing.assert_allclose(found.arrays["fixed"][1], expected, atol=1e-5)
    assert list(many_shots.walks({JOINT: found})) == ["fixed learning rate: IoU (%)", "falling learning rate: IoU (%)"]


def test_every_initialization_adapts_to_few_as_its_own_search_found(project):
    p = parameters(labeled=[1, 5, 10], trials=2, validation_tasks=2, search_steps=3, train_on="train")
    own = {"inner_lr": 0.02, "steps": 2}
    for method in (STAR, JOINT):
        training = many_shots.trained(p)[tiny.SHAPES, method]
        few, keys = many_shots.routine(training)
        one = tunable(tiny.SHAPES, method, 5, SimpleNamespace(**vars(p) | {"max_steps": 3, "search_on": "train"}))
        theirs = one.search(mlkit.Unit("update_hyperparameters"), trials=2, tasks=2)
        assert few[5] == {**theirs.scores["best"]["values"], "steps": theirs.scores["best"]["steps"]}
        assert keys[1] == theirs.key and few.keys() == {1, 5} and len(set(keys)) == 2
        untuned = replace(training, parameters=parameters(labeled=[1, 5]))
        assert many_shots.routine(untuned) == ({1: own, 5: own}, [])
    with pytest.raises(ValueError, match="add 2 to shots"):
        many_shots.routine(replace(training, parameters=SimpleNamespace(**vars(p) | {"labeled": [2]})))


def scored(folder: Path, values: list[float], *, left: float = 0.0, middle: float = 0.0, **body: Any) -> Record:
    """Store an initialization that scores `values` (shots,) on all tasks under the rule right, and more on others."""
    noise = 0.001 * np.random.default_rng(0).normal(size=(4, 2, len(values)))
    whole = np.stack([np.array(values) + noise + more for more in (left, middle, 0.0)])
    known = {
        "tasks": {"name": "shapes", "shots": SHOTS},
        "protocol": {"rules": RULES, "few_below": 10, "max_steps": 120},
    }
    return tiny.record(folder, {}, {"scores": whole, "steps": whole}, settings=known, **body)


def pair(folder: Path, lead: list[float], setting: Setting = tiny.SHAPES, **body: Any) -> dict[Any, Record]:
    joint = [0.2, 0.3, 0.4, 0.5]
    star = [one + more for one, more in zip(joint, lead, strict=True)]
    return {(setting, STAR): scored(folder, star, **body), (setting, JOINT): scored(folder, joint, middle=-0.02)}


def test_a_lead_that_ends_is_found_and_judged(tmp_path: Path):
    records = pair(tmp_path, [0.2, 0.15, 0.1, 0.0])
    found = many_shots.ahead(records, tiny.SHAPES)[JOINT]
    np.testing.assert_allclose(found.value, [20, 15, 10, 0], atol=1e-6)
    assert 10 < found.matched.value < 50
    claims = list(many_shots.claims(records))
    assert [claim.found.holds for claim in claims if "better than" in claim.says] == [True] * 3
    patience = {claim.where: claim.found for claim in claims if "patient" in claim.says}
    assert patience[f"{tiny.SHAPES}, {JOINT}"].value == pytest.approx(2) and patience[f"{tiny.SHAPES}, {JOINT}"].holds
    assert patience[f"{tiny.SHAPES}, {STAR}"].holds is None, "it makes no difference there"
    (sentence,) = many_shots.answer_in_words(records)
    assert sentence.startswith(f"{tiny.SHAPES}: to match FOMAML* within 1 point of IoU, joint-trained needs ")
    assert f"{found.matched.value:.0f} (95 % interval" in sentence
    rows = [line for line in many_shots.statements(records).data.splitlines() if line.startswith("| ")]
    assert [row.rsplit("|", 2)[1].strip() for row in rows[1:4]] == ["agrees", "**contradicts**", "agrees"]


@pytest.mark.parametrize(("lead", "holds"), [([0.2, 0.1, -0.1, 0], False), ([0.2, 0.1, 0, 0], None)])
def test_a_lead_that_is_not_there_is_not_claimed(tmp_path: Path, lead, holds):
    records = pair(tmp_path, lead)
    assert many_shots.up_to_ten(many_shots.ahead(records, tiny.SHAPES)[JOINT]).holds is holds


def test_answers_are_of_other_data_but_for_the_papers_own(tmp_path: Path):
    own = Setting("fss1000_rest", 224, 1.0, "imagenet", 2, 0, 4)
    data = {"data": "fp_k", "stand_in": False}
    for setting, body, expected in ((tiny.SHAPES, {}, "other data"), (own, {"data": data}, "same direction")):
        records = pair(tmp_path, [0.2, 0.15, 0.1, 0.0], setting, **body)
        claims = [claim for claim in many_shots.claims(records) if JOINT not in claim.where.split(", ")]
        claims = [claim for claim in claims if "patient" not in claim.says]
        answers = [judged(one, data=records[setting, STAR].data) for one in many_shots.answers(records, claims)]
        figures = {one["id"]: one for one in answers if "/F4-" in one["id"]}
        assert {one["verdict"] for one in figures.values()} == {expected} and len(figures) == 3
        assert figures["000/F4-right"]["value"] == pytest.approx(50, abs=0.2)
        classes = {one["id"][7:]: (one["value"], one["verdict"]) for one in answers if "/T6/" in one["id"]}
        word = "reproduced" if setting is own else "other data"
        assert classes["potted_plant"] == ("potted_plant", word) and classes["tvmonitor"] == ("television", word)
        (sizes,) = [one for one in answers if one["id"].endswith("k-values")]
        assert (sizes["value"], sizes["verdict"]) == ("1;5;10;50", "not reached" if setting is own else "other data")
    assert many_shots.answers({}, []) == []
    failed = pair(tmp_path, [0.2, 0.1, -0.1, 0.0], own, data=data)
    given = many_shots.answers(failed, list(many_shots.claims(failed)))
    assert {one["verdict"] for one in given if "/F4-" in one["id"]} == {"not reached"}
    assert json.dumps(given) and math.isfinite(given[0]["value"])
