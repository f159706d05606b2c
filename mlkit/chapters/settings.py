"""From the parameters cell of a chapter on objective landscapes to the trainings that it draws from.

The chapters have one block of parameters in common, so that with equal values they draw from the same trainings.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mlkit.chapters.columns import settings_of
from mlkit.driver import Learner, Meta, stack
from mlkit.experiment import Experiment, weights_of
from mlkit.landscape.study import shared
from mlkit.landscape.watch import METRICS, Watch
from mlkit.learners import MAML, Finetuning, RegularizedMAML
from mlkit.losses import ACCURACY
from mlkit.models import conv4
from mlkit.outer import Execution, OuterLoop
from mlkit.seeding import seeded
from mlkit.stored import Record
from mlkit.tasks import SupervisedSpec, TaskBatch, TaskSpec, frozen, image_form

METHODS = ("MAML", "FOMAML", "finetuning", "regularized MAML")
COLUMNS = {  # name of a parameter: the field of a setting that one of its entries is
    "data": "data",
    "ways": "ways",
    "shots": "shots",
    "networks": "network",
    "rotations": "rotations",
    "inner_lrs": "inner_lr",
    "meta_batches": "meta_batch",
    "epochs": "epochs",
    "iterations": "iterations",
}
ONE_STEP = tuple(name for name in METRICS if name not in ("curvature", "representation_product"))  # watched at T = 1


@dataclass(frozen=True)
class Setting:
    """One setting of the paper: data, the shape of its tasks, and what goes with them.

    With `train_images` only so many images of each training class are seen, so that overfitting comes soon.
    """

    data: str
    ways: int
    shots: int
    network: str
    rotations: str
    inner_lr: float
    meta_batch: int
    epochs: int
    iterations: int
    train_images: int | None = None

    def __str__(self) -> str:
        few = f", {self.train_images} training images a class" if self.train_images else ""
        return f"{self.data}, {self.ways}-way {self.shots}-shot{few}"

    @property
    def stem(self) -> str:
        """Its part of a record's name."""
        few = f"-{self.train_images}-images" if self.train_images else ""
        return f"{re.sub('[^a-z0-9]+', '-', Path(self.data).name.lower())}-{self.ways}-way-{self.shots}-shot{few}"


def settings(parameters: Any) -> list[Setting]:
    """Return one setting for each entry of the columns `data`, `ways`, `shots`, ... of a parameters cell.

    Raises:
        ValueError: the columns differ in length.
    """
    return settings_of(parameters, COLUMNS, Setting)


def execution(parameters: Any) -> Execution:
    """Return how to compute, as the parameters say."""
    p = parameters
    return Execution(chunk_size=p.chunk_size, query_chunk=1, workers=p.workers, device=p.device)


def experiment(
    setting: Setting, method: str, parameters: Any, *, steps: int | None = None, watch: Watch | None = None
) -> Experiment:
    """Return the training of one method in one setting, watched after every epoch; the last state is the tested one.

    Args:
        setting: what is learned.
        method: one of METHODS.
        parameters: the rest of the parameters cell.
        steps: T; `inner_steps` of the parameters where it is None.
        watch: what is measured; where it is None all metrics, at one step all but curvature and representations. Only
            a training that is measured by all metrics keeps its weights, for a closer look.

    Raises:
        ValueError: the method is unknown.
    """
    p, steps = parameters, parameters.inner_steps if steps is None else steps
    tasks = TaskSpec(
        setting.data,
        setting.ways,
        setting.shots,
        p.query,
        train_query=p.train_query,
        train_rotations=setting.rotations,
        train_images=setting.train_images,
    )
    supervised = SupervisedSpec(tasks, batch_size=64 if setting.shots == 1 else 128) if method == "finetuning" else None
    return Experiment(
        learner(setting, method, parameters, steps, supervised.classes if supervised else 0),
        supervised or tasks,
        outer_loop(setting, method, parameters),
        ACCURACY,
        p.seeds,
        validation_tasks=0,
        test_tasks=p.test_tasks,
        keep_weights=watch is None and steps != 1,
        watch=watch or watched(parameters, steps),
    )


def learner(setting: Setting, method: str, parameters: Any, steps: int, classes: int) -> Learner:
    """Return the learner of a method; `classes` counts the training classes of finetuning."""
    if method not in METHODS:
        raise ValueError(f"expected methods out of {', '.join(METHODS)}; got {method!r}")
    size, channels = image_form(setting.data)
    model = conv4(setting.network, setting.ways, size=size, channels=channels)
    if method == "finetuning":
        return Finetuning(model, classes, setting.inner_lr, steps)
    maml = MAML(model, setting.inner_lr, steps, first_order=method == "FOMAML")
    return RegularizedMAML(maml, parameters.gamma, parameters.outer) if method == "regularized MAML" else maml


def outer_loop(setting: Setting, method: str, parameters: Any) -> OuterLoop:
    """Return the outer loop: Adam with one learning rate; the history has a point an epoch.

    Where meta-training takes 500 steps, finetuning takes 25 batches of 64 images, or 12 of 128 for more than one shot
    (paper 003, appendix A); fewer in proportion.
    """
    supervised, iterations = method == "finetuning", setting.iterations
    if supervised:
        iterations = max(1, round(iterations * (25 if setting.shots == 1 else 12) / 500))
    adam = partial(torch.optim.Adam, lr=parameters.meta_lr)
    batch = 1 if supervised else setting.meta_batch
    return OuterLoop(setting.epochs * iterations, batch, adam, validate_every=iterations)


def watched(parameters: Any, steps: int) -> Watch:
    """Return what is measured after every epoch: all metrics; at one step all but curvature and representations."""
    p = parameters
    if steps == 1:
        return Watch(ONE_STEP, p.watched_tasks, chunk_size=p.chunk_size)
    images = p.watched_images or None
    return Watch(METRICS, p.watched_tasks, p.curvature_tasks, images, chunk_size=p.chunk_size)


def untrained(
    setting: Setting, method: str, parameters: Any, *, tasks: int, steps: int = 5
) -> tuple[Learner, Meta, TaskBatch]:
    """Return a learner, the meta-parameters (1, ...) that its first seed starts from, and some tasks of glyphs.

    They show what a call looks like, on a machine that holds no data: whatever the setting, the tasks are glyphs.
    """
    shown = replace(setting, data="glyphs", network="small", rotations="none")
    watch = Watch(("support_loss",))  # of no matter
    found = experiment(shown, method, parameters, steps=steps, watch=watch)
    meta = stack([found.learner.init(seeded("untrained", parameters.seeds[0]))])
    return found.learner, meta, frozen(found.tasks.split("test"), tasks, seed=0)[:tasks]


def reload(
    setting: Setting, method: str, parameters: Any, record: Record, *, tasks: int
) -> tuple[Learner, Meta, TaskBatch]:
    """Return the learner of a training, its tested meta-parameters (1, ...), and the first of its frozen test tasks."""
    trained = experiment(setting, method, parameters)
    return trained.learner, weights_of(record), frozen(trained.tasks.split("test"), tasks, seed=0)[:tasks]


def trainings(
    parameters: Any,
    *,
    steps: int | None = None,
    chosen: list[Setting] | None = None,
    methods: list[str] | None = None,
    watch: Watch | None = None,
) -> dict[tuple[Setting, str], Record]:
    """Return the records of every method in every setting; compute those that are missing.

    Args:
        parameters: the parameters cell.
        steps: T; `inner_steps` of the parameters where it is None.
        chosen: settings other than those of the parameters.
        methods: methods other than those of the parameters.
        watch: what is measured, see `experiment`.
    """
    count = parameters.inner_steps if steps is None else steps
    return {
        (setting, method): shared(
            f"{method.lower().replace(' ', '-')}-{setting.stem}-t{count}",
            experiment(setting, method, parameters, steps=count, watch=watch),
            execution(parameters),
        )
        for setting in (settings(parameters) if chosen is None else chosen)
        for method in (parameters.methods if methods is None else methods)
    }
