"""What LEO adapts to in this chapter: features by the very network that the other methods adapt."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from mlkit.chapters.encoders import STORE
from mlkit.experiment import Experiment, run, weights_of
from mlkit.learners.common import role
from mlkit.losses import ACCURACY
from mlkit.models import conv4
from mlkit.models.conv4 import Conv4
from mlkit.models.normalization import set_phase
from mlkit.records import Unit, record_key
from mlkit.stored import Record
from mlkit.tasks.features import FeatureClasses, embed, weights_hash


@dataclass(frozen=True)
class BodyFeatures:
    """Features of images by the body of a network that was trained to tell the training classes apart.

    The weights stay on this machine, in `runs/`; they are those of the training's first seed.

    Args:
        training: how it is trained, an `all_methods.Training` of the method finetuning.
    """

    training: Any

    @property
    def features(self) -> int:
        """How many numbers describe an image."""
        return self.training.learner.model.head.in_features

    @property
    def name(self) -> str:
        """The name of its record."""
        return self.training.setting.stem("shared body")

    @property
    def experiment(self) -> Experiment:
        """The supervised training; nothing is chosen by validation."""
        one = self.training
        few, seed = {"validation_tasks": 0, "test_tasks": one.parameters.validation_tasks}, one.parameters.seeds[:1]
        return Experiment(one.learner, one.spec, one.outer, ACCURACY, seed, keep_weights=True, **few)

    @cached_property
    def record(self) -> Record:
        """The record of the training; it is computed where it is missing, and never published."""
        unit = Unit(STORE)
        unit.modes.discard("publish")
        return run(unit, self.name, self.experiment, self.training.execution)

    @cached_property
    def network(self) -> Conv4:
        """The trained network, ready to predict."""
        meta = {name: tensor[0] for name, tensor in weights_of(self.record).items()}
        state, spec = role(meta, "theta") | role(meta, "buffers"), self.training.spec
        classes, form = len(state["head.bias"]), {"size": spec.size, "channels": spec.channels}
        network = conv4(self.training.setting.network, classes, norm="running", **form)
        network.load_state_dict(state)
        set_phase(network, "predict")
        return network.to(self.training.execution.device)

    def __call__(self, images: Tensor) -> Tensor:
        """Describe images (n, channels, size, size) in [0, 1]: (n, features)."""
        network = self.network  # trained before gradients are off
        with torch.no_grad():
            return network.features(images)

    @cached_property
    def _splits(self) -> dict[str, FeatureClasses]:
        return {}

    def classes(self, split: str) -> FeatureClasses:
        """Compute the features of one split, once; train the network where that is still to be done."""
        if split not in self._splits:
            images = replace(self.training.spec, batch_size=None).split(split).source
            how = {"key": weights_hash(self.network.state_dict()), "device": self.training.execution.device}
            self._splits[split] = embed(self, images, **how)
        return self._splits[split]

    def describe(self) -> dict[str, Any]:
        """Say what identifies the features: the network, and the key of the training's record."""
        key = record_key(STORE, self.name, self.experiment.describe())[:16]
        return {"network": self.training.setting.network, "training": key}
