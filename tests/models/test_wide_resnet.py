"""Wide residual networks: the published number of weights, shapes, features that do not depend on other images."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mlkit.adaptation import call
from mlkit.driver import for_tasks, meta_gradient, stack
from mlkit.learners import Finetuning
from mlkit.learners.common import initialize
from mlkit.models import SoftmaxClassifier, WideResNet, policy_of, wide_resnet
from mlkit.models.normalization import set_phase
from mlkit.seeding import seeded
from mlkit.tasks.base import Examples, TaskBatch


def size_of(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_wrn_28_10_has_the_published_number_of_weights_and_640_features():
    with torch.device("meta"):
        net, small = wide_resnet("28-10", 10), wide_resnet("28-10", 64, reductions=3)
        for module in (net, small):
            set_phase(module, "predict")
        assert small.features(torch.empty(2, 3, 80, 80)).shape == (2, 640)
        assert net(torch.empty(2, 3, 32, 32)).shape == (2, 10)
    assert size_of(net) == 36_479_194 and size_of(small) - size_of(net) == 641 * 54
    convolutions = [
        module for module in net.modules() if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3)
    ]
    assert len(convolutions) == 25 and len(net.blocks) == 12  # with three of 1x1 these are 28


@pytest.mark.parametrize(("reductions", "side"), [(2, 7), (3, 4)])
def test_images_are_halved_two_or_three_times(reductions, side):
    net, seen = wide_resnet("10-1", 5, channels=1, reductions=reductions), []
    net.blocks.register_forward_hook(lambda _module, _x, y: seen.append(y.shape))
    assert net(torch.zeros(2, 1, 28, 28)).shape == (2, 5) and seen == [(2, 64, side, side)]


def test_a_block_is_the_identity_plus_its_branch():
    net = wide_resnet("16-1", 5, channels=1)
    block = net.blocks[1]
    x = torch.randn(2, 16, 6, 6, generator=seeded("block"))
    nn.init.zeros_(block.convolutions[1].weight)
    assert block.across is None and torch.equal(block(x), x)
    first = net.blocks[2]  # more filters, stride 2
    assert first.across.weight.shape == (32, 16, 1, 1) and first(x).shape == (2, 32, 3, 3)


def test_weights_are_drawn_from_the_generator_alone_as_he_et_al():
    net = wide_resnet("10-2", 5)
    one, again, other = (initialize(net, seeded(seed)) for seed in (1, 1, 2))
    for name, tensor in one.items():
        assert torch.equal(tensor, again[name])
    weight = "theta.blocks.2.convolutions.1.weight"
    assert not torch.equal(one[weight], other[weight]) and not one["theta.head.bias"].any()
    assert float(one[weight].std()) == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)


def test_features_of_an_image_do_not_depend_on_the_others_once_trained():
    net = wide_resnet("10-1", 5, channels=1)
    x = torch.rand(6, 1, 12, 12, generator=seeded("images"))
    net.features(x)  # moves the averages on
    set_phase(net, "predict")
    with torch.no_grad():
        assert torch.allclose(net.features(x)[2:4], net.features(x[2:4]), atol=1e-6)
        assert float(net.features(x).min()) >= 0
    assert policy_of(net) == "running"


def test_it_is_trained_by_finetuning_and_tasks_are_batched():
    net = wide_resnet("10-1", 3, channels=1)
    learner = Finetuning(net, 7, 0.1, 2)
    x = torch.rand(1, 8, 1, 12, 12, generator=seeded("images"))
    batch = Examples(x, torch.arange(8).view(1, 8) % 7)
    meta = stack([learner.init(seeded(0))])
    found = meta_gradient(learner, meta, TaskBatch(batch, batch, torch.zeros(1).long()))
    assert found.outputs.shape == (1, 1, 8, 7)
    assert all(float(gradient.abs().max()) > 0 for gradient in found.gradients.values())
    assert all(not torch.equal(buffer, meta[name]) for name, buffer in found.buffers.items())
    few = Examples(x[:, :6].expand(2, -1, -1, -1, -1), torch.arange(6).expand(2, 6) % 3)
    tasks = TaskBatch(few, few, torch.arange(2))
    adapted = learner.adapt(for_tasks(meta, torch.zeros(2).long()), tasks)
    assert learner.predict(adapted, few.x).shape == (2, 6, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"depth": 12}, "expected a depth of 10, 16, 22"), ({"reductions": 4}, "2 or 3 reductions, got depth=28")],
)
def test_networks_that_do_not_exist_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        WideResNet(5, **changes)
    with pytest.raises(ValueError, match="named <depth>-<width>, such as \"28-10\", got 'wide'"):
        wide_resnet("wide", 5)


def test_the_softmax_classifier_scores_by_inner_products_plain_and_stacked():
    model = SoftmaxClassifier(4, 3)
    x, w = torch.randn(2, 5, 4, generator=seeded("x")), torch.randn(2, 3, 4, generator=seeded("w"))
    scores, _ = call(model, {"weight": w}, {}, x, "predict")
    assert torch.allclose(scores, torch.einsum("tnd,twd->tnw", x, w), atol=1e-6)
    assert model(x[0]).shape == (5, 3) and list(dict(model.named_parameters())) == ["weight"]
