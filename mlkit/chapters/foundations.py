"""The learners of the part "Foundations", trained anew in small: waves and classes of images, for other chapters."""

from __future__ import annotations

from typing import Any

from mlkit.chapters.tuning import Tunable, around
from mlkit.driver import Learner, Meta
from mlkit.experiment import Experiment, run, weights_of
from mlkit.learners import MAML
from mlkit.losses import ACCURACY, MEAN_SQUARED_ERROR, mean_squared_error
from mlkit.models import MLP, conv4
from mlkit.outer import Execution, OuterLoop
from mlkit.records import Unit
from mlkit.stored import Record
from mlkit.tasks import TaskSpec, frozen, image_form
from mlkit.uho import Space

CHUNKS = {True: 1000, False: 25}  # tasks adapted at once while evaluating: of waves, of images


def is_wave(name: str) -> bool:
    """Say whether tasks are waves, to be fitted; others are classes of images, to be told apart."""
    return name.startswith("sine_")


def experiment(name: str, *, iterations: int, test_tasks: int, seed: int) -> Experiment:
    """Return a training by MAML: of 5-shot waves by five steps, or of 5-way 1-shot images by three.

    Args:
        name: of the tasks, such as sine_huisman, glyphs, omniglot.
        iterations: outer steps.
        test_tasks: frozen tasks that judge it.
        seed: of the one run.
    """
    every, kept = max(1, iterations // 4), {"validation_tasks": test_tasks, "test_tasks": test_tasks}
    if is_wave(name):
        learner = MAML(MLP((1, 40, 40, 1)), 0.01, 5, mean_squared_error, clip_inner=10.0)
        tasks, metric = TaskSpec(name, shots=5, query=50), MEAN_SQUARED_ERROR
        outer = OuterLoop(iterations, 10, clip_value=10.0, validate_every=every)
    else:
        size, channels = image_form(name)
        learner, metric = MAML(conv4("small", 5, size=size, channels=channels), 0.1, 3), ACCURACY
        turns = "classes" if name == "omniglot" else "none"
        tasks = TaskSpec(name, 5, 1, 5, train_rotations=turns)
        outer = OuterLoop(iterations, 4, validate_every=every)
    return Experiment(learner, tasks, outer, metric, [seed], keep_weights=True, **kept)


def trained(unit: Unit, name: str, parameters: Any, *, iterations: int) -> tuple[Experiment, Record]:
    """Return a training and its record, with weights; train where it is missing.

    It is tested on three times the `validation_tasks` of the parameters; `seeds` (the first), `workers`, `device` are
    read off them, too.
    """
    p = parameters
    found = experiment(name, iterations=iterations, test_tasks=3 * p.validation_tasks, seed=p.seeds[0])
    how = Execution(None if is_wave(name) else 1, query_chunk=1, workers=1 if is_wave(name) else p.workers,
                    device=p.device, evaluation_chunk=CHUNKS[is_wave(name)])  # fmt: skip
    return found, run(unit, f"maml-{name.replace('_', '-')}", found, how)


def tunable(name: str, found: Experiment, record: Record, parameters: Any) -> Tunable:
    """Return a trained learner as something to tune, its learning rate from 10 times below to 10 above."""

    def ready() -> tuple[Learner, Meta]:
        return found.learner, weights_of(record)

    routine = {"inner_lr": found.learner.inner_lr, "steps": found.learner.inner_steps}
    return Tunable(
        f"MAML, {name}",
        f"maml-{name.replace('_', '-')}",
        (record.key,),
        routine,
        Space(around(found.learner.inner_lr)),
        found.metric,
        lambda split, count, seed: frozen(found.tasks.split(split), count, seed),
        searched=ready,
        tested=ready,
        before=record.arrays["test_scores"][0],
        max_steps=parameters.max_steps,
        data=record.data,
        chunk_size=CHUNKS[is_wave(name)],
        device=parameters.device,
    )
