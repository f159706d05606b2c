"""Theorem 1 of paper 002 as running code: an LSTM that descends, and the learning rates that one cannot have."""

from __future__ import annotations

import math

import pytest
import torch

from mlkit.driver import stack
from mlkit.learners import MAML, MetaLSTM, Turtle, gradient_descent, inner_lr_limit
from mlkit.losses import mean_squared_error
from mlkit.models import MLP
from mlkit.seeding import seeded
from mlkit.tasks.base import TaskBatch, sample
from mlkit.tasks.sine import sine

from . import cases
from .learned_rules import image_net

RATES = (0.001, 0.005, 0.01, 0.05, 0.1)  # beyond, descent on these tasks is unstable: it magnifies rounding
STEPS = 8


def waves(dtype: torch.dtype) -> TaskBatch:
    return sample(sine("huisman"), 3, seeded("theorem one")).to(dtype=dtype)


def weights_after(learner: MAML | MetaLSTM | Turtle, meta: dict[str, torch.Tensor], tasks: TaskBatch) -> torch.Tensor:
    own = {name: torch.cat([tensor] * len(tasks)) for name, tensor in stack([meta]).items()}
    return torch.cat([tensor.flatten(1) for tensor in learner.adapt(own, tasks).weights.values()], 1)


@pytest.mark.parametrize("inner_lr", RATES)
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("preprocessed", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_eight_steps_of_the_lstm_are_gradient_descent(inner_lr, scaled, preprocessed, dtype, tolerance):
    net, tasks = MLP().to(dtype), waves(dtype)
    how = {"preprocessed": preprocessed, "scale_gradient": scaled}
    learner = MetaLSTM(net, STEPS, mean_squared_error, **how)
    start = learner.init(seeded("theorem"))
    meta = gradient_descent(learner, start, inner_lr, examples=5)
    found = weights_after(learner, meta, tasks)
    expected = weights_after(MAML(net, inner_lr, STEPS, mean_squared_error), start, tasks)
    assert float((found - expected).abs().max()) < tolerance
    moved = expected - torch.cat([t.flatten() for n, t in start.items() if n.startswith("theta.")])
    assert bool(expected.isfinite().all()) and float(moved.abs().max()) > inner_lr
    as_printed = meta | {"phi.forget.bias": meta["phi.input.bias"]}  # the bias where the paper prints it
    assert float((weights_after(learner, as_printed, tasks) - expected).abs().max()) > 0.1


@pytest.mark.parametrize(
    ("inner_lr", "bias"), [(0.01, -4.5951), (0.05, -2.9444), (0.1, -2.1972), (0.5, 0), (0.9, 2.1972)]
)
def test_the_bias_of_the_input_gate_is_the_corrected_one(inner_lr, bias):
    learner = MetaLSTM(MLP(), scale_gradient=False)
    meta = gradient_descent(learner, learner.init(seeded("bias")), inner_lr)
    assert float(meta["phi.input.bias"]) == pytest.approx(bias, abs=1e-4)
    assert float(meta["phi.input.bias"]) == pytest.approx(-math.log((1 - inner_lr) / inner_lr), abs=1e-6)
    for dtype in (torch.float32, torch.float64):
        assert float(meta["phi.forget.bias"].to(dtype).sigmoid()) == 1.0, "nothing is forgotten"
    assert not meta["phi.forget.weight"].any() and not meta["phi.input.weight"].any()


def test_a_finite_bias_of_the_forget_gate_shrinks_the_weights():
    learner, tasks = MetaLSTM(MLP(), STEPS, mean_squared_error, scale_gradient=False), waves(torch.float32)
    start = learner.init(seeded("theorem"))
    exact = gradient_descent(learner, start, 0.01)
    expected = weights_after(learner, exact, tasks)
    errors = [
        float((weights_after(learner, exact | {"phi.forget.bias": torch.tensor([bias])}, tasks) - expected).abs().max())
        for bias in (5.0, 10.0, 20.0)
    ]
    assert errors[0] > 1e-2 > errors[1] > 1e-5 > errors[2] == 0.0


def test_dividing_by_the_batch_once_more_puts_learning_rates_out_of_reach():
    scaled, plain = (MetaLSTM(MLP(), scale_gradient=scaling) for scaling in (True, False))
    assert [inner_lr_limit(scaled, examples) for examples in (1, 5, 25)] == [1.0, 0.2, 0.04]
    assert [inner_lr_limit(plain, examples) for examples in (1, 5, 25)] == [1.0, 1.0, 1.0]
    meta = scaled.init(seeded("limit"))
    shares = {
        examples: float(gradient_descent(scaled, meta, 0.01, examples=examples)["phi.input.bias"].sigmoid())
        for examples in (5, 25)
    }
    assert shares == pytest.approx({5: 0.05, 25: 0.25})
    with pytest.raises(ValueError, match=r"between 0 and 0.04, got 0.05: it is a sigmoid over 25 support examples"):
        gradient_descent(scaled, meta, 0.05, examples=25)
    for rate in (0.0, 1.0, -0.1):
        with pytest.raises(ValueError, match=r"expected a learning rate between 0 and 1, got"):
            gradient_descent(plain, meta, rate)


def test_no_input_bias_reaches_the_limit_but_by_rounding():
    """A learning rate as close to the limit as one likes is a finite bias; the limit itself is none."""
    learner = MetaLSTM(MLP().double(), scale_gradient=True)
    meta = learner.init(seeded("limit"))
    for share in (0.9, 0.999, 1 - 1e-12):
        bias = gradient_descent(learner, meta, share / 25, examples=25)["phi.input.bias"]
        reached = float(bias.sigmoid())
        assert reached == pytest.approx(share, rel=1e-12) and reached < 1.0
    assert float(bias.float().sigmoid()) == 1.0, "float32 rounds it up"


def test_a_rule_that_scales_must_know_by_how_much():
    scaled = MetaLSTM(MLP())
    with pytest.raises(
        ValueError, match=r"number of support examples of a task, got none: .* pass examples=ways \* shots"
    ):
        gradient_descent(scaled, scaled.init(seeded("limit")), 0.01)


def test_the_theorem_holds_for_convolutions_with_normalization():
    net, tasks = image_net("support"), cases.image_tasks()
    lstm = MetaLSTM(net, 5, scale_gradient=True)
    start = lstm.init(seeded("theorem"))
    shots = tasks.support.x.shape[1]
    found = weights_after(lstm, gradient_descent(lstm, start, 0.05, examples=shots), tasks)
    expected = weights_after(MAML(net, 0.05, 5), start, tasks)
    assert found.dtype == torch.float64 and float((found - expected).abs().max()) < 1e-12
    assert float((found[0] - found[1]).abs().max()) > 1e-3, "the tasks moved them apart"


def test_a_turtle_with_hidden_layers_is_not_gradient_descent_everywhere():
    learner = Turtle(MLP(), hidden_layers=1)
    with pytest.raises(ValueError, match="expected hidden_layers=0 and 'gradient' among the inputs, got 1"):
        gradient_descent(learner, learner.init(seeded("turtle")), 0.01)


def test_stacked_runs_are_changed_alike():
    for learner in (MetaLSTM(MLP((1, 3, 1))), Turtle(MLP((1, 3, 1)), hidden_layers=0)):
        metas = [learner.init(seeded("runs", seed)) for seed in (1, 2)]
        together = gradient_descent(learner, stack(metas), 0.01, examples=5)
        alone = stack([gradient_descent(learner, meta, 0.01, examples=5) for meta in metas])
        assert together.keys() == alone.keys() and all(torch.equal(together[name], alone[name]) for name in alone)
