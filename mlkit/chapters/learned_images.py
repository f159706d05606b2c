"""Paper 002 on images: every row of tables 3.1 and 3.4 as a training, from the parameters cell to its record."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from mlkit.chapters.learned_images_data import ShownSpec, common_form
from mlkit.chapters.learned_images_settings import DESCENT, METHODS, OWN, RULES, TRANSFER, Setting, settings
from mlkit.driver import Learner, Meta, meta_gradient
from mlkit.evaluation import evaluate, median_of_runs, over_tasks
from mlkit.landscape.watch import Watch
from mlkit.learners import MAML, MetaLSTM, Transfer, Turtle, with_cosine_head
from mlkit.losses import ACCURACY
from mlkit.models import conv4
from mlkit.outer import Execution, OuterLoop, Validation
from mlkit.records import Result, Unit, Work
from mlkit.seeding import seeded
from mlkit.stored import Record
from mlkit.tasks import FrozenTasks, TaskBatch, TaskSpec, frozen, sample
from mlkit.training import Trained, train

WATCHED = ("support_loss", "displacement_norm", "trajectory_cosine", "gradient_product")
WAYS, SUPERVISED, TURTLE_BATCH = 5, 16, 2  # classes of a task, images of a batch, tasks of an outer step of TURTLE
CLIP, NORM = 10.0, 0.25  # of values of gradients; of the LSTM's meta-gradient
EVALUATED, TIMED = 10, 4  # tasks evaluated at once; tasks whose meta-gradient is timed


def initialization(meta: Meta) -> Meta:
    """Return what is learned without its rule: weights and buffers, to be adapted by plain gradient descent.

    TURTLE's `inner_lr.*` has to go: it scales what a network says, and MAML would take it for learning rates.
    """
    return {name: tensor for name, tensor in meta.items() if name.startswith(("theta.", "buffers."))}


@dataclass(frozen=True)
class Training:
    """One method in one setting: everything that decides its result, from the parameters cell.

    Raises:
        ValueError: an unknown method.
    """

    setting: Setting
    method: str
    parameters: Any

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"expected methods out of {', '.join(METHODS)}; got {self.method!r}")

    @property
    def execution(self) -> Execution:
        """How to compute, as the parameters say."""
        p = self.parameters
        return Execution(p.chunk_size, query_chunk=1, workers=p.workers, device=p.device, evaluation_chunk=EVALUATED)

    def spec(self, name: str) -> ShownSpec:
        """Name tasks of the setting's shape on some data, in the form that both data sets share."""
        p, setting = self.parameters, self.setting
        tasks = TaskSpec(name, WAYS, setting.shots, p.query, train_query=p.train_query)
        supervised = SUPERVISED if self.method in TRANSFER[1:] else None
        return ShownSpec(tasks, *common_form(setting.data, setting.elsewhere), supervised)

    @cached_property
    def learner(self) -> Learner:
        """What is trained."""
        p, setting, method = self.parameters, self.setting, self.method
        spec, first = self.spec(setting.data), method in ("FOMAML", "LSTM", "TURTLE (first order)")
        norm = "running" if method in TRANSFER[1:] else "transductive"
        model = conv4(setting.network, WAYS, size=spec.size, channels=spec.channels, norm=norm)
        if method in TRANSFER:
            model = with_cosine_head(model) if method == "Baseline++" else model
            return Transfer(model, spec.classes if spec.batch_size else None, inner_steps=p.transfer_steps)
        how = {"first_order": first, "checkpoint": p.checkpoint}
        if method in DESCENT:
            return MAML(model, p.inner_lr, p.inner_steps, clip_inner=CLIP, **how)
        if method in RULES[:2]:
            return MetaLSTM(model, setting.lstm_steps if first else p.enhanced_steps, preprocessed=first, **how)
        return Turtle(model, p.inner_steps, clip_inner=CLIP if p.inner_steps > 1 else None, **how)

    @property
    def test_steps(self) -> int | None:
        """Inner steps at meta-validation and meta-test; None for the learner's own."""
        return self.parameters.test_steps if self.method in DESCENT else None

    @property
    def outer(self) -> OuterLoop:
        """The outer loop: every method sees as many tasks (or batches of 16 images); Adam; a run that breaks stops."""
        p, setting = self.parameters, self.setting
        batch, more = 1, {}
        if self.method in DESCENT:
            batch, more = setting.meta_batch, {"clip_value": CLIP}
        elif self.method in RULES[:2]:
            more = {"clip_norm": NORM}
        elif self.method in RULES:
            batch, more = TURTLE_BATCH, {"clip_value": CLIP, "clipped": "theta."}
        iterations = 0 if self.method == "from scratch" else setting.training_tasks // batch
        adam, every = partial(torch.optim.Adam, lr=p.meta_lr), max(1, p.validate_every // batch)
        return OuterLoop(iterations, batch, adam, validate_every=every, on_divergence="freeze", **more)

    @property
    def watch(self) -> Watch | None:
        """What is measured while it is trained: of meta-learners alone, where the setting asks for tasks."""
        count = self.setting.watched_tasks
        return Watch(WATCHED, count, chunk_size=EVALUATED) if count and self.method not in TRANSFER else None

    def describe(self) -> dict[str, Any]:
        """Return the settings that identify its record; no data is read."""
        p = self.parameters
        return {
            "method": self.method,
            "learner": self.learner.describe(),
            "tasks": self.spec(self.setting.data).describe(),
            "elsewhere": self.spec(self.setting.elsewhere).describe(),
            "outer": self.outer.describe(),
            "test_steps": self.test_steps,
            "validation_tasks": p.validation_tasks,
            "test_tasks": p.test_tasks,
            "descent": [p.inner_lr, p.test_steps] if self.method in RULES else None,
            "watch": self.watch.describe() if self.watch else None,
            "seeds": p.seeds,
            "device": p.device,
            "chunk_size": p.chunk_size,
            "workers": p.workers,
        }

    def record(self, unit: Unit) -> Record:
        """Return its scores; train and test where they are missing, going on where a killed run stopped.

        Scores: of `test` and `elsewhere` their mean and ci95 over tasks, and the paper's `median` over tasks with its
        `median_ci95` over runs; `descent` likewise, the initialization of a learned rule adapted by gradient descent
        on the setting's own data; `tasks` of a run; seconds of all runs: `train_seconds` with validation, without
        `watch_seconds`, `test_seconds` on both data sets; `task_seconds` of one task's meta-gradient;
        `best_iteration`, and `diverged_at` where a run was frozen. Arrays: `test_scores`, `elsewhere_scores`,
        `descent_scores` (seeds, tasks), `history_*` (points, seeds).
        """
        stem = re.sub("[^a-z0-9]+", "-", f"{self.method} {self.setting}".lower().replace("++", " plus")).strip("-")
        return unit.record(stem, self.describe(), self._compute)

    def _frozen(self, name: str, split: str, count: int) -> FrozenTasks:
        return frozen(self.spec(name).split(split).to(self.parameters.device), count, seed=0)

    def _train(self, work: Work) -> Trained:
        p, name, spec = self.parameters, self.setting.data, self.spec(self.setting.data)
        picks = Validation(self._frozen(name, "val", p.validation_tasks), ACCURACY, self.test_steps)
        trackers = {}
        if self.watch:
            test = spec.split("test").to(p.device)
            trackers["watch"] = self.watch.on(self.learner, test, metric=ACCURACY, device=p.device)
        return train(
            self.learner,
            spec.split("train").to(p.device),
            self.outer,
            seeds=p.seeds,
            metric=ACCURACY,
            validation=picks if self.outer.iterations else None,
            trackers=trackers,
            execution=self.execution,
            folder=work.folder,
        )

    def _judge(self, learner: Learner, meta: Meta, tasks: FrozenTasks, steps: int | None) -> Tensor:
        how = {"chunk_size": EVALUATED, "device": self.parameters.device}
        return evaluate(learner, meta, tasks, metric=ACCURACY, steps=steps, **how)

    def _compute(self, work: Work) -> Result:
        p, setting, trained = self.parameters, self.setting, self._train(work)
        own, other = (self._frozen(name, "test", p.test_tasks) for name in (setting.data, setting.elsewhere))
        begin = time.monotonic()
        found = {
            name: self._judge(self.learner, trained.best, tasks, self.test_steps)
            for name, tasks in (("test", own), ("elsewhere", other))
        }
        seconds = {"test_seconds": time.monotonic() - begin, "task_seconds": self._task_seconds(trained.last)}
        if self.method in RULES:
            plain = MAML(self.learner.model, p.inner_lr, p.inner_steps)
            found["descent"] = self._judge(plain, initialization(trained.best), own, p.test_steps)
        scores = {name: _summary(values) for name, values in found.items()} | self._told(trained) | seconds
        arrays = {f"history_{name}": values.float().numpy() for name, values in trained.history.items()}
        arrays |= {f"{name}_scores": values.float().numpy() for name, values in found.items()}
        return Result(scores, arrays, self._data(own, other), tasks=p.test_tasks)

    def _told(self, trained: Trained) -> dict[str, Any]:
        """Say what the training took, and where it broke."""
        return {
            "metric": ACCURACY.name,
            "tasks": self.outer.iterations * self.outer.meta_batch,
            "train_seconds": trained.seconds,  # without what was watched
            "watch_seconds": trained.tracking_seconds,
            "best_iteration": trained.best_iteration.tolist(),
            **trained.accidents(),
        }

    def _task_seconds(self, meta: Meta) -> float | None:
        """Time the meta-gradient of a task, the first left out; None where none is taken."""
        if not self.outer.iterations:
            return None
        tasks = sample(self.spec(self.setting.data).split("train"), TIMED + 1, seeded("timed"))
        first = {name: tensor[:1] for name, tensor in meta.items()}
        warm, *timed = tasks.to(self.parameters.device).chunks(1)

        def once(task: TaskBatch) -> float:
            return float(meta_gradient(self.learner, first, task).losses.sum())  # waits for the device

        once(warm)
        begin = time.monotonic()
        for task in timed:
            once(task)
        return (time.monotonic() - begin) / TIMED

    def _data(self, own: FrozenTasks, other: FrozenTasks) -> dict[str, Any]:
        learned = self.spec(self.setting.data).split("train").describe()
        return own.tasks.describe() | {
            "content_hash": own.content_hash,
            "training_data_hash": learned["content_hash"],
            "elsewhere": other.tasks.describe() | {"content_hash": other.content_hash},
            "stand_in": self.setting.data not in OWN,
        }


def _summary(scores: Tensor) -> dict[str, float]:
    mean, median = over_tasks(scores), median_of_runs(scores)
    return {"mean": mean.value, "ci95": mean.ci95, "median": median.value, "median_ci95": median.ci95}


def trainings(unit: Unit, parameters: Any) -> Mapping[tuple[Setting, str], Record]:
    """Return the records of every method in every setting; compute those that are missing.

    Raises:
        ValueError: an unknown method, or columns that differ in length.
    """
    chosen = parameters.methods or METHODS
    asked = [Training(setting, method, parameters) for setting in settings(parameters) for method in chosen]
    return {(one.setting, one.method): one.record(unit) for one in asked}


def sizes(setting: Setting, parameters: Any) -> dict[str, dict[str, int]]:
    """Count what each method meta-learns: its role in the meta-parameters -> numbers."""
    found: dict[str, dict[str, int]] = {}
    for method in parameters.methods or METHODS:
        meta = Training(setting, method, parameters).learner.init(seeded("sizes"))
        found[method] = {}
        for name, tensor in meta.items():
            role = name.partition(".")[0]
            found[method][role] = found[method].get(role, 0) + tensor.numel()
    return found
