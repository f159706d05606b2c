"""TURTLE: its meta-network, its inputs by their formulas, MAML as a special case, its meta-gradients; in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from mlkit.driver import for_tasks, meta_gradient, stack
from mlkit.learners import MAML, Turtle, gradient_descent
from mlkit.learners.rule_network import rule_network
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
    smooth_net,
    started,
    turtle,
)

ALL = ("gradient", "loss", "time", "history")
VARIANTS = {
    "as published": {},
    "gradient alone, no alpha": {"inputs": ("gradient",), "learn_inner_lr": False},
    "all inputs": {"inputs": ALL},
    "past gradients": {"history": "past gradients"},
    "past updates": {"history": "past updates", "decay": 0.5},
    "linear": {"hidden_layers": 0},
    "clipped": {"clip_inner": 0.5},
    "checkpointed": {"checkpoint": True, "inputs": ALL, "history": "past updates"},
}


def parameters_of_rule(learner: Turtle) -> int:
    return sum(tensor.numel() for name, tensor in learner.init(seeded()).items() if name.startswith("phi."))


def test_the_meta_network_has_the_published_number_of_parameters_and_alpha_one_for_each_coordinate():
    learner = Turtle(MLP())
    assert parameters_of_rule(learner) == 1761
    assert parameters_of_rule(replace(learner, inputs=("gradient",))) == 1741
    meta = learner.init(seeded("turtle"))
    alpha = torch.cat([tensor.flatten() for name, tensor in meta.items() if name.startswith("inner_lr.")])
    assert len(alpha) == 1761 and float(alpha.min()) >= 0 and float(alpha.max()) < 1
    assert float(alpha.mean()) == pytest.approx(0.5, abs=0.03)
    assert not any(tensor.any() for name, tensor in meta.items() if name.startswith("phi.") and name.endswith("bias"))
    limit = 20**-0.5  # of torch's default, U(-1/sqrt(inputs), 1/sqrt(inputs))
    assert 0.95 * limit < float(meta["phi.body.1.weight"].abs().max()) <= limit
    assert not any(name.startswith("inner_lr.") for name in replace(learner, learn_inner_lr=False).init(seeded()))


def test_a_run_draws_from_its_generator_alone():
    learner = Turtle(MLP((1, 3, 1)), hidden_layers=1)
    one, again, other = (learner.init(seeded("draw", seed)) for seed in (1, 1, 2))
    for name, tensor in one.items():
        assert torch.equal(tensor, again[name])
        drawn = name.startswith("inner_lr.") or not name.endswith("bias")
        assert torch.equal(tensor, other[name]) != drawn, name


@pytest.mark.parametrize("how", [{}, {"first_order": True}, {"clip_inner": 0.05}], ids=str)
def test_linear_with_weight_minus_lr_it_is_maml(how):
    plain = MAML(image_net("support"), 0.1, 5, **how)
    for inputs in (("gradient",), ("history", "gradient")):
        for learned in (True, False):
            learner = Turtle(plain.model, 5, inputs=inputs, hidden_layers=0, learn_inner_lr=learned, **how)
            meta = gradient_descent(learner, stack([learner.init(seeded("maml"))]), 0.1)
            tasks = cases.image_tasks()
            initialization = {name: tensor for name, tensor in meta.items() if name.startswith(("theta.", "buffers."))}
            expected = meta_gradient(plain, initialization, tasks)
            found = meta_gradient(learner, meta, tasks)
            assert torch.allclose(found.losses, expected.losses, **EXACT)
            for name, gradient in expected.gradients.items():
                assert torch.allclose(found.gradients[name], gradient, **EXACT), name
            assert float(found.gradients["phi.head.weight"].abs().max()) > 1e-6, "the rule itself can move on"


@pytest.mark.parametrize("policy", ["transductive", "support", "running", "group"])
def test_meta_gradient_of_images_under_each_normalization(policy):
    check_second_order(turtle(image_net(policy)), cases.image_tasks())


@pytest.mark.parametrize("name", VARIANTS)
def test_second_order_meta_gradient_is_the_derivative_of_the_query_loss(name):
    check_second_order(turtle(**VARIANTS[name]), cases.regression_tasks())


@pytest.mark.parametrize("name", [name for name, how in VARIANTS.items() if how.get("history") != "past updates"])
def test_first_order_takes_what_the_rule_reads_as_constant(name):
    check_first_order(turtle(first_order=True, **VARIANTS[name]), cases.regression_tasks())


@pytest.mark.parametrize("first_order", [False, True])
def test_in_first_order_updates_that_are_read_are_constants_too(first_order):
    learner, tasks = turtle(first_order=first_order, history="past updates"), cases.regression_tasks()
    own = {name: tensor.requires_grad_() for name, tensor in for_tasks(started(learner), torch.zeros(4).long()).items()}
    update, state = learner.rule(own, tasks)
    weights = {name[6:]: tensor for name, tensor in own.items() if name.startswith("theta.")}
    slopes = {name: torch.ones_like(tensor) for name, tensor in weights.items()}
    weights, (time, history) = update(weights, slopes, torch.ones(4), state)
    assert time == 1 and history.requires_grad != first_order
    assert all(tensor.requires_grad for tensor in weights.values())


@pytest.mark.parametrize("first_order", [False, True])
def test_chunks_workers_and_runs_change_nothing(first_order):
    for name in ("as published", "all inputs", "past updates"):
        check_chunks(turtle(first_order=first_order, **VARIANTS[name]), cases.regression_tasks(5))
    check_chunks(turtle(image_net("running"), first_order=first_order), cases.image_tasks(5))
    check_runs(turtle(first_order=first_order))


def plain_loop(learner: Turtle, meta: dict[str, torch.Tensor], tasks) -> dict[str, torch.Tensor]:
    """The mathematics once more, task by task, by torch's own modules alone: the mean of the meta-gradients."""
    sums = {name: torch.zeros_like(tensor[0]) for name, tensor in meta.items()}
    for index in range(len(tasks)):
        learned = {name: tensor[0].clone().requires_grad_() for name, tensor in meta.items()}
        names = [name.removeprefix("theta.") for name in learned if name.startswith("theta.")]
        theta = {name: learned[f"theta.{name}"] for name in names}
        history = None
        for _ in range(learner.inner_steps):
            outputs = torch.func.functional_call(learner.model, theta, (tasks.support.x[index],))
            loss = nn.functional.mse_loss(outputs, tasks.support.y[index])
            slopes = torch.autograd.grad(loss, list(theta.values()), create_graph=True)
            gradient = torch.cat([slope.flatten() for slope in slopes])
            history = gradient if history is None else 0.9 * history + 0.1 * gradient
            seen = torch.stack([gradient, history], 1)
            for layer in range(learner.hidden_layers):
                weight, bias = (learned[f"phi.body.{layer}.{kind}"] for kind in ("weight", "bias"))
                seen = torch.relu(nn.functional.linear(seen, weight, bias))
            move = nn.functional.linear(seen, learned["phi.head.weight"], learned["phi.head.bias"])[:, 0]
            moves = dict(zip(names, move.split([t.numel() for t in theta.values()]), strict=True))
            theta = {n: theta[n] + learned[f"inner_lr.{n}"] * moves[n].view_as(theta[n]) for n in names}
        outputs = torch.func.functional_call(learner.model, theta, (tasks.query.x[index],))
        found = torch.autograd.grad(nn.functional.mse_loss(outputs, tasks.query.y[index]), list(learned.values()))
        for total, gradient in zip(sums.values(), found, strict=True):
            total += gradient / len(tasks)
    return sums


def test_it_is_what_a_plain_loop_over_tasks_computes():
    learner, tasks = turtle(inner_steps=4), cases.regression_tasks()
    meta = started(learner)
    found = meta_gradient(learner, meta, tasks).gradients
    for name, gradient in plain_loop(learner, meta, tasks).items():
        assert torch.allclose(found[name][0], gradient, **EXACT), name


@pytest.mark.parametrize("sizes", [(2, 5, 5, 1), (3, 1), (1, 4, 2)])
@pytest.mark.parametrize("block", [4, 7, 2048])
def test_the_rule_is_an_mlp_whatever_the_blocks_of_coordinates(monkeypatch, sizes, block):
    """The output and all gradients, against torch's own layers, task by task; 9 coordinates end within a block."""
    monkeypatch.setattr("mlkit.learners.rule_network.BLOCK", block)
    nets = [MLP(sizes).double() for _ in range(3)]
    x = torch.randn(3, sizes[0], 9, generator=seeded("rule"), dtype=torch.float64).requires_grad_()
    layers = [[*net.body, net.head] for net in nets]
    with torch.no_grad():
        for net in layers:
            for layer in net:
                layer.bias.normal_(generator=seeded("bias"))
    pairs = list(zip(*layers, strict=True))
    weights = [torch.stack([layer.weight for layer in same]) for same in pairs]
    biases = [torch.stack([layer.bias for layer in same]) for same in pairs]
    found = rule_network(x, weights, biases)
    expected = torch.stack([net(own.mT).mT for net, own in zip(nets, x, strict=True)])
    assert torch.allclose(found, expected, **EXACT)
    cotangent = torch.randn(found.shape, generator=seeded("cotangent"), dtype=torch.float64)
    at = [x, *(parameter for net in nets for parameter in net.parameters())]
    ours, theirs = (torch.autograd.grad(y, at, cotangent) for y in (found, expected))
    assert all(torch.allclose(one, other, **EXACT) for one, other in zip(ours, theirs, strict=True))


def test_a_rule_can_be_differentiated_again():
    x = torch.randn(2, 2, 9, generator=seeded("again"), dtype=torch.float64).requires_grad_()
    layers = [torch.randn(2, *shape, generator=seeded(*shape), dtype=torch.float64) for shape in ((4, 2), (1, 4))]
    layers += [torch.randn(2, size, generator=seeded(size), dtype=torch.float64) for size in (4, 1)]
    layers[0].requires_grad_()

    def twice(weights: list[torch.Tensor], y: torch.Tensor) -> list[torch.Tensor]:
        slope, of_weight = torch.autograd.grad(y.square().sum(), [x, weights[0]], create_graph=True)
        return torch.autograd.grad(slope.square().sum() + of_weight.square().sum(), [x, weights[0]])

    hidden = torch.relu(layers[0] @ x + layers[2][..., None])
    expected = twice(layers, layers[1] @ hidden + layers[3][..., None])
    found = twice(layers, rule_network(x, layers[:2], layers[2:]))
    assert all(torch.allclose(one, other, **EXACT) for one, other in zip(found, expected, strict=True))
    assert float(expected[0].abs().max()) > 0.1


def moves(reads: str, **how: object) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Let a coordinate move by what it reads; return moves, gradients (steps, tasks, n), losses (steps, tasks)."""
    tasks, maml = cases.regression_tasks(), MAML(smooth_net(), 0.1, 1, mean_squared_error)
    learner = turtle(inputs=(reads,), hidden_layers=0, learn_inner_lr=False, inner_steps=4, **how)
    meta = learner.init(seeded("moves")) | {"phi.head.weight": torch.full((1, 1), -0.1, dtype=torch.float64)}
    own = for_tasks(stack([meta]), torch.zeros(len(tasks), dtype=torch.int64))
    path = learner.adapt(own, tasks, trajectory=True)
    states = [torch.cat([t.flatten(1) for t in path.after(step).weights.values()], 1) for step in range(5)]
    slopes = []
    for step in range(4):
        at = {f"theta.{name}": tensor for name, tensor in path.after(step).weights.items()}
        end = maml.adapt(at, tasks).weights
        slopes.append((states[step] - torch.cat([tensor.flatten(1) for tensor in end.values()], 1)) / 0.1)
    found = torch.stack([(states[step + 1] - states[step]) / -0.1 for step in range(4)])
    return found, torch.stack(slopes), path.losses


def test_a_coordinate_reads_its_gradient_the_loss_and_the_time():
    found, slopes, _ = moves("gradient")
    assert torch.allclose(found, slopes, **EXACT)
    found, _, losses = moves("loss")
    assert torch.allclose(found, losses[..., None].expand_as(found), **EXACT)
    found, *_ = moves("time")
    assert torch.allclose(found, torch.arange(4.0).view(4, 1, 1).double().expand_as(found), **EXACT)


def test_histories_are_those_of_the_formulas():
    found, slopes, _ = moves("history", decay=0.9)
    expected = slopes[0]
    for step in range(4):
        expected = slopes[0] if step == 0 else 0.9 * expected + 0.1 * slopes[step]
        assert torch.allclose(found[step], expected, **EXACT)
    found, slopes, _ = moves("history", history="past gradients", decay=0.7)
    expected = torch.zeros_like(slopes[0])
    for step in range(4):
        assert torch.allclose(found[step], expected, **EXACT)
        expected = 0.7 * expected + 0.3 * slopes[step]
    found, *_ = moves("history", history="past updates")
    assert not found.any(), "zero moves from a history of zero moves"


def test_past_updates_are_those_of_the_weights_alpha_included():
    learner = turtle(inputs=("gradient", "history"), hidden_layers=0, history="past updates", decay=0.6)
    tasks, meta = cases.regression_tasks(), started(learner)
    own = for_tasks(meta, torch.zeros(len(tasks), dtype=torch.int64))
    path = learner.adapt(own, tasks, trajectory=True)
    names = list(path.weights)
    alpha, (weight, bias) = own["inner_lr.0.weight"], (own["phi.head.weight"], own["phi.head.bias"])
    states = [path.after(step).weights[names[0]] for step in range(4)]
    history = torch.zeros_like(states[0])
    maml = MAML(learner.model, 1.0, 1, mean_squared_error)
    for step in range(3):
        at = {f"theta.{name}": tensor for name, tensor in path.after(step).weights.items()}
        slope = states[step] - maml.adapt(at, tasks).weights[names[0]]
        move = alpha * (weight[:, :, :1] * slope + weight[:, :, 1:] * history + bias[..., None])
        assert torch.allclose(states[step + 1] - states[step], move, **EXACT)
        history = 0.6 * history + 0.4 * move


def test_the_record_names_what_decides_the_result_and_nothing_else():
    said = turtle(history="past updates").describe()
    assert said["learner"] == "TURTLE" and said["inputs"] == ["gradient", "history"]
    assert (said["history"], said["decay"], said["width"]) == ("past updates", 0.9, 5)
    linear = turtle(inputs=("gradient",), hidden_layers=0, checkpoint=True).describe()
    assert not {"history", "decay", "width", "checkpoint"} & linear.keys()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": ()}, "expected some of the inputs gradient, loss, time, history, each once; got"),
        ({"inputs": ("gradient", "gradient")}, "each once"),
        ({"inputs": ("momentum",)}, "expected some of the inputs"),
        ({"history": "updates"}, "expected a history out of gradients, past gradients, past updates; got 'updates'"),
        ({"decay": 1.5}, "expected decay from 0 to 1"),
        ({"hidden_layers": -1}, "hidden_layers >= 0"),
        ({"inner_steps": -1}, "expected inner_steps >= 0, got -1"),
    ],
)
def test_wrong_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(turtle(), **changes)
