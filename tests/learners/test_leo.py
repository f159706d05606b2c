"""LEO: its parts by their formulas, both presets, meta-gradients against differences, and that it learns."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from mlkit.driver import meta_gradient, stack
from mlkit.evaluation import evaluate
from mlkit.learners import LEO, MAML, CodeWatch, codes_along, leo_outer_loop
from mlkit.losses import ACCURACY
from mlkit.models import SoftmaxClassifier
from mlkit.outer import Execution, OuterLoop
from mlkit.seeding import seeded
from mlkit.tasks import TaskBatch, frozen
from mlkit.training import train

from . import leo_cases
from .learned_rules import EXACT, direction
from .leo_cases import FEATURES, LATENTS, WAYS, feature_tasks, gaussians, leo, own
from .test_gradients import directional, start

ADAM = partial(torch.optim.Adam, lr=0.01)
VARIANTS = tuple(leo_cases.VARIANTS)


def test_the_presets_have_the_numbers_of_parameters_of_paper_and_code():
    def parameters(learner: LEO) -> int:
        return sum(tensor.numel() for tensor in learner.init(seeded()).values())

    assert parameters(LEO.v3()) == parameters(LEO.v3(5)) == 40_960 + 49_152 + 81_920 + 64 + 640 == 172_736
    assert parameters(LEO.v1()) == 640 * 128 + 64 * 1280
    assert parameters(LEO.v1(5)) == 640 * 256 + 256 * 128 + 64 * 256 + 256 * 1280
    limit = math.sqrt(6 / (640 + 64))  # Glorot, uniform
    assert 0.99 * limit < float(LEO.v3().init(seeded())["phi.encoder.0"].abs().max()) <= limit


def test_the_presets_differ_as_paper_and_code_do():
    one, three = LEO.v1(), LEO.v3(5)
    assert (one.inner_steps, one.test_steps, one.finetuning_steps, one.learn_inner_lr) == (3, 6, 0, False)
    assert (three.inner_steps, three.test_steps, three.finetuning_steps, three.learn_inner_lr) == (5, None, 5, True)
    assert (three.dropout, three.kl, three.l2) == (0.300299, 0.466387, 8.540338e-9)
    assert LEO.v3(data="tiered_imagenet").orthogonality == 5.451078e-3 and LEO.v3(kl=0.0).kl == 0
    outer = leo_outer_loop("v3", 5)
    assert (outer.clip_value, outer.clip_norm, outer.meta_batch) == (0.1, 0.1, 12)
    assert outer.optimizer.keywords["lr"] == 4.102361e-4 and leo_outer_loop("v1").optimizer.keywords["lr"] == 1e-3
    assert leo_outer_loop("v1", iterations=7, meta_batch=2).iterations == 7


def difference(learner: LEO, meta: dict[str, torch.Tensor], tasks: TaskBatch, along: dict[str, torch.Tensor]) -> float:
    """The derivative of the mean loss of training, penalties included, by central differences."""
    step = 1e-7  # the divergence bends sharply where deviations are small
    ends = [{name: tensor + sign * step * along[name] for name, tensor in meta.items()} for sign in (1, -1)]
    ahead, behind = (float(meta_gradient(learner, end, tasks).losses.mean()) for end in ends)
    return (ahead - behind) / (2 * step)


@pytest.mark.parametrize("name", VARIANTS)
def test_second_order_meta_gradient_is_the_derivative_of_the_loss_through_the_latent_inner_loop(name):
    learner, tasks = leo(name), feature_tasks()
    meta = start(learner)
    found = meta_gradient(learner, meta, tasks).gradients
    assert all(float(gradient.abs().max()) > 0 for gradient in found.values())
    for seed in range(2):
        along = direction(found, seed)
        expected = difference(learner, meta, tasks, along)
        assert abs(directional(found, along) - expected) < 1e-6 * max(1, abs(expected))


def test_first_order_takes_another_gradient():
    learner, tasks = leo(), feature_tasks()
    second, first = (
        meta_gradient(replace(learner, first_order=order), start(learner), tasks) for order in (False, True)
    )
    assert torch.allclose(first.losses, second.losses, **EXACT)
    assert not torch.allclose(first.gradients["phi.decoder.0"], second.gradients["phi.decoder.0"], atol=1e-4)


@pytest.mark.parametrize("name", VARIANTS)
def test_tasks_one_by_one_and_batched_give_the_same_in_training_and_evaluation(name):
    learner, tasks = leo(name, encoder_penalty=0.5), feature_tasks(5)
    meta = start(learner)
    loop = meta_gradient(learner, meta, tasks, chunk_size=1)
    for how in ({"chunk_size": None}, {"chunk_size": 2, "query_chunk": 1}, {"chunk_size": 2, "workers": 2}):
        other = meta_gradient(learner, meta, tasks, **how)
        assert torch.allclose(other.losses, loop.losses, **EXACT)
        for key, gradient in loop.gradients.items():
            assert torch.allclose(other.gradients[key], gradient, **EXACT), (how, key)
    together = learner.adapt(own(learner, 5), tasks)
    alone = [learner.adapt(own(learner, 1), tasks[i : i + 1]).weights["weight"] for i in range(5)]
    assert torch.allclose(together.weights["weight"], torch.cat(alone), **EXACT)


@pytest.mark.parametrize("name", VARIANTS)
def test_evaluation_repeats_exactly_whatever_was_drawn_before(name):
    learner, tasks = leo(name, dropout=0.9), feature_tasks(6)
    scores = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        adapted = learner.adapt(own(learner, 6), tasks)
        scores.append(
            (adapted.weights["weight"], evaluate(learner, start(learner), tasks, metric=ACCURACY, chunk_size=4))
        )
    assert torch.equal(scores[0][0], scores[1][0]) and torch.equal(scores[0][1], scores[1][1])
    other = learner.adapt(own(learner, 6), replace(tasks, seeds=tasks.seeds + 1)).weights["weight"]
    assert torch.equal(other, scores[0][0]) == (name != "random prior"), "only a prior looks at the seed"
    assert not adapted.weights["weight"].requires_grad


def plain(learner: LEO, meta: dict[str, torch.Tensor], x: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    """The public code once more, one task, as at meta-test: every pair concatenated, a weight vector for each code."""
    ways, shots = WAYS, len(x) // WAYS
    labels = torch.arange(ways).repeat_interleave(shots)
    codes = x @ meta["phi.encoder.0"].T
    pairs = torch.cat([codes.repeat_interleave(len(x), 0), codes.repeat(len(x), 1)], 1)
    for layer in range(3):
        pairs = pairs @ meta[f"phi.relation.{layer}"].T
        pairs = torch.relu(pairs) if layer < 2 else pairs
    means = pairs.view(len(x), len(x), -1).mean(1).view(ways, shots, -1).mean(1, keepdim=True)[..., :LATENTS]
    z = means.expand(ways, shots, LATENTS).clone().requires_grad_()

    def loss(w: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(torch.einsum("nd,wkd->nwk", x, w).mean(-1), labels, reduction="sum")

    def decode(z: torch.Tensor) -> torch.Tensor:
        return (z @ meta["phi.decoder.0"].T)[..., :FEATURES]

    for _ in range(learner.inner_steps):
        z = z - meta["inner_lr.codes"] * torch.autograd.grad(loss(decode(z)), z)[0]
    w = decode(z)
    for _ in range(learner.finetuning_steps):
        w = w - meta["inner_lr.weights"] * torch.autograd.grad(loss(w), w)[0]
    return torch.einsum("nd,wkd->nwk", query, w).mean(-1)


def test_it_is_what_a_plain_loop_of_the_public_code_computes():
    learner, tasks = leo("v3", inner_steps=3), feature_tasks(shots=4)
    meta = start(learner)
    one = {name: tensor[0] for name, tensor in meta.items()}
    scores = learner.predict(learner.adapt(own(learner), tasks), tasks.query.x)
    for index in range(len(tasks)):
        expected = plain(learner, one, tasks.support.x[index], tasks.query.x[index])
        assert torch.allclose(scores[index], expected, **EXACT)


def test_every_step_can_be_scored_and_its_codes_looked_at():
    learner, tasks = leo("v3", finetuning_steps=2), feature_tasks()
    scores = evaluate(learner, start(learner), tasks, metric=ACCURACY, steps=(0, 2, 4))
    assert scores.shape == (1, 3, 3)
    assert torch.equal(scores[:, 2], evaluate(learner, start(learner), tasks, metric=ACCURACY))
    path = learner.adapt(own(learner), tasks, steps=5, trajectory=True)
    assert len(path.trajectory) == 6 and path.losses.shape == (5, 3), "2 of the codes, 3 of the weights"
    seen = codes_along(learner, start(learner), tasks, steps=5)
    assert seen.codes.shape == (3, 3, WAYS, LATENTS) and seen.tuned.shape == (3, 4, WAYS, FEATURES)
    states = torch.stack([weights["weight"] for weights, _ in path.trajectory], 1)
    assert torch.equal(seen.classifiers, states[:, :3]) and torch.equal(seen.tuned, states[:, 2:])
    assert torch.equal(seen.losses, path.losses.T)
    more = leo("v1", test_steps=4)
    assert len(more.adapt(own(more), tasks, trajectory=True).trajectory) == 5
    assert codes_along(more, start(more), tasks).codes.shape[1] == 5
    assert codes_along(more, start(more), tasks, steps=0).losses.shape == (3, 0)


def test_adaptation_lowers_the_support_loss():
    for name in VARIANTS:
        learner = leo(name, inner_steps=8)
        losses = learner.adapt(own(learner), feature_tasks()).losses
        assert float(losses[-1].mean()) < float(losses[0].mean()), name


def test_penalties_are_added_to_the_loss_and_the_target_of_the_encoder_is_held_fixed():
    tasks, learner = feature_tasks(), leo("v3", dropout=0.0, kl=0.0, l2=0.0, orthogonality=0.0, deterministic=True)
    meta = start(learner)
    bare = meta_gradient(learner, meta, tasks)
    seen = codes_along(learner, meta, tasks)
    moved = (seen.codes[:, -1] - seen.codes[:, 0]).square().mean((1, 2))
    pulled = meta_gradient(replace(learner, encoder_penalty=2.0), meta, tasks)
    assert torch.allclose(pulled.losses - bare.losses, 2 * moved[None], **EXACT)
    decoder = "phi.decoder.0"  # moves the target alone
    assert torch.allclose(pulled.gradients[decoder], bare.gradients[decoder], **EXACT)
    assert not torch.allclose(pulled.gradients["phi.encoder.0"], bare.gradients["phi.encoder.0"], atol=1e-4)
    decayed = meta_gradient(replace(learner, l2=0.5), meta, tasks).gradients
    assert torch.allclose(decayed[decoder] - bare.gradients[decoder], 0.5 * meta[decoder], **EXACT)


def test_without_sampling_and_dropout_the_seeds_of_tasks_do_not_matter():
    tasks = feature_tasks()
    other = replace(tasks, seeds=tasks.seeds + 1)
    for how, same in (
        ({"deterministic": True, "dropout": 0.0}, True),
        ({"dropout": 0.0}, False),
        ({"deterministic": True}, False),
    ):
        learner = leo(**how)
        losses = [meta_gradient(learner, start(learner), batch).losses for batch in (tasks, other)]
        assert torch.equal(*losses) == same, how


@pytest.mark.parametrize("version", ["v1", "v3"])
def test_a_small_one_learns_and_its_codes_are_watched(version):
    how = {"features": 12, "ways": WAYS, "latents": 4, "dropout": 0.1, "kl": 1e-3, "orthogonality": 1e-3}
    learner = LEO.v1(**how) if version == "v1" else LEO.v3(**how)
    test = frozen(gaussians("test"), 200, 0)
    watched = {"codes": CodeWatch(tasks=20).on(learner, test.tasks)}
    outer = OuterLoop(80, 8, ADAM, clip_value=0.1, clip_norm=0.1, validate_every=40)
    quiet = Execution(progress=False)
    found = train(learner, gaussians("train"), outer, seeds=[0, 1], metric=ACCURACY, trackers=watched, execution=quiet)
    first = stack([learner.init(seeded("initialization", seed)) for seed in (0, 1)])
    before, after = (evaluate(learner, meta, test, metric=ACCURACY).mean() for meta in (first, found.last))
    assert after > before + 0.05 and after > 0.6
    for name in ("code_variance", "adapted_code_variance", "active_latents", "code_deviation"):
        assert found.history[name].shape == (3, 2) and bool((found.history[name] > 0).all()), name


def test_maml_adapts_a_linear_softmax_on_the_same_features():
    learner, test = MAML(SoftmaxClassifier(12, WAYS), 1.0, 3), frozen(gaussians("test"), 200, 0)
    outer = OuterLoop(40, 8, partial(torch.optim.Adam, lr=0.05), validate_every=40)
    found = train(learner, gaussians("train"), outer, seeds=[0], metric=ACCURACY, execution=Execution(progress=False))
    first = stack([learner.init(seeded("initialization", 0))])
    before, after = (evaluate(learner, meta, test, metric=ACCURACY).mean() for meta in (first, found.last))
    assert after > before + 0.05 and learner.describe()["features"] == 12


def test_the_record_names_what_decides_the_result():
    said = leo("v3, hidden layer").describe()
    assert said["learner"] == "LEO" and said["hidden"] == [5] and said["version"] == "v3"
    assert LEO.v3().describe()["parameters"] == 172_736 and said["normalization"] == "none"
    assert leo("random prior").describe() != leo("v3", finetuning_steps=1).describe()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": "v2"}, "expected a version out of v1, v3; got 'v2'"),
        ({"start": "posterior"}, "expected a start out of encoder, prior; got 'posterior'"),
        ({"dropout": 1.0}, r"expected dropout in \[0, 1\)"),
        ({"inner_steps": -1}, "expected numbers of steps >= 0"),
        ({"hidden": (0,)}, r"hidden=\(0,\)"),
        ({"latents": 0}, "latents=0"),
    ],
)
def test_wrong_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        leo(**changes)


def test_presets_name_what_they_know():
    with pytest.raises(ValueError, match="expected data out of mini_imagenet, tiered_imagenet, got 'cub'"):
        LEO.v3(data="cub")
    with pytest.raises(ValueError, match="expected a version out of v1, v3; got 'v2'"):
        leo_outer_loop("v2")
    with pytest.raises(ValueError, match="at least 2 tasks"):
        CodeWatch(tasks=1)
