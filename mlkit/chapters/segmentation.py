"""Paper 000, table 2: what is meta-trained on which data, for all chapters that draw from these trainings.

A training leaves two records in the store `initializations`: its scores, which ship with the book, and its weights,
which stay in `runs/` of the machine that trained; where they are missing and wanted, it is trained again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mlkit import project
from mlkit.augmentation import Augmentation
from mlkit.chapters.encoders import encoder_weights
from mlkit.chapters.methods import METHODS, Method, Setting, settings
from mlkit.driver import Learner, Meta
from mlkit.evaluation import evaluate, over_tasks
from mlkit.experiment import weights_of
from mlkit.initializations import NAME, described, packed
from mlkit.learners import Displacement, JointTraining
from mlkit.models import EfficientLab
from mlkit.outer import Execution, OuterLoop, linear
from mlkit.records import Result, Unit, Work
from mlkit.segmentation_losses import IOU, segmentation_loss
from mlkit.stored import Record
from mlkit.tasks import FrozenTasks, SegmentationSpec, SupervisedSegmentationSpec, frozen
from mlkit.training import Trained, train

Records = Mapping[tuple[Setting, str], Record]
STORE = "initializations"  # beside the folders of the units: book/records/initializations, runs/initializations
QUERY, DROPOUT, POINTS = 5, 0.2, 10  # pictures to be judged on, rate before the head, points of learning curves
JOINT_LR = 0.005  # of joint training by SGD (paper 000, section 5.4)
OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
EVERY_BATCH = Augmentation(
    1.0, kinds=("translate", "flip", "noise", "exposure")
)  # of joint training (paper 000's code)


@dataclass(frozen=True)
class Training:
    """One method in one setting: everything that decides its result, from the parameters cell of a chapter.

    Raises:
        ValueError: an unknown method or optimizer.
    """

    setting: Setting
    method: str
    parameters: Any

    def __post_init__(self) -> None:
        for what, given, known in (
            ("method", self.method, METHODS),
            ("optimizer", self.parameters.optimizer, OPTIMIZERS),
        ):
            if given not in known:
                raise ValueError(f"expected a {what} out of {', '.join(known)}; got {given!r}")

    @property
    def kind(self) -> Method:
        """What makes the row."""
        return METHODS[self.method]

    @property
    def is_told_apart(self) -> bool:
        """Whether it is another network than the same one from scratch."""
        return bool(self.kind.training) or not self.kind.pretrained or self.setting.encoder != "random"

    @property
    def stem(self) -> str:
        """The name of its record."""
        words = f"{self.method} {Path(self.setting.data).name} {self.setting.size}".lower().replace("*", " star")
        return re.sub("[^a-z0-9]+", "-", words)

    @property
    def execution(self) -> Execution:
        """How to compute, as the parameters say."""
        p = self.parameters
        return Execution(p.chunk_size, workers=p.workers, device=p.device, evaluation_chunk=p.chunk_size)

    @cached_property
    def routine(self) -> Displacement:
        """The network with the routine by which it adapts, the same for all methods but the unregularized one."""
        p, kind, setting = self.parameters, self.kind, self.setting
        start = setting.encoder if kind.pretrained else "random"
        size = {"width": setting.width, "size": setting.size, "iterations": p.pretraining}
        model = EfficientLab(
            width=setting.width,
            dropout=DROPOUT if kind.regularized else 0.0,
            encoder_weights=encoder_weights(start, **size, execution=self.execution),
            **dict(kind.options),
        )
        return Displacement(
            model,
            "reptile" if kind.training in ("joint", None) else kind.training,
            p.inner_lr,
            p.inner_steps,
            batch_size=p.batch_size,
            loss=segmentation_loss,
            pool=kind.pool,
            augment=Augmentation(p.augmentation) if kind.regularized and p.augmentation else None,
            l2=p.l2 if kind.regularized else 0.0,
        )

    @property
    def outer(self) -> OuterLoop:
        """The outer loop: step sizes that fall linearly to a ten-thousandth (paper 000, table 3 and section 5.4).

        Joint training takes `joint_iterations` steps of one mini-batch; where that is 0, as many mini-batches as the
        others, `meta_batch` at a time.
        """
        p, batches = self.parameters, self.parameters.meta_batch
        iterations, lr = self.setting.iterations if self.kind.training else 0, p.meta_lr
        if self.kind.training == "joint":
            equal, batches = self.setting.joint_iterations == 0, 1 if self.setting.joint_iterations else batches
            iterations = iterations * p.inner_steps if equal else self.setting.joint_iterations
            lr = JOINT_LR if p.optimizer == "sgd" else lr
        optimizer = partial(OPTIMIZERS[p.optimizer], lr=lr)
        schedule = linear(iterations, end=1e-4) if iterations else None
        return OuterLoop(iterations, batches, optimizer, schedule, validate_every=max(1, iterations // POINTS))

    @property
    def mini_batches(self) -> int:
        """How many mini-batches give a gradient in the whole training."""
        steps = 1 if self.kind.training == "joint" else self.parameters.inner_steps
        return self.outer.iterations * self.outer.meta_batch * steps

    def tasks(self, shots: int) -> SegmentationSpec:
        """Name the data, with tasks of so many shots to be judged on; training tasks have the paper's 5 and 5."""
        p, setting = self.parameters, self.setting
        training = {"train_shots": 5, "train_query": 5, "train_fixed_support": self.kind.fixed_support}
        return SegmentationSpec(setting.data, shots, QUERY, setting.size, train_on=p.train_on, **training)

    def test(self, shots: int) -> FrozenTasks:
        """Load the frozen test tasks of so many shots, the same for every method."""
        return frozen(self.tasks(shots).split("test"), self.setting.test_tasks, seed=0)

    @cached_property
    def learner(self) -> Learner:
        """What is trained; reads real data to count the classes of joint training."""
        if self.kind.training != "joint":
            return self.routine
        classes = SupervisedSegmentationSpec(self.tasks(self.parameters.shots[0])).classes
        return JointTraining(self.routine, classes, augment=EVERY_BATCH)

    def describe(self) -> dict[str, Any]:
        """Return the settings that identify its records; no data is read."""
        p = self.parameters
        joint = (
            {"joint": EVERY_BATCH.describe() | {"batch_size": p.batch_size}} if self.kind.training == "joint" else {}
        )
        return {
            "method": {**asdict(self.kind), "options": dict(self.kind.options), "name": self.method},
            "learner": self.routine.describe(),
            "tasks": self.tasks(p.shots[0]).describe(),
            "outer": self.outer.describe(),
            "shots": p.shots,
            "test_tasks": self.setting.test_tasks,
            "watched_tasks": p.watched_tasks,
            "seeds": p.seeds,
            **joint,
            "device": p.device,
            "chunk_size": p.chunk_size,
            "workers": p.workers,
        }

    def record(self) -> Record:
        """Return its scores; train and test where they are missing, going on where a killed run stopped.

        Scores: of each number of shots `mean` and `ci95` over test tasks, as `<k>-shot`; `mini_batches`,
        `train_seconds`. Arrays: `iou_<k>_shot` (seeds, tasks); `history_*` (points, seeds), of which `history_test`
        is the mean over the watched test tasks, that choose nothing: the last state is tested.
        """
        return _stores(project.root())[0].record(self.stem, self.describe(), self._compute)

    def weights(self) -> Meta:
        """Return the meta-parameters of the first seed (1, ...); train where this machine does not hold them."""
        return weights_of(self._keep(lambda work: self._train(work)))

    def _keep(self, trained: Any) -> Record:
        def compute(work: Work) -> Result:
            first = {f"meta/{name}": tensor[0].cpu().numpy() for name, tensor in trained(work).best.items()}
            return Result({"seed": self.parameters.seeds[0]}, first)

        return _stores(project.root())[1].record(f"weights-{self.stem}", self.describe(), compute)

    def _train(self, work: Work) -> Trained:
        shots, learner, how = self.parameters.shots[0], self.learner, self.execution
        watched = self.test(shots)[: self.parameters.watched_tasks]
        spec, batch = self.tasks(shots), self.parameters.batch_size
        source = SupervisedSegmentationSpec(spec, batch) if self.kind.training == "joint" else spec
        return train(
            learner,
            source.split("train").to(how.device),
            self.outer,
            seeds=self.parameters.seeds,
            metric=IOU,
            trackers={"test": lambda meta, _: self._judge(learner, meta, watched).double().mean(1)},
            execution=how,
            folder=work.folder,
        )

    def _judge(self, learner: Learner, meta: Meta, tasks: Any) -> Tensor:
        how = self.execution
        return evaluate(learner, meta, tasks, metric=IOU, chunk_size=how.evaluation_chunk, device=how.device)

    def _compute(self, work: Work) -> Result:
        trained, learner = self._train(work), self.learner
        self._keep(lambda _: trained)
        scores: dict[str, Any] = {
            "metric": IOU.name,
            "mini_batches": self.mini_batches,
            "train_seconds": trained.seconds,
        }
        arrays = {f"history_{name}": values.float().numpy() for name, values in trained.history.items()}
        for shots in self.parameters.shots:
            found = self._judge(learner, trained.best, self.test(shots))
            mean = over_tasks(found)
            scores[f"{shots}-shot"] = {"mean": mean.value, "ci95": mean.ci95}
            arrays[f"iou_{shots}_shot"] = found.float().numpy()
        return Result(scores, arrays, self._data(), tasks=self.setting.test_tasks)

    def _data(self) -> dict[str, Any]:
        """Describe the test tasks; a stand-in is what other data than the paper's tested, trained or pre-trained."""
        tested, tasks = self.test(self.parameters.shots[0]), self.tasks(self.parameters.shots[0])
        learned = tasks.split("train").describe()
        ours = tested.tasks.describe()
        return ours | {
            "content_hash": tested.content_hash,
            "training_data": learned["data"],
            "training_data_hash": learned["content_hash"],
            "stand_in": any(
                [ours["stand_in"], learned["stand_in"], self.setting.data != "fss1000", self._other_encoder]
            ),
        }

    @property
    def _other_encoder(self) -> bool:
        """Whether its encoder starts elsewhere than the paper's: from ImageNet, or for "from scratch" from nothing."""
        weights = self.routine.model.encoder_weights
        return self.kind.pretrained and (weights is None or weights.stand_in)


@cache
def _stores(root: Path) -> tuple[Unit, Unit]:
    """Return the store of scores and that of weights, which never ship."""
    scores, weights = Unit(STORE, root=root), Unit(STORE, root=root)
    weights.modes.discard("publish")
    return scores, weights


def trainings(parameters: Any, methods: Iterable[str] | None = None) -> dict[tuple[Setting, str], Record]:
    """Return the records of every method in every setting of the parameters; compute those that are missing.

    An encoder alone is left out where encoders start from random weights.

    Raises:
        ValueError: an unknown method or optimizer, or columns that differ in length.
    """
    chosen = parameters.methods if methods is None else methods
    asked = [Training(setting, method, parameters) for setting in settings(parameters) for method in chosen]
    return {(one.setting, one.method): one.record() for one in asked if one.is_told_apart}


def ready(unit: Unit, training: Training) -> Record:
    """Return the record of an initialization, small, which `mlkit.segment` starts from."""
    settings = described(training.routine, training.setting.size) | {"of": [training.record().key]}
    return unit.record(NAME, settings, lambda work: packed(training.routine, training.weights()))
