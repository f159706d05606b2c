from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlkit.adaptation import Adapted
from mlkit.driver import stack
from mlkit.landscape.hessian import Hessian
from mlkit.learners import MAML
from mlkit.models import Conv4
from mlkit.seeding import seeded
from tests.landscape.operators import adapt, dense_hessian, sine_setting
from tests.learners.cases import WAYS, Smooth, conv4_of, image_tasks


def gaussian(hessian: Hessian) -> Tensor:
    return torch.randn(hessian.shape, generator=seeded("gaussian"), dtype=torch.float64).to(hessian.dtype)


def image_setting(model: nn.Module, tasks: int = 2) -> tuple[MAML, Adapted, object]:
    learner, batch = MAML(model, 0.1, 2), image_tasks(tasks)
    return learner, adapt(learner, stack([learner.init(seeded("image setting"))]), batch), batch


@pytest.mark.parametrize("task", [0, 2])
def test_the_product_is_that_with_the_dense_matrix(task: int) -> None:
    learner, meta, tasks = sine_setting(3, (1, 8, 8, 1))
    adapted = adapt(learner, meta, tasks)
    hessian = Hessian(learner, adapted, tasks.support)
    v = gaussian(hessian)
    expected = dense_hessian(learner, adapted, tasks, task) @ v[task]
    assert torch.allclose(hessian(v)[task], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "model",
    [Smooth(nn.BatchNorm2d(8, track_running_stats=False)), Smooth(nn.GroupNorm(2, 8)), Smooth(nn.BatchNorm2d(8))],
    ids=["batch statistics", "group", "running statistics"],
)
def test_the_product_is_the_slope_of_the_gradient_on_any_module(model: nn.Module) -> None:
    learner, adapted, tasks = image_setting(model.double())
    hessian = Hessian(learner, adapted, tasks.support)
    v, step = gaussian(hessian), 1e-5

    def gradient(sign: int) -> Tensor:
        pieces = v.split([tensor[0].numel() for tensor in adapted.weights.values()], 1)
        moved = {
            name: tensor + sign * step * piece.view(tensor.shape)
            for (name, tensor), piece in zip(adapted.weights.items(), pieces, strict=True)
        }
        return Hessian(learner, replace(adapted, weights=moved), tasks.support).gradient

    slope = (gradient(1) - gradient(-1)) / (2 * step)
    assert float((hessian(v) - slope).norm() / slope.norm()) < 1e-6


@pytest.mark.parametrize("downsample", ["pool", "stride"])
def test_the_fast_convolutions_and_plain_ones_have_one_hessian(downsample: str) -> None:
    model = Conv4(WAYS, size=16, channels=1, filters=4, downsample=downsample).double()
    learner, adapted, tasks = image_setting(model)
    hessian = Hessian(learner, adapted, tasks.support)
    v = gaussian(hessian)
    for task in range(2):
        plain = [tensor[task].detach().requires_grad_() for tensor in adapted.weights.values()]
        named = dict(zip(adapted.weights, plain, strict=True))
        scores = torch.func.functional_call(model, named, (tasks.support.x[task],))
        loss = F.cross_entropy(scores, tasks.support.y[task])
        slopes = torch.autograd.grad(loss, plain, create_graph=True, allow_unused=True, materialize_grads=True)
        along = torch.cat([slope.flatten() for slope in slopes]) @ v[task]
        products = torch.autograd.grad(along, plain, allow_unused=True, materialize_grads=True)
        assert torch.allclose(hessian(v)[task], torch.cat([p.flatten() for p in products]), rtol=1e-9, atol=1e-12)


def test_it_is_symmetric_and_keeps_losses_and_gradient() -> None:
    learner, adapted, tasks = image_setting(conv4_of("transductive"))
    hessian = Hessian(learner, adapted, tasks.support)
    v, w = gaussian(hessian), gaussian(hessian).flip(1)
    assert torch.allclose((w * hessian(v)).sum(1), (v * hessian(w)).sum(1), rtol=1e-9)
    outputs = learner.predict(adapted, tasks.support.x)
    assert torch.allclose(hessian.losses, learner.loss(outputs, tasks.support.y))
    assert hessian.gradient.shape == hessian.shape == (2, sum(p.numel() for p in learner.model.parameters()))


def test_parameters_that_adaptation_leaves_alone_count_and_norms_can_be_left_out() -> None:
    learner = MAML(conv4_of("transductive"), 0.1, 2, adapted="head.")
    tasks = image_tasks(2)
    adapted = adapt(learner, stack([learner.init(seeded(""))]), tasks)
    whole = Hessian(learner, adapted, tasks.support)
    part = Hessian(learner, adapted, tasks.support, parameters="no_norm")
    norms = sum(p.numel() for norm in learner.model.norms for p in norm.parameters())
    assert whole.shape[1] - part.shape[1] == norms > 0
    kept = torch.cat(
        [torch.full((tensor[0].numel(),), "norms" not in name) for name, tensor in adapted.weights.items()]
    )
    v = gaussian(whole) * kept
    assert torch.allclose(part(v[:, kept]), whole(v)[:, kept], rtol=1e-10, atol=1e-14)


def test_the_weights_in_front_of_batch_normalization_have_no_scale() -> None:
    learner, adapted, tasks = image_setting(Conv4(WAYS, size=16, channels=1, filters=4, eps=0.0).double())
    first = "convolutions.0.weight"
    larger = replace(adapted, weights=adapted.weights | {first: 3 * adapted.weights[first]})
    before, after = (Hessian(learner, state, tasks.support) for state in (adapted, larger))
    inside = torch.cat([torch.full((t[0].numel(),), name == first) for name, t in adapted.weights.items()])
    v = gaussian(before) * inside
    assert torch.allclose(before.losses, after.losses)
    assert torch.allclose(after(v)[:, inside], before(v)[:, inside] / 9, rtol=1e-8, atol=1e-12)


def test_a_loss_that_is_linear_in_the_weights_has_no_curvature() -> None:
    learner = MAML(nn.Linear(2, 1), 0.1, 1, lambda outputs, targets: (outputs - targets).flatten(1).mean(1))
    adapted = Adapted({name: p.detach()[None] for name, p in learner.model.named_parameters()}, {}, torch.empty(0))
    x = torch.ones(1, 3, 2)
    hessian = Hessian(learner, adapted, replace(image_tasks(1).support, x=x, y=x[..., :1]))
    assert torch.equal(hessian(torch.ones(1, 3)), torch.zeros(1, 3))


def test_precision_is_asked_for() -> None:
    learner, meta, tasks = sine_setting(2, (1, 8, 1))
    hessian = Hessian(learner, adapt(learner, meta, tasks), tasks.support, dtype=torch.float32)
    assert hessian.dtype == hessian(torch.ones(hessian.shape)).dtype == torch.float32


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(256, WAYS)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(-3)) * torch.rand(())


class Wandering(nn.Module):
    """Normalizes by averages that each pass moves on: state of its own, hidden from `functional_call`."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.running_mean, self.stacks_tasks = nn.Linear(256, WAYS), 0.0, True

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(-3) + self.running_mean
        self.running_mean += 1.0
        return torch.bmm(x, self.layer.weight.mT) + self.layer.bias.unsqueeze(1)


@pytest.mark.parametrize(
    ("model", "cause"),
    [
        (nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(256, WAYS)), r"dropout \(1\)"),
        (Wandering(), r"running statistics \(Wandering\)"),
        (Noisy(), "the order of batches"),
    ],
    ids=["dropout", "running statistics", "noise"],
)
def test_a_loss_that_changes_between_passes_is_refused_with_its_cause(model: nn.Module, cause: str) -> None:
    tasks = image_tasks(2)
    adapted = Adapted(
        {n: torch.stack([p.detach()] * 2) for n, p in model.double().named_parameters()}, {}, torch.empty(0)
    )
    with pytest.raises(ValueError, match=cause):
        Hessian(MAML(model), adapted, tasks.support)
    assert Hessian(MAML(model), adapted, tasks.support, check=False).shape[0] == 2


def test_dropout_that_drops_nothing_is_no_cause() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.0), nn.Linear(256, WAYS)).double()
    learner, adapted, tasks = image_setting(model)
    assert Hessian(learner, adapted, tasks.support).losses.isfinite().all()


def test_wrong_choices_of_parameters_are_refused() -> None:
    learner, adapted, tasks = image_setting(conv4_of("transductive"))
    with pytest.raises(ValueError, match="'all' or 'no_norm', got 'some'"):
        Hessian(learner, adapted, tasks.support, parameters="some")
    norm = MAML(nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), nn.Flatten()).double())
    with pytest.raises(ValueError, match="outside the normalization layers, got none"):
        of_norm = Adapted({n: p.detach()[None] for n, p in norm.model.named_parameters()}, {}, torch.empty(0))
        Hessian(norm, of_norm, tasks.support, parameters="no_norm")
