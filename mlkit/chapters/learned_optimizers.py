"""What the chapter on learned update rules trains: MAML, the meta-learner LSTM and TURTLE on the waves of paper 002."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from IPython.display import Markdown

from mlkit.chapters.columns import settings_of
from mlkit.chapters.huisman import best_validation, diverged_at, median
from mlkit.driver import Learner, Meta
from mlkit.experiment import Experiment, run, weights_of
from mlkit.learners import MAML, MetaLSTM, Turtle
from mlkit.losses import MEAN_SQUARED_ERROR, mean_squared_error
from mlkit.models import MLP
from mlkit.outer import Execution, OuterLoop
from mlkit.project import nearest
from mlkit.records import Unit
from mlkit.stored import Record
from mlkit.tasks import TaskSpec

INNER_LR, CLIP, LSTM_CLIP = 0.01, 10.0, 0.25  # of MAML; of values, where T > 1; of the norm of the LSTM's meta-gradient
FIRST_ORDER = {  # method: does it take inner gradients for constants?
    "MAML": False,
    "FOMAML": True,
    "LSTM": True,
    "LSTM (enhanced)": False,
    "TURTLE": False,
    "TURTLE (first order)": True,
}
RULES, REFERENCES = ("TURTLE", "TURTLE (first order)"), ("MAML", "FOMAML")  # of figure 3.2
CHUNKS = {True: 200, False: 5000}  # waves adapted at once while evaluating: by a learned rule, or not


class Runs(NamedTuple):
    """How often a method is trained, from other random weights."""

    method: str
    runs: int


class Cell(NamedTuple):
    """A training of figure 3.2: `layers` hidden layers of the update rule, None for MAML, which learns none."""

    method: str
    steps: int
    layers: int | None = None


def learner(method: str, steps: int, *, hidden_layers: int | None = None) -> Learner:
    """Return the learner of a method with T = `steps`, on the sine network.

    Args:
        method: a name in FIRST_ORDER. "LSTM" reads gradient and loss preprocessed, "LSTM (enhanced)" the raw gradient.
        steps: inner steps T, in training and at meta-test.
        hidden_layers: TURTLE as in figure 3.2, with so many layers: it reads the gradient alone, all alpha are 1.
            None: its best setting, 5 layers that read the gradient and its moving average, and alpha is learned.

    Raises:
        ValueError: the method is unknown.

    Example:
        >>> learner("TURTLE", 5).hidden_layers
        5
    """
    if method not in FIRST_ORDER:
        raise ValueError(f"unknown method {method!r}; {nearest(method, FIRST_ORDER)}valid: {', '.join(FIRST_ORDER)}")
    net, how = MLP((1, 40, 40, 1)), {"loss": mean_squared_error, "first_order": FIRST_ORDER[method]}
    clip = CLIP if steps > 1 else None
    if method in REFERENCES:
        return MAML(net, INNER_LR, steps, clip_inner=clip, **how)
    if method not in RULES:
        return MetaLSTM(net, steps, preprocessed=method == "LSTM", **how)
    if hidden_layers is not None:
        how |= {"inputs": ("gradient",), "learn_inner_lr": False, "hidden_layers": hidden_layers}
    return Turtle(net, steps, clip_inner=clip, **how)


def steps_of(method: str, parameters: Any) -> int:
    """Return T of a method in the comparison: the LSTM makes more updates."""
    return parameters.lstm_steps if method.startswith("LSTM") else parameters.inner_steps


def experiment(cell: Cell, parameters: Any, *, runs: int, iterations: int, compared: bool) -> Experiment:
    """Return a training as paper 002 describes it: Adam, one task an outer step, divergence detected and survived.

    Args:
        cell: method, inner steps and, where it is of figure 3.2, hidden layers.
        parameters: the parameters cell.
        runs: so many runs side by side.
        iterations: outer steps.
        compared: whether it is of the comparison: test tasks are watched while it trains, and weights kept.
    """
    p, is_lstm = parameters, cell.method.startswith("LSTM")
    clip = {"clip_norm": LSTM_CLIP} if is_lstm else {"clip_value": CLIP, "clipped": "theta."} if cell.steps > 1 else {}
    adam = functools.partial(torch.optim.Adam, lr=p.meta_lr)
    return Experiment(
        learner(cell.method, cell.steps, hidden_layers=cell.layers),
        TaskSpec("sine_huisman", shots=p.shots, query=p.query),
        OuterLoop(iterations, p.meta_batch, adam, validate_every=p.validate_every, on_divergence="freeze", **clip),
        MEAN_SQUARED_ERROR,
        list(range(runs)),
        validation_tasks=p.validation_tasks,
        test_tasks=p.test_tasks,
        tracked_test_tasks=p.watched_tasks if compared else 0,
        keep_weights=compared,
    )


def comparison(unit: Unit, parameters: Any) -> dict[str, Record]:
    """Return the trainings of figure 3.3 by method; compute those that are missing."""
    p, found = parameters, {}
    for method, runs in settings_of(p, {"methods": "method", "runs": "runs"}, Runs):
        cell = Cell(method, steps_of(method, p))
        asked = experiment(cell, p, runs=runs, iterations=p.iterations, compared=True)
        found[method] = run(unit, slug(method), asked, _execution(method, p))
    return found


def grid(unit: Unit, parameters: Any) -> dict[Cell, Record]:
    """Return the trainings of figure 3.2: order, inner steps, hidden layers, and MAML for reference."""
    p, found = parameters, {}
    cells = [Cell(method, steps) for steps in p.grid_steps for method in REFERENCES]
    cells += [Cell(method, steps, layers) for steps in p.grid_steps for method in RULES for layers in p.grid_layers]
    for cell in cells:
        asked = experiment(cell, p, runs=p.grid_runs, iterations=p.grid_iterations, compared=False)
        depth = "" if cell.layers is None else f"-{cell.layers}-layers"
        found[cell] = run(unit, f"grid-{slug(cell.method)}-t{cell.steps}{depth}", asked, _execution(cell.method, p))
    return found


def trained(records: Mapping[str, Record], parameters: Any) -> dict[str, tuple[Learner, Meta]]:
    """Return the learners of a comparison with the tested weights of their first run."""
    return {
        method: (learner(method, steps_of(method, parameters)), weights_of(record))
        for method, record in records.items()
    }


def results(records: Mapping[str, Record]) -> Markdown:
    """Show what each method of the comparison reached, in how many runs, and which of them diverged."""
    lines = ["| method | order | T | runs | median test error | mean test error | best validation | diverged |"]
    lines.append("|---|---|--:|--:|---|--:|---|---|")
    for method, record in records.items():
        rule, mean = record.settings["learner"], float(np.mean(record.arrays["test_scores"]))
        order = "first" if rule["first_order"] else "second"
        runs = len(record.settings["seeds"])
        lines.append(
            f"| {method} | {order} | {rule['inner_steps']} | {runs} | {median(record)} | {mean:.3g} | "
            f"{best_validation(record)} | {_divergence(record)} |"
        )
    return Markdown("\n".join(lines))


def divergence(records: Mapping[Cell, Record]) -> Markdown:
    """Say which trainings of figure 3.2 lost runs, and when."""
    lost = [
        f"{cell.method}, T = {cell.steps}{'' if cell.layers is None else f', {cell.layers} hidden layers'}: "
        f"{_divergence(record)}"
        for cell, record in records.items()
        if len(diverged_at(record))
    ]
    runs = sum(len(record.settings["seeds"]) for record in records.values())
    return Markdown("\n".join(f"- {words}" for words in lost) or f"None of the {runs} runs of this figure diverged.")


def cost(compared: Mapping[str, Record], others: Iterable[Record]) -> Markdown:
    """Show what a training task took with each method, and what all records took together."""
    lines = ["| method | T | runs side by side | ms a training task | minutes |", "|---|--:|--:|--:|--:|"]
    for method, record in compared.items():
        task = 1e3 / rate if (rate := record.scores["tasks_per_second"]) else 0.0
        steps, runs = record.settings["learner"]["inner_steps"], len(record.settings["seeds"])
        lines.append(f"| {method} | {steps} | {runs} | {task:.2f} | {record.evidence['seconds'] / 60:.1f} |")
    shown = [*compared.values(), *others]
    where = sorted({r.evidence["hardware"]["gpu"] or f"{r.evidence['hardware']['cores']} CPU cores" for r in shown})
    total = sum(record.evidence["seconds"] for record in shown) / 60
    said = f"All {len(shown)} trainings took {total:.1f} minutes on {' and '.join(where)}, validation included."
    return Markdown("\n".join([*lines, "", said]))


def slug(method: str) -> str:
    """Return the name of a method as records carry it.

    Example:
        >>> slug("TURTLE (first order)")
        'turtle-first-order'
    """
    return method.lower().replace(" (", "-").replace(")", "").replace(" ", "-")


def _execution(method: str, parameters: Any) -> Execution:
    chunk = CHUNKS[method not in REFERENCES]
    return Execution(device=parameters.device, workers=parameters.workers, evaluation_chunk=chunk)


def _divergence(record: Record) -> str:
    steps, runs = diverged_at(record), len(record.settings["seeds"])
    if not len(steps):
        return "none"
    return f"{len(steps)} of {runs}, at step {', '.join(f'{step:,}' for step in steps)}"
