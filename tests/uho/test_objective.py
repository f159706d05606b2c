"""What a setting is worth, for a real learner: every number of steps from one adaptation."""

from __future__ import annotations

import dataclasses
import math

import joblib
import pytest
import torch

from mlkit.evaluation import evaluate
from mlkit.tasks import frozen, sine
from mlkit.uho import tune, tuned
from tests.uho.cases import LEARNER, META, RATES, waves


def scores(objective, tasks, rate: float) -> torch.Tensor:
    """Adapt anew for every number of steps: (steps + 1, tasks)."""
    learner = tuned(objective.learner, {"inner_lr": rate})
    each = [evaluate(learner, META, tasks, metric=objective.metric, steps=n)[0] for n in range(objective.max_steps + 1)]
    return torch.stack(each).double()


def test_the_score_is_that_of_fresh_tasks_at_the_median_of_the_best_steps():
    objective = waves()
    (worth,) = objective.worth([{"inner_lr": 0.05}])
    stopping, judging = (scores(objective, tasks, 0.05) for tasks in (objective.stopping, objective.judging))
    stopped = 1 + stopping[1:].argmin(0)
    assert worth.stopped.tolist() == stopped.tolist()
    assert worth.steps == sorted(stopped.tolist())[2], "of six tasks the lower of the two in the middle"
    torch.testing.assert_close(worth.curve, judging.mean(1), rtol=1e-5, atol=0)
    assert worth.score == pytest.approx(float(judging.mean(1)[worth.steps]), rel=1e-5)


@pytest.mark.parametrize(("stopped", "expected"), [([8, 5], 5), ([9, 1, 4], 4), ([2, 3, 7, 9], 3)])
def test_the_median_of_an_even_number_is_the_lower_in_the_middle(stopped, expected):
    stopping = torch.ones(10, len(stopped))
    stopping[stopped, range(len(stopped))] = 0.5  # lower is better
    assert waves()._median(stopping, torch.rand(10, 4), {"inner_lr": 0.1}).steps == expected


def test_each_setting_is_known_before_the_next_one_ends():
    worths = waves().each([{"inner_lr": 0.05}, {"inner_lr": 0.2}])
    alone = [waves().worth([{"inner_lr": rate}])[0] for rate in (0.05, 0.2)]
    assert [next(worths).score, next(worths).score] == pytest.approx([one.score for one in alone])


def test_weights_are_part_of_what_an_objective_is(tmp_path):
    one, other = waves(), waves(meta={name: 2 * tensor for name, tensor in META.items()})
    how = {"trials": 2, "folder": tmp_path, "progress": False}
    tune(one, RATES, {"inner_lr": 0.01}, **how)
    with pytest.raises(ValueError, match="expected the search of"):
        tune(other, RATES, {"inner_lr": 0.01}, **how)


def test_the_optimistic_score_takes_every_task_at_its_best():
    objective = waves(counted="best")
    (worth,) = objective.worth([{"inner_lr": 0.05}])
    best = scores(objective, objective.stopping, 0.05)[1:].min(0).values
    assert worth.score == pytest.approx(float(best.mean()), rel=1e-5)


def test_steps_may_be_chosen_instead_of_found():
    objective = waves()
    (worth,) = objective.worth([{"inner_lr": 0.05, "steps": 2}])
    assert (worth.steps, len(worth.curve)) == (2, 3)
    assert worth.score == pytest.approx(float(scores(objective, objective.judging, 0.05)[2].mean()), rel=1e-5)


def test_a_rate_that_diverges_has_no_score():
    first, second = waves().worth([{"inner_lr": 1e30}, {"inner_lr": 0.05}])
    assert first.diverged and math.isnan(first.score) and not second.diverged


def test_chunks_settings_at_once_and_processes_change_nothing():
    settings = [{"inner_lr": 0.05}, {"inner_lr": 0.2}]
    together = waves().worth(settings)
    for found in (
        [waves(chunk_size=6).worth([each])[0] for each in settings],
        waves().worth(settings, jobs=2),
    ):
        for one, other in zip(together, found, strict=True):
            assert one.steps == other.steps
            torch.testing.assert_close(one.curve, other.curve, rtol=1e-6, atol=0)
    joblib.externals.loky.get_reusable_executor().shutdown()


def test_threads_do_not_get_in_each_others_way():
    settings = [{"inner_lr": rate} for rate in (0.01, 0.05, 0.2)]
    alone = waves(chunk_size=1).worth(settings)
    with joblib.parallel_config(backend="threading", n_jobs=4):
        for one, other in zip(alone, waves(chunk_size=1).worth(settings), strict=True):
            torch.testing.assert_close(one.curve, other.curve, rtol=1e-6, atol=0)


def test_a_learner_is_tuned_from_end_to_end():
    study = tune(waves(), RATES, {"inner_lr": 0.01}, trials=6, progress=False)
    best = study.best
    assert best.score == min(trial.score for trial in study.trials if not trial.diverged)
    assert study.training.values == {"inner_lr": 0.01} and LEARNER.inner_lr == 0.01


@pytest.mark.parametrize("changes", [{"max_steps": 0}, {"counted": "mean"}])
def test_what_cannot_be_counted_is_refused(changes):
    with pytest.raises(ValueError, match="expected max_steps >= 1 and counted 'median' or 'best'"):
        waves(**changes)


def test_no_tasks_are_refused():
    none = frozen(sine("finn", "val", shots=5, query=10), 1, 0)
    none = dataclasses.replace(none, draws={name: tensor[:0] for name, tensor in none.draws.items()})
    with pytest.raises(ValueError, match="expected validation tasks, got 0 to stop on and 6 to judge by"):
        dataclasses.replace(waves(), stopping=none)
