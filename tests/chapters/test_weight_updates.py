"""Weight updates from records whose numbers are known."""

from __future__ import annotations

import numpy as np
import pytest

from mlkit.chapters import weight_updates
from mlkit.chapters.table2 import JOINT, STAR
from mlkit.papers import judged
from tests.chapters.tiny import SHAPES, record, scored

BLOCKS = ["all", "stem", "MBConv 0", "RSD 3", "head"]
RNG = np.random.default_rng(0)


def moves(tmp_path, by_block, *, unit=(0.1, 0.1, 0.3, 0.2), single=(3.0, 2.0, 1.0, 5.0)):
    def tasks(values):
        noisy = np.asarray(values)[:, None] * RNG.uniform(0.95, 1.05, (len(values), 40))
        return np.concatenate([np.sqrt((noisy**2).sum(0, keepdims=True)), noisy])

    arrays = {"distance": tasks(by_block), "unit_distance": tasks(unit), "mean_absolute": tasks(single)}
    return record(tmp_path, {"blocks": BLOCKS}, arrays)


@pytest.fixture
def pair(tmp_path):
    twice = {"unit": (0.2, 0.2, 0.6, 0.4), "single": (6.0, 4.0, 2.0, 10.0)}
    return {STAR: moves(tmp_path, (1.0, 2.0, 2.0, 4.0)), JOINT: moves(tmp_path, (2.0, 4.0, 4.0, 8.0), **twice)}


def test_the_head_can_be_left_out(pair):
    assert weight_updates.whole(pair[STAR]).mean() == pytest.approx(5.0, rel=0.02)
    assert weight_updates.whole(pair[STAR], head=False).mean() == pytest.approx(3.0, rel=0.02)


def test_panels_are_means_over_tasks_with_their_intervals(pair):
    panels = weight_updates.panels(pair)
    assert list(panels) == ["distance d₁", "distance of unit vectors d₂", "mean absolute change d₃"]
    series = panels["distance d₁"][JOINT]
    np.testing.assert_allclose(series.value, [2, 4, 4, 8], rtol=0.02)
    assert (series.low < series.value).all() and (series.high - series.low < 0.1 * series.value).all()
    assert weight_updates.blocks(pair[STAR]) == BLOCKS[1:]
    assert list(weight_updates.ratios(pair).values()) == pytest.approx([2] * 4, rel=0.02)


def test_a_task_that_diverged_is_left_out(tmp_path, pair):
    values = {name: array.copy() for name, array in pair[STAR].arrays.items()}
    values["distance"][:, 0] = np.nan
    broken = record(tmp_path, {"blocks": BLOCKS}, values)
    series = weight_updates.by_block(broken, "distance")
    np.testing.assert_allclose(series.value, [1, 2, 2, 4], rtol=0.02)


def test_claims_are_decided_by_the_numbers(tmp_path, pair):
    trained = {(SHAPES, method): scored(tmp_path, np.full(40, iou)) for method, iou in ((STAR, 0.75), (JOINT, 0.5))}
    moved = {(SHAPES, method): one for method, one in pair.items()}
    found = list(weight_updates.claims(moved, trained))
    held = {(claim.figure, claim.says): claim.found.holds for claim in found}
    assert held["000/F6-left", "joint-trained weights move further"]
    assert held["000/F6-right", "they do so in nearly all tasks"]
    assert held["000/F7-middle", "direction changes most in the final layers"]
    assert held["000/F7-right", "single weights change most in early layers"], "the new head does not count"
    answers = {answer["id"]: judged(answer, data={}) for answer in weight_updates.answers(found, trained)}
    assert answers["000/F6-left"]["value"] == pytest.approx(2, rel=0.02)
    assert {answer["verdict"] for answer in answers.values()} == {"other data"}
    assert answers[weight_updates.RATIO]["value"] == pytest.approx(2)
    assert len(answers) == 6


def test_the_opposite_is_told(tmp_path, pair):
    own = {"data": {"data": "fss1000", "stand_in": False}}
    trained = {(SHAPES, method): scored(tmp_path, np.full(40, 0.5), **own) for method in (STAR, JOINT)}
    moved = {(SHAPES, STAR): pair[JOINT], (SHAPES, JOINT): pair[STAR]}
    found = list(weight_updates.claims(moved, trained))
    further = [claim for claim in found if "further" in claim.says]
    assert [claim.found.holds for claim in further] == [False] * 4
    answers = {answer["id"]: judged(answer, data={}) for answer in weight_updates.answers(found, trained)}
    assert answers["000/F6-left"]["verdict"] == "not reached"
    assert "(no)" in answers["000/F7-left"]["note"]
