"""Learned update rules on waves: what is trained is what the paper says, what is claimed is what the records hold."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import t

from mlkit.chapters import huisman
from mlkit.chapters import learned_optimizers as learned
from mlkit.chapters.learned_optimizers import Cell
from mlkit.learners import MAML, MetaLSTM, Turtle
from mlkit.records import Unit
from mlkit.seeding import seeded
from mlkit.stored import Record, write

_count = itertools.count()
SIZES = {"iterations": 70_000, "meta_batch": 1, "validation_tasks": 1000, "test_tasks": 2000}


def record(folder, scores, history=None, *, tasks=70_000, diverged=None, first_order=False, points=None) -> Record:
    """Store a training with test scores (runs, tasks) and validation errors (points, runs), which a test chooses."""
    scores = np.atleast_2d(np.asarray(scores, dtype=float))
    history = np.asarray(scores.mean(1)[None] if history is None else history, dtype=float)
    body = {
        "unit": "learned_optimizers", "name": "made-up", "key": f"{next(_count):064d}", "data": {"data": "sine"},
        "settings": {
            "seeds": list(range(len(scores))), "outer": {"iterations": tasks, "meta_batch": 1},
            "learner": {"inner_steps": 5, "first_order": first_order},
        },
        "scores": {"tasks_per_second": 200.0} | ({"diverged_at": diverged} if diverged else {}),
        "evidence": {"tasks": scores.shape[1], "seconds": 90.0, "hardware": {"gpu": None, "cores": 2}},
    }  # fmt: skip
    arrays = {"test_scores": scores, "history_validation": history}
    arrays["history_iteration"] = np.arange(len(history)) * 10 if points is None else np.asarray(points)
    return write(body, arrays, folder / f"made-up-{body['key'][-8:]}.json")


def around(value: float, *, runs: int = 8, tasks: int = 5) -> np.ndarray:
    """Scores (runs, tasks) whose runs differ by a percent."""
    return value * (1 + 0.01 * np.linspace(-1, 1, runs))[:, None] * np.ones(tasks)


@pytest.mark.parametrize("method", learned.FIRST_ORDER)
def test_methods_are_those_of_the_paper(method):
    built = learned.learner(method, 5)
    kind = MetaLSTM if "LSTM" in method else Turtle if "TURTLE" in method else MAML
    assert isinstance(built, kind)
    assert built.first_order is (method in ("FOMAML", "LSTM", "TURTLE (first order)"))
    if kind is MetaLSTM:
        assert built.preprocessed is (method == "LSTM") and built.scale_gradient
    else:
        assert (built.clip_inner, learned.learner(method, 1).clip_inner) == (10.0, None)
    if kind is Turtle:
        sizes = [tensor.numel() for name, tensor in built.init(seeded("size")).items() if name.startswith("phi.")]
        assert (sum(sizes), built.inputs, built.learn_inner_lr) == (1761, ("gradient", "history"), True)


def test_figure_2_has_rules_that_read_the_gradient_alone():
    bare = learned.learner("TURTLE", 5, hidden_layers=3)
    assert (bare.inputs, bare.learn_inner_lr, bare.hidden_layers, bare.width) == (("gradient",), False, 3, 20)


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match=r"unknown method 'TURTEL'; did you mean 'TURTLE'\? valid: MAML, FOMAML, LSTM"):
        learned.learner("TURTEL", 5)


def test_clipping_is_that_of_the_authors():
    p = SimpleNamespace(**SIZES, meta_lr=0.001, shots=5, query=50, validate_every=2500, watched_tasks=7)

    def outer(method: str, steps: int) -> dict:
        asked = learned.experiment(Cell(method, steps), p, runs=2, iterations=100, compared=True)
        assert (asked.seeds, asked.tracked_test_tasks, asked.keep_weights) == ([0, 1], 7, True)
        return asked.outer.describe()

    of_one, of_five, of_lstm = outer("TURTLE", 1), outer("TURTLE", 5), outer("LSTM", 8)
    assert of_one["clip_value"] is None and of_one["on_divergence"] == "freeze"
    assert (of_five["clip_value"], of_five["clipped"], of_five["clip_norm"]) == (10.0, "theta.", None)
    assert (of_lstm["clip_value"], of_lstm["clip_norm"]) == (None, 0.25)


@pytest.mark.parametrize(("runs", "low", "high"), [(2, 0, 1), (5, 0, 4), (6, 0, 5), (9, 1, 7), (30, 9, 20)])
def test_the_interval_of_a_median_comes_from_order_statistics(runs, low, high):
    found = huisman.median_over_runs(seeded_order(runs)[None])
    assert (found.low[0], found.value[0], found.high[0]) == (low, (runs - 1) / 2, high)


def seeded_order(runs: int) -> np.ndarray:
    return np.random.default_rng(0).permutation(runs).astype(float)


def test_a_run_that_diverged_counts_as_worse_than_all_others():
    found = huisman.median_over_runs(np.array([[1.0, np.nan, 2.0], [np.nan, np.nan, 2.0]]))
    assert (found.value[0], found.low[0]) == (2.0, 1.0)
    assert np.isnan(found.high[0]) and np.isnan(found.value[1]), "nothing is drawn where it is not known"


def test_curves_go_on_as_unknown_where_all_runs_have_diverged(tmp_path):
    whole = record(tmp_path, around(1.0, runs=3), np.full((4, 3), 2.0))
    lost = record(tmp_path, around(1.0, runs=3), np.full((2, 3), 3.0), diverged=[11, 12, 13])
    at, found = huisman.curves({"MAML": whole, "TURTLE": lost}, "validation")
    np.testing.assert_array_equal(at, [0, 10, 20, 30])
    np.testing.assert_array_equal(found["TURTLE"].value, [3, 3, np.nan, np.nan])


def test_medians_leave_outlying_runs_out_and_divergence_is_told(tmp_path):
    scores = np.concatenate([around(0.2), np.full((1, 5), 50.0)])
    history = np.concatenate([np.full((1, 9), 4.0), [[0.3] * 8 + [np.nan]]])
    found = record(tmp_path, scores, history, diverged=[-1] * 8 + [1234])
    assert huisman.median(found).value == pytest.approx(0.2) and huisman.median(found).count == 8
    assert huisman.best_validation(found).value == pytest.approx((8 * 0.3 + 4.0) / 9)
    assert "| TURTLE | second | 5 | 9 |" in learned.results({"TURTLE": found}).data
    assert "| 1 of 9, at step 1,234 |" in learned.results({"TURTLE": found}).data
    assert learned.divergence({Cell("TURTLE", 5, 2): found}).data == (
        "- TURTLE, T = 5, 2 hidden layers: 1 of 9, at step 1,234"
    )
    assert "None of the 8 runs" in learned.divergence({Cell("MAML", 5): record(tmp_path, around(1.0))}).data


@pytest.mark.parametrize(("theirs", "word"), [(0.5, "yes"), (0.2, "open"), (0.1, "no")])
def test_below_means_with_intervals_apart(tmp_path, theirs, word):
    records = {"MAML": record(tmp_path, around(theirs)), "TURTLE": record(tmp_path, around(0.2))}
    (claim,) = huisman.compared(records)
    assert (claim.figure, claim.found.word) == ("002/F3.3", word)
    assert claim.where == "70,000 tasks, 8 runs, T = 5"


def test_one_run_leaves_everything_open(tmp_path):
    records = {"LSTM": record(tmp_path, around(0.9, runs=1)), "TURTLE": record(tmp_path, around(0.2, runs=1))}
    assert [claim.found.word for claim in huisman.compared(records)] == ["open"]


def grid(folder, errors: dict[tuple, float], **options) -> dict[Cell, Record]:
    """Store the trainings of figure 3.2 with these best validation errors."""
    return {Cell(*key): record(folder, around(0.5), around(value).T[:1], **options) for key, value in errors.items()}


PAPER = {
    ("TURTLE", 1, 0): 0.75, ("TURTLE", 1, 5): 0.60, ("TURTLE (first order)", 1, 0): 1.5,
    ("TURTLE (first order)", 1, 5): 1.3, ("MAML", 1, None): 0.67, ("FOMAML", 1, None): 0.70,
}  # fmt: skip


def words(claims) -> dict[str, str]:
    return {claim.says.split(",")[0]: claim.found.word for claim in claims}


def test_the_claims_of_figure_2_hold_in_what_the_authors_saw(tmp_path):
    assert words(huisman.swept(grid(tmp_path, PAPER))) == {
        "first-order TURTLE does not reach second-order TURTLE": "yes",
        "the order matters less to MAML": "yes",
        "5 or 6 hidden layers are best": "yes",
    }


def test_the_claims_of_figure_2_fail_where_all_is_the_other_way_round(tmp_path):
    other = PAPER | {("TURTLE", 1, 0): 2.0, ("TURTLE", 1, 5): 3.0, ("FOMAML", 1, None): 2.0}
    assert set(words(huisman.swept(grid(tmp_path, other))).values()) == {"no"}


def test_stability_compares_the_spread_over_runs(tmp_path):
    def cell(steps: int, spread: float) -> dict[Cell, Record]:
        runs = 0.5 * (1 + spread * np.linspace(-1, 1, 8))
        return {Cell("TURTLE", steps, 0): record(tmp_path, around(0.5), runs[None])}

    both = grid(tmp_path, {(name, t, depth): 1.0 for t in (1, 5) for name, depth in
                           (("MAML", None), ("FOMAML", None), ("TURTLE (first order)", 0))})  # fmt: skip
    for spreads, word in (((0.1, 0.4), "yes"), ((0.4, 0.1), "no")):
        found = both | cell(1, spreads[0]) | cell(5, spreads[1])
        assert words(huisman.swept(found))["TURTLE is less stable with more steps"] == word


def test_few_runs_leave_more_open(tmp_path):
    def lower(runs: int) -> bool | None:
        ours, theirs = (huisman.median(record(tmp_path, around(value, runs=runs))) for value in (0.5, 0.511))
        assert ours.ci95 == pytest.approx(around(0.5, runs=runs)[:, 0].std(ddof=1) / runs**0.5 * t.ppf(0.975, runs - 1))
        return huisman.lower(ours, theirs).holds

    assert [lower(runs) for runs in (3, 30)] == [None, True]


def test_depths_that_are_as_good_leave_the_best_depth_open(tmp_path):
    alike = PAPER | {("TURTLE", 1, 5): PAPER["TURTLE", 1, 0]}
    assert words(huisman.swept(grid(tmp_path, alike)))["5 or 6 hidden layers are best"] == "open"


def test_runs_that_diverged_are_told_and_leave_stability_open(tmp_path):
    broken = np.full(3, np.nan)
    cells = {Cell("TURTLE", steps, 0): record(tmp_path, around(0.5, runs=3), values[None], diverged=lost)
             for steps, values, lost in ((1, 0.5 + 0.01 * np.arange(3), None), (5, broken, [7, 7, 7]))}  # fmt: skip
    (claim,) = huisman._stability(cells)
    assert claim.found.holds is None and "3 runs diverged with T = 5" in claim.found.note


def test_the_panels_of_figure_2_have_a_level_line_for_maml(tmp_path):
    layers, panels = huisman.depths(grid(tmp_path, PAPER))
    assert (layers, list(panels)) == ([0, 5], ["T = 1: best validation error (MSE)"])
    (panel,) = panels.values()
    np.testing.assert_allclose(panel["TURTLE"].value, [0.75, 0.60], rtol=1e-6)
    np.testing.assert_allclose(panel["MAML"].value, [0.67, 0.67], rtol=1e-6)


def test_only_a_training_as_long_as_theirs_reproduces_a_value(tmp_path):
    def verdicts(**options) -> list[str]:
        errors = {("MAML", 5, None): 0.52, ("TURTLE", 5, 6): 0.2, ("FOMAML", 1, None): 0.9}
        return sorted(each["verdict"] for each in huisman.anchored(grid(tmp_path, errors, **options)))

    assert verdicts() == ["not reached", "reproduced", "same direction"]
    assert verdicts(tasks=10_000) == ["not reached", "not reached", "same direction"]


def test_answers_are_stored_with_the_verdict_that_claims_make(tmp_path):
    records = {name: record(tmp_path, around(value)) for name, value in
               (("MAML", 0.5), ("LSTM", 0.9), ("TURTLE (first order)", 1.2), ("TURTLE", 0.4))}  # fmt: skip
    claims = [*huisman.compared(records), *huisman.swept(grid(tmp_path, PAPER | {("FOMAML", 1, None): 2.0}))]
    root = tmp_path / "project"
    for sizes, verdict in ((SIZES, "reproduced"), (SIZES | {"iterations": 10}, "not reached")):
        stored = huisman.answer(
            Unit("learned_optimizers", root=root), claims, records.values(), SimpleNamespace(**sizes)
        )
        given = {answer["id"]: (answer["verdict"], answer["value"]) for answer in stored.answers}
        assert given["002/F3.3"] == ("same direction", pytest.approx(0.4))
        assert given["002/F3.2"][0] == "not reached"
        assert given[huisman.SIZES][0] == verdict


def test_the_cost_of_a_wave_is_that_of_the_record(tmp_path):
    shown = learned.cost({"MAML": record(tmp_path, around(0.5))}, [record(tmp_path, around(0.5))]).data
    assert "| MAML | 5 | 8 | 5.00 | 1.5 |" in shown and "All 2 trainings took 3.0 minutes on 2 CPU cores" in shown


def test_a_training_is_one_record_a_method_and_a_cell(tmp_path):
    p = SimpleNamespace(
        methods=["MAML", "TURTLE"], runs=[2, 1], shots=3, query=2, inner_steps=1, lstm_steps=1, meta_lr=0.001,
        iterations=1, meta_batch=1, validate_every=1, validation_tasks=2, test_tasks=2, watched_tasks=1,
        grid_steps=[1], grid_layers=[0], grid_runs=2, grid_iterations=1, workers=1, device="cpu",
    )  # fmt: skip
    unit = Unit("learned_optimizers", root=tmp_path)
    records, swept = learned.comparison(unit, p), learned.grid(unit, p)
    assert {name: len(each.settings["seeds"]) for name, each in records.items()} == {"MAML": 2, "TURTLE": 1}
    assert list(swept) == [
        Cell("MAML", 1), Cell("FOMAML", 1), Cell("TURTLE", 1, 0), Cell("TURTLE (first order)", 1, 0)
    ]  # fmt: skip
    names = {path.stem.rsplit("-", 1)[0] for path in (tmp_path / "runs/learned_optimizers").glob("*.json")}
    assert {"maml", "turtle", "grid-maml-t1", "grid-turtle-first-order-t1-0-layers"} < names and len(names) == 6
    learner, meta = learned.trained(records, p)["TURTLE"]
    assert torch.equal(meta["phi.head.weight"][0], torch.from_numpy(records["TURTLE"].arrays["meta/phi.head.weight"]))
    assert learner.inner_steps == 1
