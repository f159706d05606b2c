"""Table 1: its rows are networks of ours and rows of the paper, its verdicts follow from paired differences."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from mlkit.chapters.architectures import BASE, ROWS, answers, settings, trainings, verdict
from mlkit.chapters.methods import METHODS, Setting
from mlkit.models import EfficientLab
from mlkit.papers import row
from mlkit.records import Unit
from mlkit.stored import write

HERE = Setting("fss1000", 32, 0.25, "random", 10, 0, 40)
HARD = np.random.default_rng(0).uniform(0.2, 0.9, 40)  # how hard each task is, for every network
PAPER = {"FOMAML* (Auto-DeepLab)": -0.09, "FOMAML* (no residual)": -0.03, BASE: 0.0, "FOMAML* (6-3)": 0.01}


def records(folder, gains, *, stand_in=False):
    """Store a record a method, whose IoU is the tasks' own plus a gain, up to a little noise."""
    found = {}
    for number, (method, points) in enumerate(gains.items()):
        iou = HARD + points + np.random.default_rng(number).normal(0, 0.01, 40)
        body = {
            "key": f"{number:064d}", "settings": {"seeds": [0], "shots": [5]}, "evidence": {"tasks": 40},
            "scores": {"5-shot": {"mean": iou.mean(), "ci95": 0.06}}, "data": {"data": "fss1000", "stand_in": stand_in},
        }  # fmt: skip
        found[HERE, method] = write(body, {"iou_5_shot": iou[None].astype(np.float32)}, folder / f"{number}.json")
    return found


def test_every_row_is_a_network_and_a_row_of_the_paper():
    networks = {name: EfficientLab(width=0.25, **dict(METHODS[name].options)).describe() for name in ROWS}
    assert len({str(said) for said in networks.values()}) == 4
    assert networks["FOMAML* (no residual)"]["decoder"] == "rsd_no_residual"
    assert [row(found.id).value for found in ROWS.values()] == [71.16, 77.55, 79.89, 80.43]
    assert {METHODS[name].training for name in ROWS} == {"fomaml_star"}


def test_differences_smaller_than_the_intervals_of_the_values_are_told_apart(tmp_path):
    found = {answer["id"]: answer for answer in answers(records(tmp_path, PAPER), HERE, 5)}
    assert {answer["same_direction"] for answer in found.values()} == {True}
    assert found["000/T1/RSD-at-Stages-6-3"]["note"].startswith("6-3 against EfficientLab-3: +")
    assert found["000/T1/RSD-at-Stages-6-3"]["ci95"] == pytest.approx(6)
    assert found["000/T1/RSD-at-Stage-3"]["note"].count("against") == 3


def test_one_row_on_the_other_side_is_not_the_papers_order(tmp_path):
    found = {answer["id"]: answer for answer in answers(records(tmp_path, PAPER | {BASE: 0.05}), HERE, 5)}
    assert not found["000/T1/RSD-at-Stages-6-3"]["same_direction"]
    assert not found["000/T1/RSD-at-Stage-3"]["same_direction"]
    assert found["000/T1/Auto-DeepLab-decoder"]["same_direction"]


def test_equal_networks_are_no_order(tmp_path):
    equal = {name: 0.0 for name in (BASE, "FOMAML* (no residual)")}
    assert not any(answer["same_direction"] for answer in answers(records(tmp_path, equal), HERE, 5))
    assert [answer["note"] for answer in answers(records(tmp_path, {BASE: 0.0}), HERE, 5)] == [""]


@pytest.mark.parametrize(("stand_in", "said"), [(True, {"other data"}), (False, {"same direction", "not reached"})])
def test_a_verdict_is_stored_with_what_it_came_from(tmp_path, stand_in, said):
    made = records(tmp_path, PAPER | {"FOMAML* (6-3)": -0.02}, stand_in=stand_in)
    record = verdict(Unit("efficientlab", root=tmp_path), made, HERE, 5)
    assert record.settings["of"] == [f"{number:064d}" for number in range(4)]
    assert {answer["verdict"] for answer in record.answers} == said


def test_parameters_that_do_not_fit_are_refused():
    columns = {"data": ["shapes"], "sizes": [32], "widths": [0.25], "encoders": ["random"], "test_tasks": [2]}
    p = SimpleNamespace(**columns, iterations=[1, 2], methods=["Reptile"])
    with pytest.raises(ValueError, match=r"expected one entry a setting in each of data, .*'iterations': 2"):
        settings(p)
    with pytest.raises(ValueError, match=r"expected methods out of FOMAML\* \(Auto-DeepLab\), .*; got 'Reptile'"):
        trainings(p)
