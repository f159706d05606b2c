"""Transfer baselines: a new head by Adam on what a frozen body sees, all weights from scratch; in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from mlkit.driver import for_tasks, meta_gradient, stack
from mlkit.evaluation import evaluate
from mlkit.learners import Finetuning, Transfer, with_cosine_head
from mlkit.learners.transfer import CosineHead, drawn_batches, features
from mlkit.losses import ACCURACY
from mlkit.models import MLP
from mlkit.seeding import seeded
from mlkit.tasks.base import Examples

from . import cases
from .learned_rules import EXACT
from .test_finetuning import batches
from .test_gradients import start

CLASSES = 7


def transfer(head: str = "linear", policy: str = "running", **changes: object) -> Transfer:
    network = cases.conv4_of(policy)
    return Transfer(with_cosine_head(network) if head == "cosine" else network, CLASSES, **{"inner_steps": 6} | changes)


def copies(learner: Transfer, count: int = 3) -> dict[str, torch.Tensor]:
    return for_tasks(start(learner), torch.zeros(count, dtype=torch.int64))


def test_training_is_that_of_finetuning():
    learner, tasks = transfer(), batches(3)
    meta = start(learner)
    expected = meta_gradient(Finetuning(learner.model, CLASSES), meta, tasks)
    for how in ({}, {"chunk_size": 2, "workers": 2}):
        found = meta_gradient(learner, meta, tasks, **how)
        assert torch.allclose(found.losses, expected.losses, **EXACT)
        for name, value in (expected.gradients | expected.buffers).items():
            assert torch.allclose((found.gradients | found.buffers)[name], value, **EXACT), name


@pytest.mark.parametrize("head", ["linear", "cosine"])
@pytest.mark.parametrize("policy", ["running", "transductive", "support", "group"])
def test_only_a_new_head_is_trained_by_adam_on_the_features_of_the_frozen_body(head, policy):
    learner, tasks = transfer(head, policy), cases.image_tasks()
    meta = copies(learner)
    found = learner.adapt(meta, tasks, trajectory=True)
    first, last = found.after(0), found.after(6)
    own = learner.adapt(meta, tasks, steps=0)
    seen = features(learner.model, own.weights, own.buffers, tasks.support.x)
    drawn = drawn_batches(Examples(seen, tasks.support.y), tasks.seeds, 4, 6)
    for name, tensor in last.weights.items():
        if not name.startswith("head."):
            assert torch.equal(tensor, meta[f"theta.{name}"]), name
    for task in range(3):
        module = learner.model.head.__class__(seen.shape[-1], cases.WAYS).double()
        module.load_state_dict({n[5:]: t[task] for n, t in first.weights.items() if n.startswith("head.")})
        optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
        for step in range(6):
            batch = drawn(step)
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(batch.x[task]), batch.y[task]).backward()
            optimizer.step()
        for name, parameter in module.named_parameters():
            assert torch.allclose(last.weights[f"head.{name}"][task], parameter, rtol=0, atol=1e-9), name
            assert not torch.equal(first.weights[f"head.{name}"][task], parameter)


def test_from_scratch_all_weights_leave_one_initialization():
    learner, tasks = transfer(policy="transductive", inner_steps=2), cases.image_tasks()
    learner = replace(learner, classes=None)
    meta = copies(learner)
    adapted = learner.adapt(meta, tasks, steps=2, trajectory=True)
    assert all(torch.equal(tensor[0], tensor[2]) for tensor in adapted.after(0).weights.values())
    for name, tensor in adapted.weights.items():
        idle = name.startswith("convolutions") and name.endswith("bias")  # the normalization takes it away
        assert idle or not torch.equal(tensor[0], tensor[2]), name
        assert float((tensor - meta[f"theta.{name}"]).abs().max()) < 2.1e-3, "two steps of Adam"
    with pytest.raises(ValueError, match="expected no meta-training from scratch; pass an outer loop of 0"):
        meta_gradient(learner, start(learner), tasks)


@pytest.mark.parametrize("classes", [None, CLASSES])
def test_scores_do_not_depend_on_how_tasks_are_batched(classes):
    learner, tasks = replace(transfer("cosine"), classes=classes), cases.image_tasks(4)
    meta = stack([{name: tensor[0] for name, tensor in start(learner).items()}] * 2)
    together = evaluate(learner, meta, tasks, metric=ACCURACY, steps=[0, 3, 6], chunk_size=8)
    assert together.shape == (2, 3, 4) and torch.equal(together[0], together[1])
    alone = evaluate(learner, meta, tasks, metric=ACCURACY, steps=[0, 3, 6], chunk_size=1)
    assert torch.equal(alone, together)


def test_batches_are_drawn_with_replacement_by_the_tasks_own_seeds():
    tasks = cases.image_tasks(3)
    drawn = [drawn_batches(tasks.support, tasks.seeds, 4, 200)(step).y for step in range(200)]
    counts = torch.stack(drawn).flatten(0, 0).permute(1, 0, 2)
    assert counts.shape == (3, 200, 4)
    rows = drawn_batches(Examples(torch.arange(6.0).expand(3, 6), tasks.support.y), tasks.seeds, 4, 200)
    picked = torch.stack([rows(step).x for step in range(200)])
    assert bool((picked.sort(-1).values.diff() == 0).any()), "an image may come twice in a batch"
    assert torch.bincount(picked.flatten().long(), minlength=6).min() > 300
    again = drawn_batches(tasks[1:2].support, tasks.seeds[1:2], 4, 200)
    assert torch.equal(again(7).y[0], drawn[7][1])
    assert drawn_batches(tasks.support, tasks.seeds, None, 2)(1) is tasks.support


def test_the_cosine_head_scores_by_direction_and_length():
    head = CosineHead(6, 3).double()
    x = torch.randn(4, 6, generator=seeded("cosine"), dtype=torch.float64)
    linear = nn.utils.parametrizations.weight_norm(nn.Linear(6, 3, bias=False)).double()
    given = linear.parametrizations.weight
    given.load_state_dict({"original0": head.length.detach()[:, None], "original1": head.weight.detach()})
    expected = 2 * linear(x / (x.norm(dim=1, keepdim=True) + 1e-5))
    assert torch.allclose(head(x), expected, **EXACT)
    with torch.no_grad():
        head.length.mul_(3)
        assert torch.allclose(head(x), 3 * expected, **EXACT)
        head.weight.mul_(5)
        assert torch.allclose(head(7 * x), 3 * expected, rtol=1e-4)
    weights = {name: torch.stack([p, 2 * p]) for name, p in head.named_parameters()}
    both = torch.func.functional_call(head, weights, (torch.stack([x, x]),))
    assert torch.allclose(both, torch.stack([head(x), 2 * head(x)]))
    names = {name for name, _ in with_cosine_head(cases.conv4_of("running")).head.named_parameters()}
    assert names == {"weight", "length"}


def test_the_scale_of_cosines_is_kept_by_every_head_that_is_drawn():
    network = with_cosine_head(cases.conv4_of("running"), scale=10.0)
    learner = Transfer(network, CLASSES)
    assert (
        learner.describe()["scale"] == 10.0 and "scale" not in Transfer(with_cosine_head(network), CLASSES).describe()
    )
    plain = with_cosine_head(network)
    plain.head.load_state_dict(network.head.state_dict())
    h = torch.rand(3, network.head.in_features, dtype=torch.float64)
    torch.testing.assert_close(network.head(h), 5 * plain.head(h))
    assert learner._head(7, seeded("head")).keys() == {"theta.head.weight", "theta.head.length"}


def test_the_record_names_the_baseline():
    linear, cosine = transfer().describe(), transfer("cosine").describe()
    assert (linear["learner"], linear["classifier"], cosine["classifier"]) == ("Transfer", "linear", "cosine")
    assert linear["classes"] == CLASSES and replace(transfer(), classes=None).describe()["classes"] is None
    assert {"lr": 1e-3, "inner_steps": 6, "batch_size": 4}.items() <= linear.items()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": MLP()}, "expected a model with a method `features` and a last layer `head`"),
        ({"lr": 0.0}, "expected lr > 0"),
        ({"batch_size": 0}, "expected lr > 0, inner_steps >= 0, batch_size and classes of at least 1 or None"),
    ],
)
def test_wrong_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(transfer(), **changes)
