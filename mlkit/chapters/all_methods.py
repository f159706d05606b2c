"""Every method of the book on the same tasks: what is trained at one budget, how it is judged, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from mlkit.chapters import learned_images
from mlkit.chapters.all_methods_features import BodyFeatures
from mlkit.chapters.all_methods_settings import DESCENT, LANDSCAPE, METHODS, WITHOUT, Setting, settings
from mlkit.chapters.learned_images import EVALUATED, WAYS
from mlkit.chapters.learned_images_data import ShownSpec
from mlkit.driver import Learner, Meta
from mlkit.evaluation import evaluate, over_tasks
from mlkit.landscape import Watch, coherence, gradients
from mlkit.learners import LEO, Displacement, RegularizedMAML, with_cosine_head
from mlkit.losses import ACCURACY
from mlkit.outer import Execution, OuterLoop, Validation, linear
from mlkit.records import Result, Unit, Work
from mlkit.seeding import seeded
from mlkit.stored import Record
from mlkit.tasks import FeatureSpec, FrozenTasks, TaskDistribution, content_hash, frozen
from mlkit.training import Trained, train

Records = Mapping[tuple[Setting, str], Record]
OWN = ("ANIL", "Meta-SGD", "Reptile", "regularized MAML", "LEO")  # not among the rows of paper 002
WATCHED = ("support_loss", "displacement_norm", "trajectory_cosine", "gradient_product")
MANY_CLASSES, COSINE_SCALE = 200, 10.0  # above so many training classes Baseline++ has this scale (Chen et al. 2019)
COMPRESSED = 4  # times as many features as numbers of LEO's codes; 10 in paper 004, where features are 640
TOLERANCE, LEO_CLIP = 1e-3, 0.1  # relative error of a curvature; of LEO's meta-gradients (public code of paper 004)


@dataclass(frozen=True)
class Training:
    """One method in one setting: everything that decides its result, from the parameters cell.

    The budget is a number of tasks. A method that learns from supervised batches gets as many of these, with as many
    images as a task has; LEO one half of the tasks' images for the body that makes its features, and the other half of
    the tasks for itself.

    Raises:
        ValueError: an unknown method.
    """

    setting: Setting
    method: str
    parameters: Any

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"expected methods out of {', '.join(METHODS)}; got {self.method!r}")

    @cached_property
    def row(self) -> learned_images.Training:
        """The row of the chapter on learned optimizers that this one is; MAML's, where the chapter has none."""
        s, p = self.setting, self.parameters
        every = max(1, s.training_tasks // p.points)
        given = SimpleNamespace(**vars(p) | {"inner_lr": s.inner_lr, "enhanced_steps": 1, "validate_every": every})
        budget = (s.training_tasks, s.meta_batch, s.lstm_steps, 0)
        column = learned_images.Setting(s.data, s.data, s.shots, s.network, *budget)
        return learned_images.Training(column, "MAML" if self.method in OWN else self.method, given)

    @property
    def execution(self) -> Execution:
        """How to compute, as the parameters say."""
        return self.row.execution

    @cached_property
    def body(self) -> BodyFeatures:
        """The features that LEO adapts to, learned from half of the budget."""
        half = replace(self.setting, training_tasks=max(1, self.setting.training_tasks // 2))
        return BodyFeatures(Training(half, "finetuning", self.parameters))

    @property
    def image_spec(self) -> ShownSpec:
        """Name the tasks of images; for a pre-trained body the split "train" is of batches as large as a task."""
        spec, p = self.row.spec(self.setting.data), self.parameters
        return replace(spec, batch_size=WAYS * (self.setting.shots + p.train_query)) if spec.batch_size else spec

    @cached_property
    def spec(self) -> ShownSpec | FeatureSpec:
        """Name what the method learns from and is judged on; LEO's features are of the same images."""
        if self.method != "LEO":
            return self.image_spec
        return FeatureSpec(self.body, WAYS, self.setting.shots, self.parameters.query, self.parameters.train_query)

    @cached_property
    def learner(self) -> Learner:
        """What is trained."""
        p, maml = self.parameters, self.row.learner
        if self.method == "ANIL":
            return replace(maml, adapted="head.")
        if self.method == "Meta-SGD":
            return replace(maml, learn_inner_lr=True)
        if self.method == "regularized MAML":
            return RegularizedMAML(maml, p.gamma)
        if self.method == "Reptile":
            batches = {"batch_size": p.reptile_batch, "pool": "all"}
            return Displacement(maml.model, "reptile", maml.inner_lr, maml.inner_steps, **batches)
        if self.method == "Baseline++" and (maml.classes or 0) > MANY_CLASSES:
            return replace(maml, model=with_cosine_head(maml.model, scale=COSINE_SCALE))
        if self.method == "LEO":
            features = self.body.features
            return LEO.v3(self.setting.shots, features=features, latents=max(1, features // COMPRESSED))
        return maml

    @property
    def tester(self) -> Learner:
        """The learner as it adapts to a new task; gradient descent by `test_steps`, regularized MAML as MAML."""
        learner = self.learner.maml if self.method == "regularized MAML" else self.learner
        return replace(learner, inner_steps=self.parameters.test_steps) if self.method in DESCENT else learner

    @cached_property
    def outer(self) -> OuterLoop:
        """The outer loop: the budget in steps of as many tasks as the method likes; a run that breaks stops."""
        p, s, outer = self.parameters, self.setting, self.row.outer
        if self.method == "Reptile":
            sgd = partial(torch.optim.SGD, lr=p.reptile_lr)
            return replace(outer, optimizer=sgd, schedule=linear(max(1, outer.iterations), end=0.0), clip_value=None)
        if self.method == "LEO":
            iterations = max(1, s.training_tasks // 2 // s.meta_batch)
            every = max(1, iterations // p.points)
            clip = {"clip_value": LEO_CLIP, "clip_norm": LEO_CLIP}
            return replace(outer, iterations=iterations, validate_every=every, on_divergence="skip", **clip)
        return outer

    @property
    def watch(self) -> Watch | None:
        """What is measured of the tested state; nothing where it would mean nothing."""
        p = self.parameters
        if self.method in WITHOUT["gradient_product"] or not p.watched_tasks:
            return None
        metrics, curved = (*WATCHED, "curvature") if p.curvature_tasks else WATCHED, max(1, p.curvature_tasks)
        return Watch(metrics, p.watched_tasks, curved, tolerance=TOLERANCE, chunk_size=EVALUATED)

    def describe(self) -> dict[str, Any]:
        """Return the settings that identify its record; no data is read."""
        p = self.parameters
        return {
            "method": self.method,
            "learner": self.learner.describe(),
            "tasks": self.spec.describe(),
            "outer": self.outer.describe(),
            "test_steps": p.test_steps if self.method in DESCENT else None,
            "validation_tasks": p.validation_tasks,
            "test_tasks": p.test_tasks,
            "watch": self.watch.describe() if self.watch else None,
            "seeds": p.seeds,
            "device": p.device,
            "chunk_size": p.chunk_size,
            "workers": p.workers,
        }

    def record(self, unit: Unit) -> Record:
        """Return its scores; train, test and measure where they are missing, going on where a killed run stopped.

        Scores: `mean` and `ci95` over tasks; `tasks` of a run; `train_seconds` of all runs with validation; of each
        name in LANDSCAPE that means something `value`, `low`, `high`; `tasks_hash` of the images of the test tasks, the
        same for every method. Arrays: `test_scores` (seeds, tasks), `history_*` (points, seeds). What it costs is
        measured apart, by `all_methods_costs`.
        """
        return unit.record(self.setting.stem(self.method), self.describe(), self._compute)

    def _split(self, split: str) -> TaskDistribution:
        return self.spec.split(split).to(self.parameters.device)

    def _train(self, work: Work) -> Trained:
        p = self.parameters
        steps = p.test_steps if self.method in DESCENT else None
        picks = None
        if self.outer.iterations:
            picks = Validation(frozen(self._split("val"), p.validation_tasks, seed=0), ACCURACY, steps)
        how = {"metric": ACCURACY, "validation": picks, "execution": self.execution, "folder": work.folder}
        return train(self.learner, self._split("train"), self.outer, seeds=p.seeds, **how)

    def _compute(self, work: Work) -> Result:
        p, trained = self.parameters, self._train(work)
        tests = frozen(self._split("test"), p.test_tasks, seed=0)
        how = {"metric": ACCURACY, "chunk_size": EVALUATED, "device": p.device}
        found = evaluate(self.tester, trained.best, tests, **how)
        mean = over_tasks(found)
        scores = {
            "metric": ACCURACY.name,
            "mean": mean.value,
            "ci95": mean.ci95,
            "tasks": self.outer.iterations * self.outer.meta_batch,
            "train_seconds": trained.seconds,
            "best_iteration": trained.best_iteration.tolist(),
            "tasks_hash": content_hash({}, {"images": tests.draws["images"]}),
            **trained.accidents(),
        }
        scores |= self._landscape(trained.best, tests)
        arrays = {f"history_{name}": values.float().numpy() for name, values in trained.history.items()}
        data = tests.tasks.describe() | {"content_hash": tests.content_hash}
        return Result(scores, arrays | {"test_scores": found.float().numpy()}, data, tasks=p.test_tasks)

    def _landscape(self, meta: Meta, tests: FrozenTasks) -> dict[str, dict[str, float]]:
        """Measure the tested state of every run; numbers are means over runs, with their intervals over tasks."""
        p = self.parameters
        if self.watch is None:
            return {}
        how = {"metric": ACCURACY, "workers": p.workers, "device": p.device}
        numbers = self.watch.measure(self.tester, meta, tests.tasks, **how)
        cosines = torch.tensor([self._cosine(run, tests) for run in _runs(meta)])
        numbers |= {f"gradient_cosine{end}": cosines[:, k] for k, end in enumerate(("", "_low", "_high"))}
        asked = [name for name in (*LANDSCAPE, *WATCHED[:2]) if name in numbers]
        ends = {"value": "", "low": "_low", "high": "_high"}
        return {name: {key: float(numbers[name + end].mean()) for key, end in ends.items()} for name in asked}

    def _cosine(self, meta: Meta, tests: FrozenTasks) -> tuple[float, float, float]:
        """Return the mean cosine of the gradients of two tasks with its interval; NaN where they are not finite."""
        if not all(tensor.isfinite().all() for tensor in meta.values() if tensor.is_floating_point()):
            return (math.nan,) * 3
        tasks = frozen(tests.tasks, self.parameters.watched_tasks, seed=0)
        chunks = gradients(self.tester, meta, tasks, chunk_size=EVALUATED, device=self.parameters.device)
        found = coherence(chunks, directions=True)
        return found.value, found.low, found.high


def _runs(meta: Meta) -> list[Meta]:
    """Return each run's meta-parameters as a stack of one (1, ...)."""
    count = len(next(iter(meta.values())))
    return [{name: tensor[run : run + 1] for name, tensor in meta.items()} for run in range(count)]


def trainings(unit: Unit, parameters: Any) -> Records:
    """Return the records of every method in every setting; compute those that are missing.

    Raises:
        ValueError: an unknown method, columns that differ in length, or records that were judged on other tasks.
    """
    chosen = parameters.methods or METHODS
    asked = [Training(setting, method, parameters) for setting in settings(parameters) for method in chosen]
    records = {(one.setting, one.method): one.record(unit) for one in asked}
    for setting in dict.fromkeys(setting for setting, _ in records):
        judged = {record.scores["tasks_hash"] for (where, _), record in records.items() if where == setting}
        if len(judged) > 1:
            raise ValueError(
                f"expected every method to be judged on the same tasks of {setting}, got {len(judged)} sets of them; "
                "delete the records of this setting and run again"
            )
    return records


def budgets(parameters: Any) -> dict[Setting, dict[str, int]]:
    """Count what every method learns from in each setting: tasks, and their images."""
    p = parameters
    return {
        s: {"tasks": s.training_tasks, "images": s.training_tasks * WAYS * (s.shots + p.train_query)}
        for s in settings(p)
    }


def sizes(setting: Setting, parameters: Any) -> dict[str, int]:
    """Count the numbers that each method learns before a task comes; LEO's body is not among its own."""
    found = {}
    for method in parameters.methods or METHODS:
        meta: dict[str, Tensor] = Training(setting, method, parameters).learner.init(seeded("sizes"))
        found[method] = sum(tensor.numel() for name, tensor in meta.items() if not name.startswith("buffers."))
    return found
