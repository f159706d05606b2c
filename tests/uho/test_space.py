"""Bad spaces are refused with words; good ones give plain numbers; a learner is tuned without being touched."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest

from mlkit.augmentation import Augmentation
from mlkit.learners import MAML, Displacement
from mlkit.learners.joint import JointTraining
from mlkit.models import MLP
from mlkit.models.efficientlab import EfficientLab
from mlkit.segmentation_losses import segmentation_loss
from mlkit.uho import EFFICIENTLAB_6_3, Range, Space, tuned


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ((2.0, 1.0), "expected low <= high, got 2.0 > 1.0"),
        ((0.0, 1.0, True), "expected low > 0 in a logarithmic range, got 0.0"),
        ((0.0, math.inf), "expected finite bounds"),
    ],
)
def test_bad_ranges_are_refused(bounds, message):
    with pytest.raises(ValueError, match=message):
        Range(*bounds)


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ({}, "something to tune, got an empty one"),
        ({"inner_lr": Range(0.1, 0.1)}, "something to tune"),
        ({"inner_rl": Range(0.1, 0.2)}, "unknown update hyperparameter 'inner_rl'; did you mean 'inner_lr'"),
        ({"batch_size": Range(0.5, 8)}, "whole bounds of at least 1 for batch_size, got 0.5 and 8"),
    ],
)
def test_bad_spaces_are_refused(ranges, message):
    with pytest.raises(ValueError, match=message):
        Space(ranges)


def test_settings_are_plain_numbers_with_what_is_fixed():
    space = Space({"inner_lr": Range(1e-3, 1e-1, log=True), "batch_size": Range(1, 10), "dropout": Range(0.2, 0.2)})
    assert space.searched == ("inner_lr", "batch_size")
    values = space.values({"inner_lr": np.float64(0.01), "batch_size": np.int64(4)})
    assert values == {"dropout": 0.2, "inner_lr": 0.01, "batch_size": 4}
    assert {name: type(value) for name, value in values.items()} == {
        "dropout": float,
        "inner_lr": float,
        "batch_size": int,
    }
    assert pickle.loads(pickle.dumps(space)) == space
    assert EFFICIENTLAB_6_3.searched == ("inner_lr", "dropout", "augmentation_rate", "batch_size")


def test_a_tuned_learner_is_a_copy():
    learner = Displacement(MLP(), inner_lr=0.01, batch_size=5)
    found = tuned(learner, {"inner_lr": 0.1, "batch_size": 3, "steps": 7})
    assert (found.inner_lr, found.batch_size) == (0.1, 3)
    assert (learner.inner_lr, learner.batch_size) == (0.01, 5)


def test_dropout_and_augmentation_are_tuned_where_they_are_and_in_a_routine_of_adaptation():
    network = EfficientLab("3", width=0.25, dropout=0.2)
    routine = Displacement(network, batch_size=8, loss=segmentation_loss, augment=Augmentation(rate=0.5))
    found = tuned(JointTraining(routine, classes=3), {"dropout": 0.4, "augmentation_rate": 0.9, "inner_lr": 0.02})
    assert (found.model.dropout.rate, found.adaptation.augment.rate, found.adaptation.inner_lr) == (0.4, 0.9, 0.02)
    assert (network.dropout.rate, routine.augment.rate) == (0.2, 0.5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch_size": 4}, "a learner with 'batch_size', got MAML"),
        ({"augmentation_rate": 0.5}, "a learner that augments, got MAML"),
        ({"dropout": 0.5}, "a model with dropout, got MLP without"),
    ],
)
def test_what_a_learner_does_not_have_cannot_be_tuned(values, message):
    with pytest.raises(ValueError, match=message):
        tuned(MAML(MLP()), values)
