"""From the parameters cell of the chapters on latent embeddings to their trainings, and what these answer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mlkit.chapters.columns import settings_of
from mlkit.chapters.features import NetworkFeatures
from mlkit.chapters.pairs import Gain, gain
from mlkit.driver import Learner
from mlkit.experiment import Experiment, run
from mlkit.learners import LEO, MAML, CodeWatch, leo_outer_loop
from mlkit.losses import ACCURACY
from mlkit.models import SoftmaxClassifier
from mlkit.outer import Execution, OuterLoop
from mlkit.records import Unit
from mlkit.stored import Record
from mlkit.tasks import FeatureFile, FeatureSpec

STORE = "latent_embedding_optimization"  # whose records both chapters share
LEOS = {"LEO": {}, "LEO (random prior)": {"start": "prior"}, "LEO (deterministic)": {"deterministic": True}}
BASELINE = "MAML (our feature embedding)"
ZERO = "from scratch (descent from zero)"  # MAML's inner loop with nothing learned beforehand
METHODS = (*LEOS, BASELINE, ZERO)
SMALL = 1.0  # points of accuracy: the gaps of table 2's ablations, 0.34 and 0.05, are smaller by far
COLUMNS = {  # name of a parameter: the field of a setting that one of its entries is
    "data": "data",
    "networks": "network",
    "reductions": "reductions",
    "pretraining": "pretraining",
    "shots": "shots",
    "versions": "version",
}
RULES = 2  # grows with every change of what answers a row
OWN = ("dropout", "kl", "orthogonality")  # parameters that replace those of the preset where they are not negative
Records = Mapping[tuple["Setting", str], Record]


@dataclass(frozen=True)
class Setting:
    """Features of which data, by which network, how long it learned; shots of a task, and the version of LEO.

    `data` may be the path of an .npz of features, then the network does not matter.
    """

    data: str
    network: str
    reductions: int
    pretraining: int
    shots: int
    version: str

    def __str__(self) -> str:
        return f"{Path(self.data).stem}, 5-way {self.shots}-shot, {self.version}"

    def name(self, method: str) -> str:
        """Name the record of a method; MAML does not depend on the version."""
        version = f"-{self.version}" if method in LEOS else ""
        return re.sub("[^a-z0-9]+", "-", f"{method}-{Path(self.data).stem}-{self.shots}-shot{version}".lower())

    def source(self, execution: Execution | None = None) -> NetworkFeatures | FeatureFile:
        """Return where its features come from."""
        if self.data.endswith(".npz"):
            return FeatureFile(self.data)
        return NetworkFeatures(self.data, self.network, self.reductions, self.pretraining, execution=execution)


def settings(parameters: Any) -> list[Setting]:
    """Return one setting for each entry of the columns `data`, `networks`, ... of a parameters cell.

    Raises:
        ValueError: the columns differ in length.
    """
    return settings_of(parameters, COLUMNS, Setting)


def execution(parameters: Any) -> Execution:
    """Return how to compute, as the parameters say."""
    p = parameters
    return Execution(chunk_size=p.chunk_size, workers=p.workers, device=p.device, evaluation_chunk=100)


def tasks(setting: Setting, parameters: Any) -> FeatureSpec:
    """Return the tasks of a setting: 15 queries a class in training, `query` of the parameters else, 0 for all left."""
    p = parameters
    return FeatureSpec(setting.source(execution(p)), shots=setting.shots, query=p.query or None)


def learner(setting: Setting, method: str, parameters: Any) -> Learner:
    """Return the learner of a method: LEO as its preset has it, but for the parameters that are not negative.

    Raises:
        ValueError: the method is unknown.
    """
    p, features = parameters, setting.source().features
    if method in (BASELINE, ZERO):
        return MAML(SoftmaxClassifier(features, 5, zero=method == ZERO), p.maml_inner_lr, 5)
    if method not in LEOS:
        raise ValueError(f"expected methods out of {', '.join(METHODS)}; got {method!r}")
    own = {name: getattr(p, name) for name in OWN if getattr(p, name) >= 0}
    preset = LEO.v1 if setting.version == "v1" else LEO.v3
    return preset(setting.shots, features=features, **own, **LEOS[method])


def outer_loop(setting: Setting, method: str, parameters: Any) -> OuterLoop:
    """Return the outer loop: that of the preset, with its learning rate where `outer_lr` is 0; Adam for MAML.

    Descent from zero has none: it is tested as it is.
    """
    p = parameters
    how = {"meta_batch": p.meta_batch, "validate_every": p.validate_every}
    if method in (BASELINE, ZERO):
        adam = partial(torch.optim.Adam, lr=p.maml_lr)
        iterations = p.iterations if method == BASELINE else 0
        return OuterLoop(iterations, optimizer=adam, on_divergence="freeze", **how)
    how |= {"optimizer": partial(torch.optim.Adam, lr=p.outer_lr)} if p.outer_lr else {}
    return leo_outer_loop(setting.version, setting.shots, iterations=p.iterations, **how)


def experiment(setting: Setting, method: str, parameters: Any) -> Experiment:
    """Return the training of a method, whose state validation tasks pick; LEO's codes are watched, its weights kept."""
    p = parameters
    return Experiment(
        learner(setting, method, p),
        tasks(setting, p),
        outer_loop(setting, method, p),
        ACCURACY,
        p.seeds,
        validation_tasks=p.validation_tasks,
        test_tasks=p.test_tasks,
        keep_weights=method == "LEO",
        watch=CodeWatch(p.watched_tasks) if method in LEOS else None,
    )


def trained(setting: Setting, method: str, parameters: Any) -> Record:
    """Return the record of a training; compute it where it is missing."""
    return run(Unit(STORE), setting.name(method), experiment(setting, method, parameters), execution(parameters))


def trainings(parameters: Any) -> dict[tuple[Setting, str], Record]:
    """Return the records of every method in every setting."""
    return {
        (setting, method): trained(setting, method, parameters)
        for setting in settings(parameters)
        for method in parameters.methods or METHODS
    }


def answers(records: Records) -> list[dict[str, Any]]:
    """Answer tables 1 and 2 with the records of v1, which is what they print; those of v3 are of another version.

    The direction of a row holds if LEO is ahead of MAML on the same features with its interval; for an ablation if the
    gap lies within a point, either way, with its interval. Each is of the same tasks.
    """
    found = []
    for (setting, method), record in records.items():
        if setting.version != "v1" or (setting, "LEO") not in records:
            continue
        leo = records[setting, "LEO"]
        rival = records.get((setting, BASELINE)) if method == "LEO" else record
        won = gain(rival, leo) if rival is not None else None
        holds = won is not None and (is_small(won) if _is_ablation(method) else won.is_sure)
        measured = {
            "value": 100 * record.scores["mean"],
            "ci95": 100 * record.scores["ci95"],
            "tasks": record.evidence["tasks"],
            "seeds": len(record.settings["seeds"]),
            "same_direction": bool(holds),
            "note": f"LEO minus {BASELINE if method == 'LEO' else method}: {won}" if won else "",
            "data": setting.data,
            "stand_in": record.data["stand_in"] or record.data["data"] != "mini_imagenet",
        }
        found += [{"id": identity, **measured} for identity in _rows(setting.shots, method)]
    return found


def _is_ablation(method: str) -> bool:
    return method in LEOS and method != "LEO"


def is_small(gap: Gain) -> bool | None:
    """Say whether a gap is below a point either way, with its interval; None where that leaves it open."""
    reach = gap.reach
    if abs(gap.tasks.value) + reach <= SMALL:
        return True
    return False if abs(gap.tasks.value) - reach > SMALL else None


def paper_row(setting: Setting, method: str) -> str | None:
    """Return the row of the paper whose method and shots these are, if there is one; v3 has none of its own."""
    found = _rows(setting.shots, method) if setting.version == "v1" else []
    return found[0] if found else None


def _rows(shots: int, method: str) -> list[str]:
    """Return which rows of the paper a method answers."""
    name = {"LEO": "LEO-ours", BASELINE: "MAML-our-feature-embedding"}.get(method)
    found = [f"004/T1/miniImageNet/5-way-{shots}-shot/{name}"] if name and shots in (1, 5) else []
    if shots == 1 and method != ZERO:
        found.append(f"004/T2/miniImageNet/5-way-1-shot/{re.sub('[^A-Za-z]+', '-', method).strip('-')}")
    return found
