from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlkit.seeding import seeded
from mlkit.tasks import frozen, sample, sine


@pytest.mark.parametrize(("setting", "shots", "query"), [("finn", 10, 10), ("huisman", 5, 50), ("guiroy", 5, 50)])
def test_sizes_are_those_of_the_setting(setting: str, shots: int, query: int):
    batch = sample(sine(setting), 3, seeded(0))
    assert batch.support.x.shape == batch.support.y.shape == (3, shots, 1)
    assert batch.query.x.shape == batch.query.y.shape == (3, query, 1)
    assert batch.seeds.dtype == torch.int64


@pytest.mark.parametrize(("setting", "sign"), [("finn", -1), ("huisman", 1), ("guiroy", 1)])
def test_points_lie_on_the_wave_of_the_paper(setting: str, sign: int):
    tasks = sine(setting, shots=4, query=3)
    draw = tasks.draw(8, seeded(1))
    batch = tasks.gather(draw)
    a, c = draw["amplitude"][:, None, None], draw["phase"][:, None, None]
    for part in (batch.support, batch.query):
        torch.testing.assert_close(part.y, a * torch.sin(part.x + sign * c))
        torch.testing.assert_close(part.y, tasks.wave(draw, part.x))


@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 10**6), setting=st.sampled_from(["finn", "huisman"]), split=st.sampled_from(["train", "test"])
)
def test_draws_stay_in_range(seed: int, setting: str, split: str):
    draw = sine(setting, split).draw(200, seeded(seed))
    assert float(draw["amplitude"].min()) >= 0.1 and float(draw["amplitude"].max()) <= 5.0
    assert float(draw["phase"].min()) >= 0.0 and float(draw["phase"].max()) <= math.pi
    assert float(draw["x"].min()) >= -5.0 and float(draw["x"].max()) <= 5.0


def test_guiroy_tests_on_waves_never_trained_on():
    train, val, test = (sine("guiroy", split).draw(2000, seeded(2)) for split in ("train", "val", "test"))
    for name in ("amplitude", "phase"):
        assert max(float(train[name].max()), float(val[name].max())) <= float(test[name].min())


def test_splits_freeze_different_tasks_of_one_distribution():
    train, test = (frozen(sine("finn", split), 4, seed=0) for split in ("train", "test"))
    assert not torch.equal(train.draws["amplitude"], test.draws["amplitude"])
    assert train.content_hash != test.content_hash


def test_errors_name_the_valid_settings():
    with pytest.raises(ValueError, match=r"finn, huisman, guiroy.*did you mean 'huisman'"):
        sine("huismann")
    with pytest.raises(ValueError, match="train, val, test"):
        sine("finn", "validation")
    with pytest.raises(ValueError, match="at least 1"):
        sine("finn", shots=0)
