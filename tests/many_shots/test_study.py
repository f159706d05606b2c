"""A study: every task and number of shots once, whatever was killed in between."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mlkit.augmentation import Augmentation
from mlkit.driver import stack
from mlkit.learners import Displacement, JointTraining
from mlkit.many_shots import Protocol, Rule, Start, Study, adapt, record, study
from mlkit.many_shots.study import _Worker
from mlkit.models import EfficientLab
from mlkit.outer import Execution
from mlkit.records import Unit
from mlkit.seeding import seeded
from mlkit.segmentation_losses import IOU, segmentation_loss
from mlkit.tasks.base import content_hash
from mlkit.tasks.many_shots import ManyShotsSpec

from .cases import CLOSE, FEW, LEARNERS, PROTOCOL, begin, counting, many, start

QUIET = Execution(progress=False)


def ran(name: str = "FOMAML*", **settings) -> Study:
    tasks = settings.pop("tasks", None) or many()
    return study(begin(name), tasks, PROTOCOL, **{"metric": CLOSE, "execution": QUIET} | settings)


@pytest.fixture(scope="module")
def whole() -> Study:
    return ran()


def test_every_task_is_in_its_place(whole):
    assert whole.scores.shape == (3, 2, 2, 3) and whole.rules == ("decaying", "impatient", "patient")
    tasks, learner = many(), LEARNERS["FOMAML*"]
    for task, shots in ((1, 1), (2, 8)):
        batch = tasks.gather([task], shots).to(dtype=torch.float64)
        scores, steps = adapt(learner, start(learner), batch, PROTOCOL, few=FEW, metric=CLOSE)
        place = (slice(None), task % 2, task // 2, tasks.shots.index(shots))
        assert torch.equal(whole.scores[place], scores[:, 0]) and torch.equal(whole.steps[place].long(), steps[:, 0])
    assert whole.means()["patient"]["8"] == pytest.approx(float(whole.scores[2, :, :, 2].mean()))
    assert len(whole.scores.flatten().unique()) > 12


@pytest.mark.parametrize("name", LEARNERS)
def test_tasks_at_once_change_nothing(name, whole):
    alone = whole if name == "FOMAML*" else ran(name)
    together = ran(name, execution=Execution(3, progress=False))
    assert torch.equal(together.steps, alone.steps)
    torch.testing.assert_close(together.scores, alone.scores, rtol=0, atol=1e-10)


def test_a_killed_study_goes_on_and_comes_to_the_same(tmp_path: Path, whole):
    total, asked = counting()
    ran(metric=total)
    for stop_at in (2, 30):
        metric, _ = counting(stop_at)
        with pytest.raises(KeyboardInterrupt):
            ran(folder=tmp_path, metric=metric)
    kept = len(list(tmp_path.glob("shots-*.json")))
    rest, again = counting()
    found = ran(folder=tmp_path, metric=rest)
    assert 5 < kept < 12 and again() < asked()
    assert torch.equal(found.scores, whole.scores) and torch.equal(found.steps, whole.steps)
    silent, never = counting()
    assert torch.equal(ran(folder=tmp_path, metric=silent).scores, whole.scores) and never() == 0


def test_a_folder_belongs_to_one_study(tmp_path: Path):
    ran(folder=tmp_path, tasks=many(shots=(1,)))
    with pytest.raises(ValueError, match=r"expected the study of .*study.json to be this one"):
        ran(folder=tmp_path, tasks=many(shots=(1, 3)))
    first, how = begin(of=[]), {"metric": CLOSE, "execution": QUIET, "folder": tmp_path / "by itself"}
    study(first, many(shots=(1,)), PROTOCOL, **how)
    other = replace(first, meta=lambda: {name: 2 * tensor for name, tensor in first.meta().items()})
    with pytest.raises(ValueError, match=r"expected the study of .*study.json to be this one"):
        study(other, many(shots=(1,)), PROTOCOL, **how)


def test_a_class_with_fewer_pictures_has_no_number_there():
    tasks = many(shots=(1, 3), up_to={"class1": 1})
    found = ran(tasks=tasks)
    assert found.scores[:, 1, :, 1].isnan().all() and found.scores.isnan().sum() == 6
    assert found.means()["patient"]["3"] == pytest.approx(float(found.scores[2, 0, :, 1].mean()))


def test_a_worker_survives_the_way_to_another_process():
    learner, batch = LEARNERS["joint"], many().gather([0, 3], 8)
    worker = _Worker(learner, FEW, start(learner), PROTOCOL, CLOSE, QUIET, None)
    sent = pickle.loads(pickle.dumps(worker))
    assert sent(8, [0, 3], batch) == worker(8, [0, 3], batch) and sent(8, [0, 3], batch).keys() == {(8, 0), (8, 3)}


@pytest.mark.parametrize("kind", ["displacement", "joint"])
def test_the_paper_network_on_shapes_leaves_a_record(kind, tmp_path: Path):
    routine = Displacement(
        EfficientLab("3", width=0.25), inner_lr=0.005, batch_size=8, loss=segmentation_loss, l2=5e-4,
        augment=Augmentation(0.5),
    )  # fmt: skip
    learner = routine if kind == "displacement" else JointTraining(routine, 3)
    called = []

    def meta():
        called.append(1)
        return stack([learner.init(seeded("network"))])

    begun = Start(lambda: learner, meta, {1: {"inner_lr": 0.001, "steps": 2}}, of=["a training"])
    spec = ManyShotsSpec(shots=(1, 10), query=2, repeats=1, size=16, classes=1)
    protocol = Protocol({"right": Rule(1)}, max_steps=2)
    settings = {"metric": IOU, "execution": QUIET}
    kept = record(Unit("many_shots", root=tmp_path), "study", begun, spec, protocol, **settings)
    assert kept.arrays["scores"].shape == (1, 1, 1, 2) and 0 <= kept.scores["mean"]["right"]["10"] <= 1
    assert kept.settings["of"] == ["a training"] and kept.settings["few"] == {"1": {"inner_lr": 0.001, "steps": 2}}
    assert kept.data["data"] == "shapes" and kept.data["shots"] == [1, 10] and kept.evidence["tasks"] == 1
    again = record(Unit("many_shots", root=tmp_path), "study", begun, spec, protocol, **settings)
    assert again.key == kept.key and called == [1]


def test_a_start_is_told_by_the_records_that_it_comes_from_or_by_itself():
    known, unknown = begin().describe(), begin(of=[]).describe()
    assert known == {"few": {"1": FEW[1], "3": FEW[3]}, "of": ["a key"]}
    weights = content_hash({}, start(LEARNERS["FOMAML*"]))
    assert unknown == {"few": known["few"], "learner": LEARNERS["FOMAML*"].describe(), "weights": weights}
