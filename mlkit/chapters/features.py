"""Features for the chapters on latent embeddings: a network trained on the training classes, then asked about all."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mlkit.catalogue import data_root
from mlkit.chapters.encoders import STORE
from mlkit.experiment import Experiment, run, weights_of
from mlkit.learners import Finetuning
from mlkit.learners.common import role
from mlkit.losses import ACCURACY
from mlkit.models.normalization import set_phase
from mlkit.models.wide_resnet import WideResNet, wide_resnet
from mlkit.outer import Execution, OuterLoop
from mlkit.records import Unit, record_key
from mlkit.stored import Record
from mlkit.tasks import SupervisedSpec, TaskSpec, image_form, load
from mlkit.tasks.feature_files import SPLITS, cached
from mlkit.tasks.features import FeatureClasses, embed, weights_hash


@dataclass(frozen=True)
class NetworkFeatures:
    """Features that a wide residual network computes, trained here to tell the training classes apart.

    Training sees no image of the validation and test classes. Momentum SGD from 0.1, falling to 0 along a cosine, with
    weight decay 0.0005 (Zagoruyko and Komodakis 2016). The weights stay on this machine, in `runs/`; the features
    beside the data, in `features/`, with the hash of the weights.

    Args:
        data: a data set of images by class: glyphs, cifar_fs, mini_imagenet, ...
        network: depth-width; "28-10" has 640 features, as paper 004, "10-2" has 128.
        reductions: 3 halve the image three times, as paper 004 does; 2 for images of 32 pixels.
        iterations: batches.
        batch_size: images of a batch.
        execution: how to compute; does not count as a setting.

    Example:
        >>> NetworkFeatures("cifar_fs", "28-10").features
        640
    """

    data: str = "glyphs"
    network: str = "10-2"
    reductions: int = 3
    iterations: int = 1000
    batch_size: int = 64
    execution: Execution | None = None

    @property
    def features(self) -> int:
        """How many numbers describe an image."""
        with torch.device("meta"):  # no weights are needed to know
            return self._net(1).head.in_features

    @property
    def experiment(self) -> Experiment:
        """The supervised training; it is judged by finetuning to a few tasks of the test classes."""
        data = SupervisedSpec(TaskSpec(self.data, shots=1, query=5), self.batch_size)
        sgd = partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
        cosine = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=self.iterations)
        outer = OuterLoop(self.iterations, 1, sgd, cosine, validate_every=max(1, self.iterations // 10))
        learner = Finetuning(self._net(5), data.classes, inner_lr=0.01, inner_steps=5)
        return Experiment(learner, data, outer, ACCURACY, [0], validation_tasks=0, test_tasks=20, keep_weights=True)

    @property
    def name(self) -> str:
        """The name of its record."""
        return f"wide-resnet-{self.network}-{self.data.replace('_', '-')}"

    def record(self) -> Record:
        """Return the record of the training; compute it where it is missing. It is never published: it is too large."""
        unit = Unit(STORE)
        unit.modes.discard("publish")
        return run(unit, self.name, self.experiment, self.execution)

    def classes(self, split: str) -> FeatureClasses:
        """Load the features of one split; train the network and compute those of all splits where they are missing."""
        meta = {name: tensor[0] for name, tensor in weights_of(self.record()).items()}
        key = weights_hash(meta)

        def make() -> dict[str, FeatureClasses]:
            network, device = self._trained(meta), (self.execution or Execution()).device
            how = {"key": key, "device": device}
            return {part: embed(network.to(device).features, load(self.data, part).source, **how) for part in SPLITS}

        file = f"{self.name}-{self.describe()['training'][:8]}.npz"
        return cached(data_root() / "features" / file, key, make, split=split)

    def describe(self) -> dict[str, Any]:
        """Say what identifies the features: the settings, and the key of the training's record."""
        kept = {name: value for name, value in asdict(self).items() if name != "execution"}
        return kept | {"training": record_key(STORE, self.name, self.experiment.describe())[:16]}

    def _net(self, ways: int) -> WideResNet:
        channels = image_form(self.data)[1]
        return wide_resnet(self.network, ways, channels=channels, reductions=self.reductions)

    def _trained(self, meta: dict[str, Tensor]) -> WideResNet:
        network = self._net(len(meta["theta.head.bias"]))
        network.load_state_dict(role(meta, "theta") | role(meta, "buffers"))
        set_phase(network, "predict")
        return network
