"""The meta-learner LSTM: its cells against torch's own, its inputs, its meta-gradients; in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from mlkit.driver import for_tasks, meta_gradient
from mlkit.learners import MetaLSTM
from mlkit.learners.coordinates import flatten, preprocess, unflatten
from mlkit.learners.meta_lstm import gate, lstm_cell
from mlkit.losses import mean_squared_error
from mlkit.models import MLP
from mlkit.seeding import seeded

from . import cases
from .learned_rules import (
    EXACT,
    check_chunks,
    check_first_order,
    check_runs,
    check_second_order,
    image_net,
    lstm,
    started,
)

VARIANTS = {
    "enhanced": {},
    "second order, preprocessed": {"preprocessed": True},
    "not scaled": {"scale_gradient": False},
    "checkpointed": {"checkpoint": True, "preprocessed": True},
}
TASKS, COORDINATES, WIDTH = 3, 7, 4


def some(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=seeded("lstm", *shape), dtype=torch.float64)


def test_it_has_the_published_number_of_parameters_and_starts_close_to_gradient_descent():
    for learner, count in ((MetaLSTM(MLP()), 2080), (MetaLSTM(MLP(), preprocessed=False), 1840)):
        meta = learner.init(seeded("init"))
        rule = {name: tensor for name, tensor in meta.items() if name.startswith("phi.")}
        assert sum(tensor.numel() for name, tensor in rule.items() if ".lstm." in name) == count
        gates = [rule[f"phi.{name}.{kind}"].numel() for name in ("forget", "input") for kind in ("weight", "bias")]
        assert gates == [22, 1, 22, 1] and sum(tensor.numel() for tensor in rule.values()) == count + 46
        assert 4 <= float(rule["phi.forget.bias"]) <= 6 and -5 <= float(rule["phi.input.bias"]) <= -4
        others = torch.cat([tensor.flatten() for name, tensor in rule.items() if not name.endswith(".bias")])
        assert 0.0099 < float(others.abs().max()) <= 0.01


def test_each_task_has_an_lstm_like_torchs_that_its_coordinates_share():
    cells = [nn.LSTMCell(2, WIDTH, dtype=torch.float64) for _ in range(TASKS)]
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    weights = {name: torch.stack([getattr(cell, name).detach() for cell in cells]) for name in names}
    x, hidden, cell = some(TASKS, COORDINATES, 2), some(TASKS, COORDINATES, WIDTH), some(TASKS, COORDINATES, WIDTH) / 2
    found = [state.mT for state in lstm_cell(weights, x.mT, hidden.mT, cell.mT)]
    for task, own in enumerate(cells):
        expected = own(x[task], (hidden[task], cell[task]))
        assert all(torch.allclose(one[task], other, **EXACT) for one, other in zip(found, expected, strict=True))


def test_a_gate_reads_hidden_state_weight_and_itself():
    weights = {"weight": some(TASKS, WIDTH + 2), "bias": some(TASKS, 1)}
    hidden, theta, before = some(TASKS, COORDINATES, WIDTH), some(TASKS, COORDINATES), some(TASKS, COORDINATES) / 3
    read = torch.cat([hidden, theta[..., None], before[..., None]], -1)
    expected = torch.einsum("tnk,tk->tn", read, weights["weight"]) + weights["bias"]
    assert torch.allclose(gate(weights, hidden.mT, theta, before), expected, **EXACT)


def test_preprocessing_tells_size_from_sign_and_is_continuous_in_size():
    x = torch.tensor([1.0, -1.0, 0.0, 2.0, -1e-3, 1e-6], dtype=torch.float64)
    found = preprocess(x)
    assert found[:2].tolist() == [[0.0, 1.0], [0.0, -1.0]] and found[2].tolist() == [-1.0, 0.0]
    assert found[3].tolist() == pytest.approx([0.0693147, 1.0])
    assert found[4].tolist() == pytest.approx([-0.6907755, -1.0])
    assert found[5].tolist() == pytest.approx([-1.0, 1e-6 * 22026.4657948])
    edge = torch.tensor([1.0], dtype=torch.float64) * torch.exp(torch.tensor(-10.0, dtype=torch.float64))
    for value, sign in ((edge * (1 + 1e-12), 1.0), (-edge * (1 - 1e-12), -1.0)):
        assert preprocess(value)[0].tolist() == pytest.approx([-1.0, sign])
    assert torch.equal(preprocess(x.view(2, 3))[1, :, 2], found[5]), "the two numbers follow the axis of tasks"
    at = x.clone().requires_grad_()
    assert bool(torch.autograd.grad(preprocess(at).sum(), at)[0].isfinite().all())


def test_coordinates_are_cut_as_they_were_joined():
    weights = {"b": some(2, 3, 2), "a": some(2, 4)}
    joined = flatten(weights)
    assert joined.shape == (2, 10) and torch.equal(joined[1, :6].view(3, 2), weights["b"][1])
    again = unflatten(joined, weights)
    assert list(again) == ["b", "a"] and all(torch.equal(again[name], weights[name]) for name in weights)


def test_a_step_is_that_of_the_equations():
    """Two steps of a task, by torch's LSTMCell and the two gates, which are fed back before the sigmoid."""
    learner, tasks = lstm(inner_steps=2, preprocessed=True), cases.regression_tasks(1)
    meta = started(learner)
    phi = {name[4:]: tensor[0] for name, tensor in meta.items() if name.startswith("phi.")}
    cell = nn.LSTMCell(4, WIDTH, dtype=torch.float64)
    cell.load_state_dict({name[5:]: tensor for name, tensor in phi.items() if name.startswith("lstm.")})
    names = [name[6:] for name in meta if name.startswith("theta.")]
    theta = {name: meta[f"theta.{name}"][0] for name in names}
    count = sum(tensor.numel() for tensor in theta.values())
    state, f, i = None, torch.zeros(count, 1).double(), torch.zeros(count, 1).double()
    for _ in range(2):
        at = {name: tensor.detach().requires_grad_() for name, tensor in theta.items()}
        loss = (
            (torch.func.functional_call(learner.model, at, (tasks.support.x[0],)) - tasks.support.y[0]).square().mean()
        )
        slopes = torch.autograd.grad(loss, list(at.values()))
        gradient = torch.cat([slope.flatten() for slope in slopes]) / 5  # five examples
        flat = torch.cat([tensor.detach().flatten() for tensor in at.values()])[:, None]
        state = cell(torch.cat([preprocess(gradient), preprocess(loss.detach()[None]).expand(count, 2)], 1), state)
        f = torch.cat([state[0], flat, f], 1) @ phi["forget.weight"][:, None] + phi["forget.bias"]
        i = torch.cat([state[0], flat, i], 1) @ phi["input.weight"][:, None] + phi["input.bias"]
        flat = (f.sigmoid() * flat - i.sigmoid() * gradient[:, None])[:, 0]
        parts = flat.split([tensor.numel() for tensor in theta.values()])
        theta = {name: part.view_as(at[name]).detach() for name, part in zip(names, parts, strict=True)}
    found = learner.adapt(meta, tasks).weights
    assert all(torch.allclose(found[name][0], theta[name], **EXACT) for name in names)


@pytest.mark.parametrize("name", VARIANTS)
def test_second_order_meta_gradient_is_the_derivative_of_the_query_loss(name):
    check_second_order(lstm(**VARIANTS[name]), cases.regression_tasks())


@pytest.mark.parametrize("policy", ["transductive", "support", "running", "group"])
def test_meta_gradient_of_images_under_each_normalization(policy):
    check_second_order(lstm(image_net(policy)), cases.image_tasks())


@pytest.mark.parametrize("name", VARIANTS)
def test_first_order_takes_gradients_and_losses_as_constant(name):
    check_first_order(lstm(first_order=True, **VARIANTS[name]), cases.regression_tasks())


@pytest.mark.parametrize("first_order", [False, True])
def test_chunks_workers_and_runs_change_nothing(first_order):
    for name in ("enhanced", "second order, preprocessed"):
        check_chunks(lstm(first_order=first_order, **VARIANTS[name]), cases.regression_tasks(5))
    check_chunks(lstm(image_net("running"), first_order=first_order), cases.image_tasks(5))
    check_runs(lstm(first_order=first_order, preprocessed=True))


def test_a_task_adapts_by_its_own_rule():
    learner, tasks = lstm(), cases.regression_tasks(2)
    meta = for_tasks(started(learner, 1, 2), torch.tensor([0, 1]))
    both = learner.adapt(meta, tasks, steps=2, trajectory=True)
    assert len(both.trajectory) == 3 and both.losses.shape == (2, 2)
    for task in (0, 1):
        own = {name: tensor[task : task + 1] for name, tensor in meta.items()}
        alone = learner.adapt(own, tasks[task : task + 1], steps=2).weights
        assert all(torch.allclose(both.weights[name][task], tensor[0], **EXACT) for name, tensor in alone.items())


def test_the_record_names_the_variant():
    said = MetaLSTM(smooth := MLP((1, 3, 1)), loss=mean_squared_error).describe()
    assert said["learner"] == "meta-learner LSTM" and said["first_order"] and said["preprocessed"]
    assert said["forget_bias"] == [4.0, 6.0] and "checkpoint" not in said
    assert said != MetaLSTM(smooth, loss=mean_squared_error, scale_gradient=False).describe()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inner_steps": -1}, "expected inner_steps >= 0, got -1"),
        ({"forget_bias": (5.0, 4.0)}, r"expected forget_bias as a range \(low, high\), got \(5.0, 4.0\)"),
        ({"width": 0}, "expected width >= 1, got 0"),
    ],
)
def test_wrong_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(lstm(), **changes)


def test_the_gradient_is_divided_by_the_examples_once_more():
    learner, tasks = lstm(inner_steps=1), cases.regression_tasks()
    meta = started(learner)
    meta |= {name: torch.zeros_like(tensor) for name, tensor in meta.items() if name.endswith("t.weight")}
    own = for_tasks(meta, torch.zeros(len(tasks), dtype=torch.int64))
    scaled, plain = (
        flatten(one.adapt(own, tasks).weights) for one in (learner, replace(learner, scale_gradient=False))
    )
    kept = own["phi.forget.bias"].sigmoid() * flatten({n[6:]: t for n, t in own.items() if n.startswith("theta.")})
    assert torch.allclose(5 * (scaled - kept), plain - kept, **EXACT)
    assert meta_gradient(learner, meta, tasks).losses.shape == (1, 4)


def test_statistics_can_begin_anew_with_every_task():
    """Then what earlier tasks left in the running averages does not reach a prediction; else it does."""
    learner, tasks = lstm(image_net("running")), cases.image_tasks(2)
    meta = started(learner)
    used = meta | {name: tensor + 1 for name, tensor in meta.items() if name.startswith("buffers.")}

    def predicted(learner, meta):
        own = for_tasks(meta, torch.zeros(len(tasks), dtype=torch.int64))
        return learner.predict(learner.adapt(own, tasks), tasks.query.x)

    anew = replace(learner, reset_statistics=True)
    assert not torch.allclose(predicted(learner, meta), predicted(learner, used))
    assert torch.equal(predicted(anew, meta), predicted(anew, used))
    assert torch.equal(predicted(anew, meta), predicted(learner, meta)), "fresh averages are those of the model"
    found = [meta_gradient(each, used, tasks) for each in (learner, anew)]
    for name, gradient in found[0].gradients.items():
        assert torch.allclose(gradient, found[1].gradients[name], **EXACT), "training goes by batch statistics"
    assert "reset_statistics" not in learner.describe() and anew.describe()["reset_statistics"]
