"""The parts of LEO by their formulas: Gaussians, noise, regularizers, classes, and the watch over codes."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from mlkit.driver import stack
from mlkit.evaluation import evaluate
from mlkit.learners import MAML, CodeWatch
from mlkit.learners.leo_parts import Draws, Gaussian, by_class, cosine_orthogonality, glorot_deviation, l1_orthogonality
from mlkit.learners.linear_scores import accuracy_of_linear
from mlkit.losses import ACCURACY
from mlkit.models import SoftmaxClassifier
from mlkit.seeding import seeded
from mlkit.tasks import frozen, sine

from .learned_rules import EXACT
from .leo_cases import LATENTS, WAYS, feature_tasks, gaussians, leo, own


def test_deviations_where_the_network_says_zero_are_those_of_the_public_code():
    silent = torch.zeros(1, 2)
    assert float(Gaussian.of(silent, 0.0).std) == pytest.approx(1e-10)
    assert glorot_deviation(640, 5) == pytest.approx(math.sqrt(2 / 645))
    assert float(Gaussian.of(silent, glorot_deviation(640, 5)).std) == pytest.approx(0.0557, abs=5e-5)
    assert float(Gaussian.of(torch.tensor([[0.5, 1.0]]), 0.25).std) == pytest.approx(math.e - 0.75)
    for version, deviation in (("v1", 1.0), ("v3", 1e-10)):
        learner = leo(version)
        nothing = {name: torch.zeros_like(tensor) for name, tensor in own(learner).items()}
        gaussian = learner.coder.encode(nothing, by_class(feature_tasks().support, WAYS))
        assert torch.allclose(gaussian.std, torch.full_like(gaussian.std, deviation), rtol=1e-6)
        assert gaussian.mean.shape == (3, WAYS, 1 if version == "v1" else 2, LATENTS)


def test_divergences_are_those_of_torch():
    mean, std, noise = (torch.rand(5, 4, generator=seeded(name), dtype=torch.float64) for name in "abc")
    ours, theirs = Gaussian(mean, std), torch.distributions.Normal(mean, std)
    prior = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    assert torch.allclose(ours.divergence(), torch.distributions.kl_divergence(theirs, prior), **EXACT)
    drawn = ours.sample(noise)
    assert torch.allclose(ours.sampled_divergence(noise), theirs.log_prob(drawn) - prior.log_prob(drawn), **EXACT)


def test_samples_and_dropped_features_are_a_function_of_each_tasks_own_seed():
    x, seeds = torch.ones(2, 3000, dtype=torch.float64), torch.tensor([5, 9])
    both, second = Draws(seeds, "here", x), Draws(seeds[1:], "here", x[1:])
    drawn = both.normal(3000)
    assert torch.equal(drawn[1:], second.normal(3000)) and not torch.equal(drawn[0], drawn[1])
    assert abs(float(drawn.mean())) < 0.06 and float(drawn.std()) == pytest.approx(1, abs=0.05)
    thinned = both.dropped(x, 0.25)
    assert torch.equal(thinned[1:], second.dropped(x[1:], 0.25)) and not torch.equal(drawn, both.normal(3000))
    assert set(thinned.flatten().tolist()) == {0.0, 1 / 0.75}
    assert float((thinned == 0).double().mean()) == pytest.approx(0.25, abs=0.04)
    assert not torch.equal(Draws(seeds, "there", x).normal(3000), drawn)


def test_regularizers_are_those_of_the_formulas():
    w = torch.randn(2, 3, 6, generator=seeded("w"), dtype=torch.float64)  # (tasks, out, in)
    gram = [one @ one.mT - torch.eye(3) for one in w]
    expected = torch.stack([matrix.abs().sum() for matrix in gram])
    for layer in (w, w.mT):  # a linear encoder is wide, a linear decoder is tall
        assert torch.allclose(l1_orthogonality([layer]), expected, **EXACT)
    rows = F.normalize(w, dim=2)  # the decoder (latents, weights) is w.mT as a layer
    cosines = torch.stack([(one @ one.mT - torch.eye(3)).square().mean() for one in rows])
    assert torch.allclose(cosine_orthogonality([w.mT]), cosines, **EXACT)
    basis = torch.linalg.qr(torch.randn(1, 6, 3, generator=seeded("q"), dtype=torch.float64)).Q
    assert float(l1_orthogonality([basis])) < 1e-12 and float(cosine_orthogonality([basis])) < 1e-12


def test_collapse_shows_as_no_variance():
    learner, tasks = leo("v1"), gaussians("test")
    learner = replace(learner, features=12)
    watch = CodeWatch(tasks=10).on(learner, tasks)
    alive = stack([learner.init(seeded(0)), learner.init(seeded(1))])
    collapsed = {name: tensor * (0 if "encoder" in name else 1) for name, tensor in alive.items()}
    numbers = watch(collapsed, 0)
    assert numbers["code_variance"].tolist() == [0, 0] and numbers["active_latents"].tolist() == [0, 0]
    assert numbers["code_deviation"].tolist() == pytest.approx([1, 1])
    assert bool((watch(alive, 0)["code_variance"] > 1e-3).all()) and watch(alive, 0)["active_latents"].shape == (2,)
    assert watch.describe()["tasks"] == frozen(tasks, 10, 0).content_hash


def test_examples_may_come_in_any_order_but_equally_many_of_each_class():
    learner, tasks = leo(), feature_tasks(shots=3)
    order = torch.randperm(3 * WAYS, generator=seeded("order"))
    mixed = replace(tasks, support=tasks.support.map(lambda tensor: tensor[:, order]))
    found = [learner.adapt(own(learner), batch).weights["weight"] for batch in (tasks, mixed)]
    assert torch.allclose(*found, **EXACT)
    uneven = replace(tasks, support=tasks.support.map(lambda tensor: tensor[:, :-1]))
    with pytest.raises(ValueError, match="equally many examples of each label 0 to 2, got labels"):
        learner.adapt(own(learner), uneven)


@pytest.mark.parametrize("query", [3, 10])
def test_classifiers_are_judged_as_by_evaluation_without_gathering_queries(query):
    tasks = frozen(replace(gaussians("test"), shots=2, query=query), 23, 0)
    for learner in (replace(leo("v3"), features=12), MAML(SoftmaxClassifier(12, WAYS), 1.0, 2)):
        meta = stack([learner.init(seeded(seed)) for seed in (0, 1)])
        expected = evaluate(learner, meta, tasks, metric=ACCURACY)
        found = accuracy_of_linear(learner, meta, tasks, chunk_size=10)
        assert torch.allclose(found, expected) and len(found.unique()) > 3
    with pytest.raises(ValueError, match="expected frozen FeatureTasks, got SineTasks"):
        accuracy_of_linear(learner, meta, frozen(sine("huisman"), 1, 0))
