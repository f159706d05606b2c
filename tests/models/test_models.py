"""Models: the papers' networks by their numbers of weights, the normalization policies, and any module of torch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.func import functional_call

from mlkit.adaptation import call
from mlkit.driver import for_tasks, meta_gradient, stack
from mlkit.evaluation import evaluate
from mlkit.learners import MAML
from mlkit.learners.common import initialize
from mlkit.losses import ACCURACY
from mlkit.models import MLP, POLICIES, Conv4, conv4, normalization, policy_of
from mlkit.models.normalization import BatchNorm, collects_support_statistics, set_phase
from mlkit.seeding import seeded

from ..learners import cases


def size_of(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_the_sine_regressor_has_1761_weights():
    assert size_of(MLP((1, 40, 40, 1))) == 1761
    assert MLP()(torch.zeros(7, 1)).shape == (7, 1)


@pytest.mark.parametrize(
    ("variant", "ways", "size", "channels", "parameters", "features"),
    [
        ("finn-omniglot", 5, 28, 1, 112_261, 64),
        ("finn-omniglot", 20, 28, 1, 113_236, 64),
        ("finn-mini", 5, 84, 3, 32_901, 800),
        ("guiroy-omniglot", 5, 28, 1, 112_261, 64),
        ("guiroy-mini", 5, 84, 3, 70_085, 1200),
        ("huisman", 5, 84, 3, 115_973, 576),
        ("chen", 5, 84, 3, 113_088 + 5 * 1601, 1600),
        ("small", 5, 32, 3, 28_896 + 5 * 129, 128),
    ],
)
def test_conv4_is_the_papers_network(variant, ways, size, channels, parameters, features):
    model = conv4(variant, ways, size=size, channels=channels)
    assert size_of(model) == parameters
    images = torch.randn(2, channels, size, size)
    assert model.features(images).shape == (2, features)
    assert model(images).shape == (2, ways)
    stacked = {name: torch.stack([tensor] * 3) for name, tensor in model.named_parameters()}
    assert functional_call(model, stacked, (torch.stack([images] * 3),)).shape == (3, 2, ways)


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_fits_every_variant(policy):
    for variant in ("finn-omniglot", "finn-mini", "huisman"):
        model = conv4(variant, 3, size=48, channels=1, norm=policy)
        assert model(torch.randn(2, 1, 48, 48)).shape == (2, 3)
        assert policy_of(model) == policy


def test_variants_differ_as_the_papers_do():
    finn, guiroy, huisman = (conv4(name, 5, size=84, channels=3) for name in ("finn-mini", "guiroy-mini", "huisman"))
    assert [norm.eps for norm in finn.norms] == [1e-3] * 4
    assert [norm.eps for norm in guiroy.norms] == [1e-5] * 4
    assert [layer.padding for layer in huisman.convolutions] == [(0, 0)] * 4
    assert [layer.stride for layer in conv4("finn-omniglot", 5, size=28, channels=1).convolutions] == [(2, 2)] * 4
    descriptions = [
        str(conv4(name, 5, size=84, channels=3).describe())
        for name in ("finn-omniglot", "finn-mini", "guiroy-omniglot", "guiroy-mini", "huisman", "chen")
    ]
    assert len(set(descriptions)) == 6


def test_xavier_and_pytorch_weights():
    xavier = conv4("finn-mini", 5, size=84, channels=3)
    assert all(float(layer.bias.detach().abs().max()) == 0 for layer in (*xavier.convolutions, xavier.head))
    bound = (6 / (9 * 32 + 9 * 32)) ** 0.5
    assert 0.95 * bound < float(xavier.convolutions[1].weight.detach().abs().max()) <= bound
    torch_like = conv4("huisman", 5, size=84, channels=3)
    assert all(float(layer.bias.detach().abs().max()) > 0 for layer in torch_like.convolutions)
    assert float(torch_like.head.bias.detach().abs().max()) == 0


@pytest.mark.parametrize(("init", "bound"), [("pytorch", 1 / 40**0.5), ("finn", 0.02), ("xavier", (6 / 80) ** 0.5)])
def test_initial_weights_of_the_regressor(init, bound):
    model = MLP((1, 40, 40, 1), init=init)
    assert all(float(layer.bias.detach().abs().max()) == 0 for layer in (*model.body, model.head))
    assert 0.9 * bound < float(model.body[1].weight.detach().abs().max()) <= bound


@pytest.mark.parametrize(
    ("size", "padding", "downsample", "fits"),
    [
        (16, 1, "pool", True),
        (15, 1, "pool", False),
        (46, 0, "pool", True),
        (45, 0, "pool", False),
        (1, 1, "stride", True),
        (30, 0, "stride", False),
        (31, 0, "stride", True),
    ],
)
def test_images_that_are_too_small_are_refused(size, padding, downsample, fits):
    def build() -> Conv4:
        return Conv4(2, size=size, channels=1, filters=2, padding=padding, downsample=downsample)

    if fits:
        assert build()(torch.randn(3, 1, size, size)).shape == (3, 2)
    else:
        with pytest.raises(ValueError, match=rf"got {size} pixels with padding {padding}; use larger images"):
            build()


def test_unknown_names_are_answered_with_the_valid_ones():
    with pytest.raises(ValueError, match=r"variant out of finn-omniglot, .*, small; got 'vinyals'"):
        conv4("vinyals", 5, size=28, channels=1)
    with pytest.raises(ValueError, match=r"policy out of transductive, support, running, group, none; got 'batch'"):
        normalization("batch", 8)


@pytest.mark.parametrize("name", ["conv4", "mlp", "sequential"])
def test_an_initialization_is_a_function_of_its_generator(name):
    models = {
        "conv4": lambda: conv4("small", 3, size=16, channels=1, norm="running"),
        "mlp": lambda: MLP((1, 8, 1)),
        "sequential": lambda: nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.PReLU(), nn.Linear(3, 1)),
    }
    model = models[name]()
    own = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = initialize(model, seeded("init", 1))
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    again, other = initialize(models[name](), seeded("init", 1)), initialize(model, seeded("init", 2))
    assert first.keys() == {f"theta.{key}" for key, _ in model.named_parameters()} | {
        f"buffers.{key}" for key, _ in model.named_buffers()
    }
    assert all(torch.equal(tensor, again[key]) for key, tensor in first.items())
    assert any(not torch.equal(tensor, other[key]) for key, tensor in first.items())
    assert all(torch.equal(tensor, own[key]) for key, tensor in model.state_dict().items())


def query_statistics(policy: str, phase: str) -> str:
    """Tell by experiment what normalizes a batch: its own statistics, or the stored ones."""
    layer, x = normalization(policy, 2), torch.randn(50, 2, generator=seeded("x")) * 3 + 5
    set_phase(layer, phase)
    y = layer(x)
    if torch.allclose(y.mean(0), torch.zeros(2), atol=1e-5):
        return "own"
    return "stored" if torch.allclose(y, x, rtol=1e-4) else "neither"  # stored: mean 0, variance 1


@pytest.mark.parametrize(
    ("policy", "adapt", "learn", "predict"),
    [
        ("transductive", "own", "own", "own"),
        ("support", "own", "stored", "stored"),
        ("running", "own", "own", "stored"),
    ],
)
def test_policies_use_the_statistics_that_their_table_says(policy, adapt, learn, predict):
    phases = {"adapt": adapt, "learn": learn, "predict": predict}
    assert {phase: query_statistics(policy, phase) for phase in phases} == phases
    assert collects_support_statistics(normalization(policy, 2)) == (policy == "support")


@pytest.mark.parametrize(("policy", "kept"), [("transductive", None), ("support", 1.0), ("running", 0.1)])
def test_only_support_passes_move_the_statistics(policy, kept):
    layer, x = normalization(policy, 2), torch.randn(50, 2, generator=seeded("x")) * 3 + 5
    for phase in ("learn", "predict"):
        set_phase(layer, phase)
        layer(x)
    assert kept is None or (torch.equal(layer.mean, torch.zeros(2)) and torch.equal(layer.variance, torch.ones(2)))
    set_phase(layer, "adapt")
    layer(x)
    if kept is None:
        assert not list(layer.buffers())
        return
    assert torch.allclose(layer.mean, kept * x.mean(0))
    assert torch.allclose(layer.variance, 1 - kept + kept * x.var(0, correction=0))


@pytest.mark.parametrize(
    ("layers", "policy"),
    [
        ([nn.Linear(2, 2)], "none"),
        ([nn.BatchNorm2d(4)], "running"),
        ([nn.BatchNorm1d(4, track_running_stats=False)], "transductive"),
        ([nn.GroupNorm(2, 4)], "group"),
        ([nn.LayerNorm(4), nn.GroupNorm(2, 4)], "group"),
        ([BatchNorm(4, "support"), BatchNorm(2, "support")], "support"),
    ],
)
def test_policy_of_a_model(layers, policy):
    assert policy_of(nn.Sequential(*layers)) == policy


def test_policies_are_not_mixed():
    with pytest.raises(ValueError, match=r"expected one normalization policy .*'group', 'running'.*one policy"):
        policy_of(nn.Sequential(nn.BatchNorm2d(4), nn.GroupNorm(2, 4)))


def plain(dropout: float = 0.0) -> nn.Module:
    """Return a network of torch's own layers that knows nothing of tasks."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ELU(),
        nn.Dropout(dropout),
        nn.GroupNorm(2, 4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, cases.WAYS),
    ).double()


def stacked_meta(learner: MAML, runs: int = 1):
    metas = [learner.init(seeded("plain", run)) for run in range(runs)]
    return stack(metas)


@pytest.mark.parametrize("phase", ["adapt", "predict"])
def test_any_module_is_mapped_over_tasks(phase):
    model, x = plain(), cases.image_tasks(3).support.x
    metas = [initialize(model, seeded("task", task)) for task in range(3)]
    stacked = stack(metas)
    roles = [{k.removeprefix(f"{r}."): t for k, t in stacked.items() if k.startswith(r)} for r in ("theta", "buffers")]
    outputs, buffers = call(model, *roles, x, phase)
    for task in range(3):
        own = {name.split(".", 1)[1]: tensor.clone() for name, tensor in metas[task].items()}
        model.train(phase == "adapt")
        assert torch.allclose(outputs[task], functional_call(model, own, (x[task],)), rtol=0, atol=1e-12)
        assert all(torch.allclose(buffers[name][task], own[name], rtol=0, atol=1e-12) for name in buffers)
    assert (int(buffers["1.num_batches_tracked"][0]) == 1) == (phase == "adapt")


def test_running_statistics_do_not_leak_into_the_module():
    model, tasks = plain(dropout=0.3), cases.image_tasks(4)
    learner = MAML(model, 0.1, 2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    meta = stacked_meta(learner, 2)
    kept = {name: tensor.clone() for name, tensor in meta.items()}
    found = meta_gradient(learner, meta, tasks, chunk_size=3)
    evaluate(learner, meta, tasks, metric=ACCURACY)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(torch.equal(tensor, kept[name]) for name, tensor in meta.items())
    assert found.buffers["buffers.1.num_batches_tracked"].tolist() == [2, 2]
    assert float(found.buffers["buffers.1.running_mean"].abs().min()) > 0


def test_the_meta_gradient_of_any_module_is_that_of_the_plain_loop():
    learner, tasks = MAML(plain(), 0.1, 2), cases.image_tasks(4)
    for each in (learner, replace(learner, checkpoint=True), replace(learner, first_order=True)):
        meta = stacked_meta(each)
        loop, whole = meta_gradient(each, meta, tasks, chunk_size=1), meta_gradient(each, meta, tasks)
        for name, gradient in loop.gradients.items():
            assert torch.allclose(whole.gradients[name], gradient, rtol=0, atol=1e-10), name


def test_dropout_differs_between_tasks_and_is_off_when_predicting():
    learner, task = MAML(plain(dropout=0.5), 0.1, 2), cases.image_tasks(1)
    twins = task.map(lambda tensor: torch.cat([tensor] * 2))
    meta = for_tasks(stacked_meta(learner), torch.zeros(2, dtype=torch.int64))
    adapted = learner.adapt(meta, twins)
    assert not torch.allclose(adapted.losses[0, 0], adapted.losses[0, 1])
    first, again = learner.predict(adapted, twins.query.x), learner.predict(adapted, twins.query.x)
    assert torch.equal(first, again)
