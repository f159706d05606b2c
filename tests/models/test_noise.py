"""Masks come from the task's seed alone, are fair, and are never drawn twice."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mlkit.adaptation import call
from mlkit.models.noise import DropConnect, Dropout, is_noise, scrambled, seeded_noise


def splitmix64(state: int) -> int:
    """The reference, in integers of Python: state -> the number after it."""
    z = (state + 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return z ^ z >> 31


@pytest.mark.parametrize("state", [0, 1, -1, 1234567, 2**62, -(2**63)])
def test_numbers_are_those_of_splitmix64(state: int) -> None:
    expected = [splitmix64(state + index * 0x9E3779B97F4A7C15) for index in range(5)]
    assert [number % 2**64 for number in scrambled(torch.tensor(state), 5).tolist()] == expected


class Noisy(nn.Module):
    """x thinned out, and a residual block that is sometimes skipped."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout, self.connect = Dropout(0.2), DropConnect(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(x)
        return self.connect(x, 2 * x)


def drawn(seeds: list[int], x: Tensor, times: int = 1) -> Tensor:
    """Outputs (tasks, ...) of the last of `times` training passes over the same x."""
    model = Noisy()
    seeds = torch.tensor(seeds)
    buffers = seeded_noise(model, {}, seeds)
    x = torch.stack([x] * len(seeds))
    for _ in range(times):
        outputs, buffers = call(model, {}, buffers, x, "adapt")
    return outputs


def test_masks_depend_on_the_tasks_seed_alone() -> None:
    x = torch.rand(3, 2, 5, 7)  # entries that four does not divide
    together = drawn([4, 9, 2**62 - 1], x, times=2)
    torch.manual_seed(1)
    alone = torch.cat([drawn([seed], x, times=2) for seed in (4, 9, 2**62 - 1)])
    assert torch.equal(together, alone)
    assert not torch.equal(together[0], together[1])
    assert not torch.equal(drawn([4], x), drawn([4], x, times=2)), "the same mask twice"


def test_masks_do_not_depend_on_the_precision() -> None:
    x = torch.rand(8, 16)
    assert torch.equal(drawn([7], x) == 0, drawn([7], x.double()) == 0)


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    drawn([1, 2], torch.rand(4, 4, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.5])
def test_dropout_drops_its_share_and_keeps_the_mean(rate: float) -> None:
    layer = Dropout(rate)
    layer.noise = torch.tensor(3)
    y = layer(torch.ones(400, 500))
    assert abs(float((y == 0).double().mean()) - rate) < 4 * (rate * (1 - rate) / y.numel()) ** 0.5
    assert set(y.unique().tolist()) == {0.0, float(torch.tensor(1.0) / (1 - rate))}
    first, second = (y == 0).double()[::2].flatten(), (y == 0).double()[1::2].flatten()
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 4 / first.numel() ** 0.5


def test_drop_connect_skips_whole_examples() -> None:
    layer, x = DropConnect(0.25), torch.rand(4000, 3)
    layer.noise = torch.tensor(5)
    factors = (layer(x, x) - x) / x  # what becomes of f(x) = x
    skipped = (factors.abs() < 1e-5).all(1)
    torch.testing.assert_close(factors[~skipped], torch.full_like(factors[~skipped], 1 / 0.75))
    assert abs(float(skipped.double().mean()) - 0.25) < 4 * (0.25 * 0.75 / 4000) ** 0.5


def test_nothing_is_dropped_in_evaluation_or_at_rate_0() -> None:
    x = torch.rand(5, 5)
    for layer in (Dropout(0.5).eval(), Dropout(0.0)):
        assert torch.equal(layer(x), x)
        assert layer.noise == 0, "the state moved on"
    assert torch.equal(DropConnect(0.5).eval()(x, x), 2 * x)


def test_layers_of_a_model_draw_differently() -> None:
    model = nn.Sequential(Dropout(0.5), nn.Sequential(Dropout(0.5), nn.BatchNorm1d(2)))
    buffers = seeded_noise(model, {"1.1.running_mean": torch.zeros(2, 2)}, torch.tensor([1, 2]))
    assert [name for name in buffers if is_noise(name)] == ["0.noise", "1.0.noise"]
    assert torch.cat([buffers["0.noise"], buffers["1.0.noise"]]).unique().numel() == 4


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_an_impossible_rate_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match=r"expected a rate in \[0, 1\)"):
        Dropout(rate)
