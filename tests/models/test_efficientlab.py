"""EfficientLab: the paper's network to the last weight, in double precision, under vmap, to second order."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from efficientnet_pytorch import EfficientNet

from mlkit.adaptation import call
from mlkit.driver import meta_gradient, stack
from mlkit.evaluation import evaluate
from mlkit.learners import MAML, Finetuning
from mlkit.learners.common import describe_model, initialize
from mlkit.losses import ACCURACY
from mlkit.models import POLICIES, policy_of
from mlkit.models.decoders import ResidualSkipDecoder
from mlkit.models.efficientlab import EfficientLab, block_of
from mlkit.models.encoder import Encoder, EncoderClassifier
from mlkit.models.noise import DropConnect, Dropout, is_noise, seeded_noise
from mlkit.models.normalization import BatchNorm, set_phase
from mlkit.seeding import seeded
from mlkit.tasks.base import Examples, TaskBatch

ENCODER = (928, 1448, 6004, 10710, 15350, 31290, 37130, 102_900, 102_900, 126_004, 208_572, 208_572)


def size_of(model) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def images(*shape: int, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    return torch.rand(*shape, generator=seeded("images", seed), dtype=dtype)


def narrow(**options) -> EfficientLab:
    torch.manual_seed(0)
    return EfficientLab(width=0.25, **options).double()


@pytest.mark.parametrize(
    ("options", "parameters", "statistics"),
    [
        ({"variant": "3"}, 1_368_242, 16_832),
        ({"variant": "6-3"}, 2_071_714, 17_504),
        ({"decoder": "rsd_no_residual"}, 1_368_242, 16_832),
        ({"decoder": "auto_deeplab"}, 1_090_482, 16_160),
        ({"channels": 1001}, 1_368_242 - 226 + 113_113, 16_832),
    ],
)
def test_it_has_the_papers_number_of_weights(options, parameters, statistics):
    model = EfficientLab(**options)
    assert size_of(model) == parameters
    assert sum(buffer.numel() for name, buffer in model.named_buffers() if not is_noise(name)) == statistics


def test_every_block_has_the_papers_number_of_weights():
    model, sizes = EfficientLab("6-3"), {}
    for name, parameter in model.named_parameters():
        sizes[block_of(name)] = sizes.get(block_of(name), 0) + parameter.numel()
    assert tuple(sizes) == model.blocks
    assert tuple(sizes.values()) == (*ENCODER, 703_472, 516_208, 226)
    assert list(sizes)[-3:] == ["RSD 6", "RSD 3", "head"]
    assert size_of(model.encoder) == 851_808 == sum(ENCODER)
    assert size_of(EfficientNet.from_name("efficientnet-b0")) == 5_288_548


@pytest.mark.parametrize(("size", "quarter", "sixteenth"), [(224, 56, 14), (96, 24, 6), (64, 16, 4), (50, 13, 4)])
def test_features_have_the_papers_shapes(size, quarter, sixteenth):
    model = EfficientLab("6-3").eval()
    with torch.no_grad():
        skip, deep = model.encoder(images(1, 3, size, size, dtype=torch.float32))
        assert skip.shape == (1, 24, quarter, quarter)
        assert deep.shape == (1, 112, sixteenth, sixteenth)
        assert model(images(1, 3, size, size + 7, dtype=torch.float32)).shape == (1, 2, size, size + 7)


@pytest.mark.parametrize("training", [True, False])
def test_the_encoder_computes_what_the_package_computes(training):
    theirs = EfficientNet.from_name("efficientnet-b0", image_size=None, drop_connect_rate=0.0).double()
    ours = Encoder(drop_connect=0.0).double()
    twins = [module for module in ours.modules() if isinstance(module, BatchNorm)]
    for norm, twin in zip([m for m in theirs.modules() if isinstance(m, torch.nn.BatchNorm2d)], twins, strict=False):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        twin.mean.copy_(norm.running_mean)
        twin.variance.copy_(norm.running_var)
    ours.load_state_dict(
        dict(zip(dict(ours.named_parameters()), theirs.parameters(), strict=False)), strict=False
    )  # both list their layers in the order of the network
    x = images(2, 3, 50, 66)
    theirs.train(training)
    set_phase(ours, "adapt" if training else "predict")
    mean, std = (torch.tensor(v, dtype=x.dtype).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    found = theirs.extract_endpoints((x - mean) / std)
    skip, deep = ours(x)
    torch.testing.assert_close(skip, found["reduction_2"], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(deep, found["reduction_4"], rtol=1e-9, atol=1e-9)


def test_a_residual_adds_the_enlarged_features():
    with_it, without = narrow(), narrow(decoder="rsd_no_residual")
    for model in (with_it, without):
        set_phase(model, "predict")
    skip, deep = images(1, 8, 4, 4), images(1, 32, 1, 1)
    y, bare = (model.decoder["stage3"](skip, deep) for model in (with_it, without))
    torch.testing.assert_close(y - bare, deep.expand_as(y))


@pytest.mark.parametrize(("small", "large"), [(1, 1), (1, 4), (2, 3), (3, 10), (7, 7)])
def test_the_shortcut_of_a_decoder_is_its_definition(small, large):
    decoder = ResidualSkipDecoder(6, 4, norm="none").double()
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter)
    inputs = [images(2, 4, large, large).requires_grad_(), images(2, 6, small, small, seed=1).requires_grad_()]
    found = []
    for decoder.shortcut in (True, False):
        y = decoder(*inputs)
        found.append([y, *torch.autograd.grad(y.square().sum(), [*inputs, *decoder.parameters()])])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9 * float(other.detach().abs().max()))


def test_drop_connect_and_dropout_are_the_papers():
    model = EfficientLab()
    rates = {name: layer.rate for name, layer in model.encoder.drops.items() if isinstance(layer, DropConnect)}
    assert rates == pytest.approx({str(i): 0.2 * i / 11 for i in (2, 4, 6, 7, 9, 10)})
    assert [layer.rate for layer in model.modules() if isinstance(layer, Dropout)] == [0.2]
    norms = [layer for layer in model.modules() if isinstance(layer, BatchNorm)]
    assert {(layer.eps, layer.momentum, layer.policy) for layer in norms} == {(1e-3, 0.01, "running")}


def test_the_initialization_is_the_papers():
    torch.manual_seed(0)
    model = EfficientLab()
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def deviation(name: str) -> float:
        return float(weights[name].std())

    assert deviation("encoder.blocks.10._expand_conv.weight") == pytest.approx((2 / 672) ** 0.5, rel=0.02)
    assert deviation("encoder.blocks.10._depthwise_conv.weight") == pytest.approx((2 / 25) ** 0.5, rel=0.02)
    bound = (6 / (136 * 9 + 112 * 9)) ** 0.5
    assert float(weights["decoder.stage3.wide.0.weight"].abs().max()) == pytest.approx(bound, rel=1e-3)
    assert deviation("decoder.stage3.wide.0.weight") == pytest.approx(bound / 3**0.5, rel=0.02)
    assert deviation("head.weight") == pytest.approx(1, rel=0.15)
    biases = {name for name in weights if name.endswith("bias")}
    assert max(float(weights[name].abs().max()) for name in biases) == 0


def test_a_new_head_depends_on_its_generator_alone():
    model = narrow()
    head, same, other = (model.new_head(1001, seeded("head", seed)) for seed in (0, 0, 1))
    assert head["head.weight"].shape == (1001, 32, 1, 1)
    assert float(head["head.weight"].std()) == pytest.approx((2 / 1001) ** 0.5, rel=0.02)
    assert torch.equal(head["head.weight"], same["head.weight"])
    assert not torch.equal(head["head.weight"], other["head.weight"])
    assert set(head) < set(dict(model.named_parameters()))


@pytest.mark.parametrize("options", [{"variant": "6-3"}, {"decoder": "auto_deeplab"}], ids=["6-3", "auto_deeplab"])
def test_tasks_at_once_are_tasks_one_by_one(options):
    model = narrow(**options)
    meta = stack([initialize(model, seeded(seed)) for seed in (1, 2)])
    weights = {k.removeprefix("theta."): v for k, v in meta.items() if k.startswith("theta.")}
    buffers = {k.removeprefix("buffers."): v for k, v in meta.items() if k.startswith("buffers.")}
    buffers = seeded_noise(model, buffers, torch.tensor([5, 6]))
    x = images(2, 3, 3, 32, 32)
    for phase in ("adapt", "predict"):
        together, states = call(model, weights, buffers, x, phase)
        for task in range(2):
            one = slice(task, task + 1)
            own = [{name: tensor[one] for name, tensor in part.items()} for part in (weights, buffers)]
            alone, left = call(model, *own, x[one], phase)
            torch.testing.assert_close(together[one], alone, rtol=1e-10, atol=1e-10)
            for name, state in left.items():
                torch.testing.assert_close(states[name][one], state, rtol=1e-10, atol=1e-10)
        buffers = states
    assert int((buffers["dropout.noise"] == buffers["encoder.drops.2.noise"]).sum()) == 0


@pytest.mark.parametrize("decoder", ["rsd", "auto_deeplab"])
@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_fits(decoder, policy):
    model = narrow(decoder=decoder, norm=policy)
    always_by_batch = decoder == "auto_deeplab" and policy == "running"
    assert policy_of(model.encoder) == policy
    assert policy_of(model.decoder) == ("transductive" if always_by_batch else policy)
    said = "running, in the decoder transductive" if always_by_batch else policy
    assert describe_model(model)["normalization"] == said
    for phase in ("adapt", "predict"):
        set_phase(model, phase)
        assert model(images(2, 3, 16, 16)).isfinite().all()


def test_the_separable_decoder_normalizes_by_the_batch_at_all_times():
    decoder = narrow(decoder="auto_deeplab").decoder["separable"]
    inputs = images(2, 8, 4, 4), images(2, 32, 1, 1)
    found = {}
    for phase in ("adapt", "predict"):
        set_phase(decoder, phase)
        found[phase] = decoder(*inputs)
        alone = decoder(*(part[:1] for part in inputs))
        assert not torch.allclose(alone, found[phase][:1], atol=1e-3)
    assert torch.equal(found["adapt"], found["predict"])


def mean_square(outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (outputs[:, :, 1] - outputs[:, :, 0] - y).square().flatten(1).mean(1)


def test_the_second_order_meta_gradient_is_the_finite_difference():
    learner = MAML(narrow(dropout=0.0, drop_connect=0.0), inner_lr=1e-4, inner_steps=1, loss=mean_square)
    sets = [Examples(images(2, 2, 3, 48, 48, seed=i), images(2, 2, 48, 48, seed=i + 9)) for i in (0, 1)]
    tasks = TaskBatch(*sets, torch.tensor([1, 2]))
    meta = {name: tensor.double() for name, tensor in stack([learner.init(seeded(0))]).items()}
    meta["theta.head.weight"] *= 0.1
    found, one_by_one = (meta_gradient(learner, meta, tasks, chunk_size=size).gradients for size in (None, 1))
    names = [name for name in meta if name.startswith("theta.")]
    way = {name: found[name] / found[name].norm().clamp_min(1e-12) for name in names}
    slope = sum(float((found[name] * way[name]).sum()) for name in names)
    ends = [meta | {name: meta[name] + step * way[name] for name in names} for step in (1e-6, -1e-6)]
    losses = [float(meta_gradient(learner, end, tasks).losses.mean()) for end in ends]
    assert slope == pytest.approx((losses[0] - losses[1]) / 2e-6, rel=1e-6)
    first = meta_gradient(replace(learner, first_order=True), meta, tasks).gradients
    assert sum(float((first[name] * way[name]).sum()) for name in names) != pytest.approx(slope, rel=1e-4)
    for name in names:
        torch.testing.assert_close(one_by_one[name], found[name], rtol=1e-8, atol=1e-10)


def test_a_record_can_tell_networks_apart():
    variants = [{}, {"variant": "6-3"}, {"decoder": "rsd_no_residual"}, {"decoder": "auto_deeplab"}, {"dropout": 0.0}]
    said = [str(describe_model(EfficientLab(width=0.25, **options))) for options in variants]
    assert len(set(said)) == len(variants)
    assert "'normalization': 'running'" in said[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "6"}, r"expected a variant out of 3, 6-3; got '6'"),
        ({"decoder": "unet"}, r"expected a decoder out of rsd, rsd_no_residual, auto_deeplab; got 'unet'"),
        ({"variant": "6-3", "decoder": "auto_deeplab"}, r"expected variant '3' with decoder 'auto_deeplab', got '6-3'"),
    ],
)
def test_networks_that_nobody_described_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        EfficientLab(**options)


@pytest.mark.parametrize("shape", [(2, 1, 32, 32), (2, 3, 15, 32), (3, 32, 32)])
def test_images_it_cannot_take_are_refused(shape):
    with pytest.raises(ValueError, match=r"expected images \(examples, 3, height, width\) of at least 16 pixels, got"):
        narrow()(images(*shape))


def test_the_encoder_can_be_trained_to_classify():
    learner = Finetuning(EncoderClassifier(5, width=0.25), classes=7, inner_lr=0.01, inner_steps=1)
    meta = stack([learner.init(seeded(0))])
    batch = Examples(images(1, 6, 3, 16, 16, dtype=torch.float32), torch.arange(6)[None])
    found = meta_gradient(learner, meta, TaskBatch(batch, batch, torch.tensor([3])))
    assert found.gradients["theta.head.weight"].shape == (1, 7, 32)
    assert all(float(g.abs().max()) > 0 for name, g in found.gradients.items() if name.endswith("conv.weight"))
    support = Examples(images(1, 5, 3, 16, 16, dtype=torch.float32), torch.arange(5)[None])
    scores = evaluate(learner, meta, TaskBatch(support, support, torch.tensor([4])), metric=ACCURACY)
    assert scores.shape == (1, 1)
    own = {name for name in meta if ".encoder." in name}
    assert own <= set(initialize(narrow(), seeded(0)))
