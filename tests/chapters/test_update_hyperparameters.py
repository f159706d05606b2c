"""Question 2 of paper 000: what is searched and judged, on networks that train in a second; what records say of it."""

from __future__ import annotations

import dataclasses
import shutil
from typing import Any

import numpy as np
import pytest
import torch

import mlkit
from mlkit.chapters import foundations, segmentation, tuning, uho_tables
from mlkit.chapters import update_hyperparameters as uho
from mlkit.chapters.searches import summary
from mlkit.chapters.segmentation import Training
from mlkit.chapters.table2 import JOINT, STAR
from mlkit.evaluation import evaluate
from mlkit.papers import judged, rows
from mlkit.parameters import check, read
from mlkit.running import preset
from mlkit.segmentation_losses import IOU
from mlkit.tasks import frozen
from mlkit.uho import Study, Trial, arrays, tuned
from tests.chapters.tiny import SHAPES, parameters, record
from tests.conftest import ROOT

SMALL = {
    "search_on": "train", "trials": 2, "validation_tasks": 2, "max_steps": 3, "deep_trials": 0,
    "test_tasks": [4],
}  # fmt: skip
RATES = (0.0005, 0.005, 0.05)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Return a project whose records come and go with the module."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "book").mkdir()
    (folder / "book/paper").symlink_to(ROOT / "book/paper")
    segmentation._stores.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLKIT_ROOT", str(folder))
        patch.delenv("MLKIT_RECORDS", raising=False)
        yield folder
    segmentation._stores.cache_clear()


@pytest.fixture(scope="module")
def case(project):
    """Return FOMAML* at five shots, tuned and judged."""
    p = parameters(**SMALL)
    unit = mlkit.Unit("update_hyperparameters", {})
    one = uho.tunable(SHAPES, STAR, 5, p)
    search = one.search(unit, trials=p.trials, tasks=p.validation_tasks)
    trained = Training(SHAPES, STAR, p).record()
    return uho.Case(SHAPES, STAR, 5, one, trained, search, one.judge(unit, search))


def test_what_is_searched_never_saw_the_validation_classes_and_what_is_tested_did(case):
    tested, searched = case.search.settings["of"], Training(SHAPES, STAR, parameters(train_on="train")).record()
    assert set(tested) == {case.trained.key, searched.key} and len(set(tested)) == 2
    one, other = case.tunable.searched()[1], case.tunable.tested()[1]
    assert any(not torch.equal(one[name], other[name]) for name in one)
    seen = {case.tunable.tasks(split, 4, 0).tasks.describe()["content_hash"] for split in ("train", "val", "test")}
    assert len(seen) == 3
    assert case.search.data["content_hash"] == case.tunable.tasks("val", 2, tuning.STOPPING).content_hash


def test_the_best_routine_is_judged_on_the_test_tasks_of_the_training(case):
    learner, meta = case.tunable.tested()
    tasks = frozen(Training(SHAPES, STAR, parameters()).tasks(5).split("test"), 4, 0)
    best = case.best
    how = {"metric": IOU, "steps": best["steps"], "chunk_size": 2}  # a pixel may flip with another order of sums
    expected = evaluate(tuned(learner, best["values"]), meta, tasks, **how)[0]
    np.testing.assert_allclose(case.judged.arrays["scores"], expected, rtol=1e-4)
    difference = 100 * (case.judged.arrays["scores"] - case.trained.arrays["iou_5_shot"][0])
    assert case.gain.value == pytest.approx(difference.mean(), abs=1e-4) and case.gain.count == 4


def test_the_routine_of_meta_training_is_the_training_point_of_the_figure(case):
    assert case.search.scores["training"]["values"] == {"inner_lr": 0.005, "steps": 2}
    assert case.search.scores["training"]["steps"] == 2
    assert case.search_drawn().training[0] == 0.005
    one = dataclasses.replace(case.tunable, max_steps=2)
    (worth,) = one.objective(2).worth([{"inner_lr": 0.005, "steps": 2}])
    assert case.search.scores["training"]["score"] == pytest.approx(worth.score, rel=1e-4)


def test_a_sweep_has_the_training_rate_in_its_middle_and_there_the_known_scores(case):
    found = case.tunable.sweep(mlkit.Unit("update_hyperparameters", {}), rates=3, tasks=4)  # in the chunks of the test
    np.testing.assert_allclose(found.arrays["rates"], RATES)
    np.testing.assert_allclose(found.arrays["scores"][1], case.trained.arrays["iou_5_shot"][0], rtol=1e-3)


def test_nothing_is_loaded_where_the_records_are_there(case, project, monkeypatch):
    weights = project / "runs/initializations"
    for path in weights.glob("weights-*"):
        shutil.move(path, project / path.name)
    monkeypatch.setattr(segmentation, "train", lambda *args, **kept: pytest.fail("nothing is to be trained"))
    monkeypatch.setenv("MLKIT_DATA", str(project / "none"))
    p, unit = parameters(**SMALL), mlkit.Unit("update_hyperparameters", {})
    again = uho.tunable(SHAPES, STAR, 5, p)
    search = again.search(unit, trials=2, tasks=2)
    assert (search.key, again.judge(unit, search).key) == (case.search.key, case.judged.key)
    for path in project.glob("weights-*"):
        shutil.move(path, weights / path.name)


def test_the_live_explorer_adapts_tasks_of_the_search(case):
    found = uho.explorer([case], parameters(**SMALL))
    point = found.evaluate({"inner_lr": 0.01})
    (worth,) = case.tunable.objective(2).worth([{"inner_lr": 0.01}])
    assert point.score == pytest.approx(100 * worth.score) and point.steps == worth.steps


def test_waves_and_images_are_tuned_alike(project):
    p, unit = parameters(**SMALL), mlkit.Unit("update_hyperparameters", {})
    shown = []
    for name in ("sine_huisman", "glyphs"):
        experiment, trained = foundations.trained(unit, name, p, iterations=1)
        one = foundations.tunable(name, experiment, trained, p)
        search = one.search(unit, trials=2, tasks=2)
        after = one.judge(unit, search)
        sign = 1 if name == "glyphs" else -1
        assert one.gain(after).value == pytest.approx(sign * (after.arrays["scores"] - one.before).mean(), abs=1e-5)
        shown.append((one, search, after))
    assert "MAML, sine_huisman" in uho_tables.fixed_or_not(shown).data


def made_up(case, tmp_path, *, method=STAR, shots=5, before=0.5, after=0.6, rate=0.05, steps=3, stand_in=True):
    """Return a case with numbers that a test chooses; the fit of its search is of no matter."""
    values = [{"inner_lr": value} for value in (*RATES, rate)]
    if method == uho.DEEP:
        values = [each | {"dropout": 0.5, "augmentation_rate": 0.5, "batch_size": 8} for each in values]
    curves = [(0.1, 0.1 + n / 100, 0.15, 0.2 + n / 100) for n in range(4)]
    trials = tuple(Trial(v, c[steps], steps, c, (1,)) for v, c in zip(values, curves, strict=True))
    training = Trial(dict(case.tunable.routine), 0.15, 2, curves[0][:3], (2,))
    nothing = np.full((4, 5), np.nan)
    study = Study(trials, training, "inner_lr", np.geomspace(*RATES[::2], 5), nothing, nothing, nothing)
    noise = np.random.default_rng(0).normal(0, 0.01, 50)
    noise -= noise.mean()
    data = {"data": "shapes", "stand_in": stand_in}
    found = record(tmp_path, summary(study), arrays(study), settings={"tasks": 2, "max_steps": 3, "trials": 4})
    scores = {"mean": after, "ci95": 0.01}
    judgement = record(tmp_path, scores, {"scores": after + noise})
    routine = dict(case.tunable.routine)
    if method == uho.DEEP:
        routine |= {"dropout": 0.2, "augmentation_rate": 0.5, "batch_size": 8}
    one = dataclasses.replace(case.tunable, label=f"{method}, {shots}-shot", before=before - noise, routine=routine)
    trained = record(tmp_path, {}, {}, data=data)
    return uho.Case(SHAPES, method, shots, one, trained, found, judgement)


def swept(tmp_path, *means):
    scores = np.array(means)[:, None] + np.random.default_rng(1).normal(0, 0.01, 40)
    return record(tmp_path, {"steps": 2}, {"rates": RATES, "scores": scores})


def test_claims_are_decided_by_the_numbers(case, tmp_path):
    gained, lost = made_up(case, tmp_path), made_up(case, tmp_path, method=JOINT, after=0.4)
    rates = {SHAPES: {STAR: swept(tmp_path, 0.5, 0.6, 0.2), JOINT: swept(tmp_path, 0.6, 0.6, 0.61)}}
    found = {(claim.figure, claim.says): claim.found for claim in uho.claims([gained, lost], rates)}
    assert found["T2b", "UHO improves FOMAML*"].holds is True
    assert found["T2b", "UHO improves joint-trained"].holds is False
    assert found["F3", "FOMAML* is not robust to learning rates 10 times off"].holds is True
    assert found["F3", "joint-trained is not robust to learning rates 10 times off"].holds is not True
    assert "+10.00" in found["T2b", "UHO improves FOMAML*"].note


@pytest.mark.parametrize(
    ("rate", "steps", "max_steps", "expected"),
    [(0.1, 12, 30, True), (0.1, 4, 30, False), (0.2, 12, 30, False), (0.1, 1, 3, None), (8.0, 1, 3, False)],
)
def test_orders_of_magnitude_are_judged_where_the_space_has_them(case, rate, steps, max_steps, expected):
    one = dataclasses.replace(
        case, tunable=dataclasses.replace(case.tunable, max_steps=max_steps, routine={"inner_lr": 0.005, "steps": 1})
    )
    assert uho._far(one, rate, steps) is expected


def test_a_search_of_fewer_steps_than_meta_training_is_judged(case, tmp_path):
    one = made_up(case, tmp_path)
    routine = {**one.tunable.routine, "steps": 9}
    one = dataclasses.replace(one, tunable=dataclasses.replace(one.tunable, routine=routine))
    assert any("with at most 3 steps" in claim.found.note for claim in uho.claims([one], {}))


def test_few_steps_want_a_larger_rate_where_the_trials_say_so(case, tmp_path):
    curves = np.array([[0.1, 0.1, 0.2, 0.9], [0.1, 0.3, 0.5, 0.4], [0.1, 0.6, 0.2, np.nan]])
    found = record(tmp_path, {"higher_is_better": True}, {"trial_curve": curves, "trial_inner_lr": RATES}, settings={})
    np.testing.assert_allclose(tuning.by_limit(found), [RATES[2], RATES[2], RATES[0]])
    errors = record(tmp_path, {"higher_is_better": False}, {"trial_curve": curves, "trial_inner_lr": RATES})
    np.testing.assert_allclose(tuning.by_limit(errors), [RATES[0], RATES[0], RATES[0]])


def test_every_row_of_tables_4_and_5_and_every_row_with_uho_is_answered(case, tmp_path):
    cases = [made_up(case, tmp_path, method=method, shots=shots) for method in (STAR, JOINT) for shots in (5, 1)]
    cases.append(made_up(case, tmp_path, method=uho.DEEP))
    rates = {SHAPES: {STAR: swept(tmp_path, 0.5, 0.6, 0.2)}}
    claims = list(uho.claims(cases, rates))
    p = parameters(**SMALL)
    answers = {answer["id"]: judged(answer, data={}) for answer in uho_tables.answers(cases, claims, p)}
    wanted = {key for key in rows() if key.startswith(("000/T4/", "000/T5/", "000/text/UHO"))}
    wanted |= {key for key in rows() if key.startswith("000/T2") and key.endswith("+UHO")} | {"000/F3"}
    assert answers.keys() == wanted
    assert {answer["verdict"] for answer in answers.values()} == {"other data"}
    assert answers["000/T2a/FOMAML*+UHO"]["value"] == pytest.approx(60)
    shown = uho_tables.routines(cases).data
    assert "| 6.951e-3 |" in shown and "batch size" in shown
    rate = case.tunable.space.ranges["inner_lr"]
    assert [rate.borders(value) for value in (rate.low, 0.9 * rate.high, rate.high)] == [True, False, True]
    assert ("(at a bound)" in shown) == any(rate.borders(each.best["values"]["inner_lr"]) for each in cases)
    gained = uho_tables.gains(cases).data
    assert "81.36 ± 0.80" in gained and "+10.00" in gained and gained.count("→") == len(cases)
    assert "2 CPU cores" in uho_tables.cost(cases).data
    assert [bar.value for bar in uho_tables.bars(cases[:1])] == pytest.approx([50, 60], abs=0.5)


def test_on_the_papers_own_data_a_value_is_judged_by_its_side_of_meta_training(case, tmp_path):
    one = made_up(case, tmp_path, rate=0.04, stand_in=False)
    answers = {answer["id"]: judged(answer, data={}) for answer in uho_tables.answers([one], [], parameters(**SMALL))}
    assert answers["000/T4/5-shot/FOMAML*/learning-rate"]["verdict"] == "same direction"  # the paper's is larger, too
    assert answers["000/text/UHO-search-range/learning-rate-range"]["verdict"] == "same direction"
    assert answers["000/text/UHO/number-of-configurations"]["verdict"] == "not reached"


@pytest.mark.parametrize("name", ["smoke", "cpu", "paper"])  # quick has trainings of its own: it is shorter
def test_the_chapter_tests_the_trainings_of_the_chapter_on_segmentation(name):
    def values(unit: str) -> dict[str, Any]:
        return vars(check(read(ROOT / "notebooks" / f"{unit}.ipynb"), preset(name, unit, ROOT)))

    ours, theirs = values("update_hyperparameters"), values("segmentation")
    assert theirs.keys() - ours.keys() == {"methods", "pictures"}
    shared = (ours.keys() & theirs.keys()) - {"workers"}  # which changes time only
    assert {key: ours[key] for key in shared} == {key: theirs[key] for key in shared}
