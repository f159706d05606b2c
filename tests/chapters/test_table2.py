"""Table 2 from records whose numbers are known: differences, claims, answers, and what the page shows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mlkit.chapters import table2
from mlkit.chapters.table2 import BARE, DISJOINT, ENCODER, JOINT, REPTILE, SCRATCH, STAR
from mlkit.papers import judged
from tests.chapters.tiny import SHAPES, parameters, scored

RNG = np.random.default_rng(0)
BASE = RNG.uniform(0.3, 0.7, 50)
FSS = replace(SHAPES, data="fss1000", size=224)
PAPERS = {"data": {"data": "fss1000", "stand_in": False}}


def above(points: float) -> np.ndarray:
    return BASE + points / 100 + RNG.normal(0, 0.002, 50)


@pytest.fixture
def records(tmp_path):
    points = {STAR: 20.0, REPTILE: 20.0, DISJOINT: 15.0, BARE: 25.0, ENCODER: 5.0, JOINT: 0.0, SCRATCH: 2.0}
    return {(SHAPES, method): scored(tmp_path, above(value), above(value / 2)) for method, value in points.items()}


def test_a_difference_is_taken_task_by_task(records):
    found = table2.ahead(records, SHAPES, STAR, JOINT, 5)
    assert found.tasks.value == pytest.approx(20, abs=0.2)
    assert found.tasks.ci95 < 0.2, "tasks differ by tens of points, their differences do not"
    assert table2.ahead(records, SHAPES, STAR, JOINT, 1).tasks.value == pytest.approx(10, abs=0.2)


def test_claims_hold_where_the_difference_does(records):
    found = {(claim.says, claim.where): claim for claim in table2.claims(records)}
    five, one = "shapes, 16 px, 5-shot", "shapes, 16 px, 1-shot"
    assert found["FOMAML* is better than joint training", one].found.holds
    assert found["regularization helps", five].found.holds is False
    assert found["drawing both sets with replacement is better than disjoint sets", five].figure == "T2b"
    assert ("drawing both sets with replacement is better than disjoint sets", one) not in found
    assert found["FOMAML* is better than the same network from scratch", five].figure == "ours"
    assert not any("10" in says for says, _ in found), "of a method that was not trained nothing is said"


def test_equal_methods_confirm_only_what_is_weakly_said(records, tmp_path):
    same = scored(tmp_path, BASE), scored(tmp_path, BASE + RNG.normal(0, 0.01, 50))
    found = table2.ahead({(SHAPES, STAR): same[0], (SHAPES, REPTILE): same[1]}, SHAPES, STAR, REPTILE, 5)
    strong, weak = (said for said in table2.CLAIMS if said[:2] == (STAR, REPTILE))
    assert (strong.holds(found), weak.holds(found)) == (None, True)
    behind = table2.ahead(records, SHAPES, JOINT, STAR, 5)
    assert weak.holds(behind) is False and strong.holds(behind) is False


def test_answers_are_those_that_the_papers_tables_take(records):
    found = {answer["id"]: judged(answer, data={}) for answer in table2.answers(records, parameters())}
    star = found["000/T2b/FOMAML*"]
    assert star["value"] == pytest.approx(100 * BASE.mean() + 20, abs=0.2)
    assert (star["verdict"], star["stand_in"], star["tasks"], star["seeds"]) == ("other data", True, 50, 1)
    assert star["note"] == "4 of 5 comparisons as in the paper"
    gain = found["000/text/FOMAML-disjoint-to-sampling-with-replacement/mean_IoU-gain"]
    assert gain["value"] == pytest.approx(5, abs=0.2)
    assert found["000/T3/Meta-steps"]["value"] == 2
    assert "000/T3/Initial-meta-learning-rate" not in found, "a step size of Adam is no meta step size"
    sgd = {answer["id"]: answer for answer in table2.answers(records, parameters(optimizer="sgd", meta_lr=0.1))}
    assert sgd["000/T3/Final-meta-learning-rate"]["value"] == pytest.approx(1e-5)


def test_the_setting_nearest_to_the_papers_answers(records, tmp_path):
    own = {(FSS, method): scored(tmp_path, BASE + 0.3, **PAPERS) for method in (STAR, DISJOINT)}
    found = {answer["id"]: answer for answer in table2.answers({**records, **own}, parameters())}
    assert found["000/T2b/FOMAML*"]["data"] == "fss1000"
    assert judged(found["000/T2b/FOMAML*"], data={})["verdict"] in ("reproduced", "not reached")
    assert not found["000/T2b/FOMAML*"]["same_direction"], "equal to the disjoint sets, the claim is not borne out"
    assert "000/T2b/Reptile" not in found
    assert table2.answers({}, parameters()) == []


def test_the_table_stands_beside_the_papers(records):
    lines = table2.table(records, SHAPES).data.splitlines()
    assert lines[0].startswith("| initialization | mini-batches | ours, 1-shot | the paper, 1-shot | ours, 5-shot |")
    (star,) = [line for line in lines if line.startswith("| FOMAML\\* |")]
    assert star.endswith("± 1.0 | 79.89 ± 0.98 |") and "| 75.87 ± 1.10 |" in star
    (scratch,) = [line for line in lines if line.startswith("| from scratch |")]
    assert scratch.endswith("| – |")


def test_settings_that_an_adaptive_optimizer_changes_are_named():
    lines = table2.hyperparameters(parameters(), SHAPES).data.splitlines()
    assert "| Meta-steps | 50000 | 2 |" in lines
    assert "| Initial meta-learning rate | 0.1 | 0.001 (adam) |" in lines
    assert "| Final layer dropout rate | 0.2 | 0.2 |" in lines


def test_curves_are_read_at_equal_shares_of_the_training(records):
    lines, share = table2.curves(records, SHAPES, "test")
    np.testing.assert_allclose(share, np.linspace(0, 100, 11))
    np.testing.assert_allclose(lines[STAR], [share])
    cost = table2.cost(records).data
    assert "| shapes, 16 px | FOMAML\\* | 100 | 0.8 | 2.0 |" in cost
    assert "In all 7.0 minutes on 2 CPU cores" in cost
