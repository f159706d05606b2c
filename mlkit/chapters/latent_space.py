"""What the chapter on the space of codes looks at: codes of many tasks on their way, measured, and drawn flat."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from IPython.display import Markdown
from torch import Tensor

from mlkit.chapters import latent_embeddings
from mlkit.chapters.latent_embeddings import Setting
from mlkit.chapters.latent_space_measures import alike, charts, kept, separation
from mlkit.driver import Meta
from mlkit.evaluation import Summary, over_tasks
from mlkit.experiment import weights_of
from mlkit.figures import Series
from mlkit.learners import LEO, codes_along
from mlkit.records import Result, Unit
from mlkit.stored import Record
from mlkit.tasks import FeatureClasses, FeatureTasks, TaskBatch, frozen

SEED = 1  # of the tasks looked at; those of seed 0 picked the state that is looked at
MEASURES = 1  # grows with every change of what is measured or drawn, so that a stored record is made anew
PANELS = {  # array of a record: what it is called on the page, and its scale
    "separation": ("class separation (mean silhouette)", 1.0),
    "moved": ("distance from where the code started", 1.0),
    "accuracy": ("accuracy on new images (%)", 100.0),
}


@dataclass(frozen=True)
class Walks:
    """Codes of tasks on their way, and whose they are.

    codes: after 0, 1, ... steps (tasks, steps + 1, ways, latents); features: of the support examples, averaged over a
    class (tasks, ways, features); classes, images: numbers of the class and of its first support example (tasks, ways);
    accuracy: on query examples, with what the codes are decoded into (tasks, steps + 1); names: of the classes.
    """

    codes: Tensor
    features: Tensor
    classes: Tensor
    images: Tensor
    accuracy: Tensor
    names: tuple[str, ...]
    data: Mapping[str, Any]

    @property
    def groups(self) -> Tensor:
        """The task and the image of every code (tasks * ways, 2): codes that share one are not compared."""
        task = torch.arange(len(self.images))[:, None].expand_as(self.images)
        return torch.stack([task.flatten(), self.images.flatten()], 1)

    def at(self, step: int) -> Tensor:
        """Return the codes after a step (tasks * ways, latents)."""
        return self.codes[:, step].flatten(0, 1)


def of_classes(tasks: FeatureTasks, count: int) -> FeatureTasks:
    """Leave the first `count` classes to be drawn; 0 for all."""
    source = tasks.source
    if not 0 < count < len(source.names):
        return tasks
    how = {"names": source.names[:count], "network": source.network, "stand_in": source.stand_in}
    return replace(tasks, source=FeatureClasses.build(source.name, source.arrays()[:count], **how))


def walks(setting: Setting, parameters: Any, training: Record) -> Walks:
    """Adapt to frozen tasks with the tested weights of a training's first run, and keep every code on the way."""
    p, how = parameters, latent_embeddings.execution(parameters)
    learner = latent_embeddings.learner(setting, "LEO", p)
    meta = {name: tensor.to(how.device) for name, tensor in weights_of(training).items()}
    source = of_classes(latent_embeddings.tasks(setting, p).split(p.split), p.classes).to(how.device)
    tasks = frozen(source, p.tasks, SEED)
    size = how.evaluation_chunk
    parts = [_walk(learner, meta, tasks[at : at + size].to(how.device)) for at in range(0, p.tasks, size)]
    codes, features, accuracy = (torch.cat(each).cpu() for each in zip(*parts, strict=True))
    images = tasks.draws["images"][:, :, 0]
    data = source.describe() | {"content_hash": tasks.content_hash}
    return Walks(codes, features, source.classes_of(tasks.draws), images, accuracy, source.source.names, data)


def _walk(learner: LEO, meta: Meta, batch: TaskBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Return codes, support features averaged over a class, and the accuracy after every step."""
    found = codes_along(learner, meta, batch)
    scores = torch.einsum("tsnf,tqf->tsqn", found.classifiers, batch.query.x)
    right = scores.argmax(-1) == batch.query.y[:, None]
    return found.codes, batch.support.x.unflatten(1, (learner.ways, -1)).mean(2), right.float().mean(-1)


def measured(found: Walks, *, neighbors: int) -> dict[str, Tensor]:
    """Measure codes after every step, by task.

    - `separation` (steps + 1, tasks, ways): the silhouette of a code among all codes after as many steps; of the
      features likewise `feature_separation` (tasks, ways);
    - `moved`, `between` (steps + 1, tasks): mean distance of codes from where they started, and of a task's codes from
      one another; `spread` (): of all codes at the start, from their mean (root of the mean square);
    - `neighbors` (2, tasks): share of a code's nearest that are of its class, before and after; `chance` (tasks,): what
      it would be without any structure;
    - `outside` (tasks,): share of adapted codes farther from the mean of the encoder's codes than 99 % of these are;
    - `accuracy` (steps + 1, tasks).
    """
    tasks, last, ways = len(found.codes), found.codes.shape[1] - 1, found.codes.shape[2]
    classes, groups = found.classes.flatten(), found.groups
    each = [separation(found.at(step), classes, groups).unflatten(0, (tasks, ways)) for step in range(last + 1)]
    near = [alike(found.at(step), classes, groups, count=neighbors) for step in (0, last)]
    start, end = found.at(0).double(), found.at(last).double()
    before, after = ((codes - start.mean(0)).norm(dim=1) for codes in (start, end))  # from the middle
    shares = torch.bincount(classes).double() / len(classes)
    return {
        "separation": torch.stack(each),
        "feature_separation": separation(found.features.flatten(0, 1), classes, groups).unflatten(0, (tasks, ways)),
        "moved": (found.codes - found.codes[:, :1]).norm(dim=-1).mean(-1).mT,
        "between": torch.cdist(found.codes, found.codes).sum((-1, -2)).mT / (ways * (ways - 1)),
        "spread": before.square().mean().sqrt(),
        "neighbors": torch.stack(near).unflatten(1, (tasks, ways)).mean(-1),
        "chance": shares[found.classes].mean(1),
        "outside": (after > before.quantile(0.99)).double().unflatten(0, (tasks, ways)).mean(1),
        "accuracy": found.accuracy.mT,
    }


def studied(unit: Unit, setting: Setting, parameters: Any) -> Record:
    """Return the record of what was measured of a setting's codes, see `measured`; compute it where it is missing."""
    p, training = parameters, latent_embeddings.trained(setting, "LEO", parameters)

    def compute(_: Any) -> Result:
        found = walks(setting, p, training)
        numbers = measured(found, neighbors=p.neighbors)
        arrays = {name: tensor.float().numpy() for name, tensor in numbers.items()}
        arrays |= {"classes": found.classes.short().numpy(), "names": np.array(found.names)}
        ends = {"separation_before": 0, "separation_after": -1}
        scores = {name: over_tasks(by_task(arrays["separation"][step])[None]).value for name, step in ends.items()}
        return Result(scores, arrays, found.data, tasks=p.tasks)

    return unit.record(f"codes-{_stem(setting)}", _settings(training, p) | {"neighbors": p.neighbors}, compute)


def charted(unit: Unit, setting: Setting, parameters: Any) -> Record:
    """Return the record of flat maps of a setting's codes; compute it where it is missing.

    Arrays: `ends` (maps, 2, codes, 2), codes of the first `shown_tasks` tasks before and after adaptation, on maps of
    all codes before and after, as paper 004 has it; `paths` (maps, steps + 1, codes, 2), of the first `followed_tasks`
    tasks after every step, on maps of these; the classes of each, and `names`. Scores: of each map in `maps` what it
    keeps, and the mean silhouette on it before and after.
    """
    p, training = parameters, latent_embeddings.trained(setting, "LEO", parameters)
    settings = {name: getattr(p, name) for name in ("perplexities", "shown_tasks", "followed_tasks", "neighbors")}

    def compute(_: Any) -> Result:
        found = walks(setting, p, training)
        ends, paths = found.codes[:, [0, -1]], found.codes[: p.followed_tasks]
        flat, followed = (_charts(codes, p.perplexities) for codes in (ends, paths))
        shown = found.classes[: p.shown_tasks]
        arrays = {
            "ends": np.stack([chart[:, : shown.numel()] for chart in flat.values()]).astype(np.float16),
            "paths": np.stack(list(followed.values())).astype(np.float16),
            "ends_classes": shown.flatten().short().numpy(),
            "paths_classes": found.classes[: p.followed_tasks].flatten().short().numpy(),
            "names": np.array(found.names),
        }
        rows = [_judged(found, chart, p.neighbors) for chart in flat.values()]
        scores = {"maps": list(flat)} | {name: [row[name] for row in rows] for name in rows[0]}
        return Result(scores, arrays, found.data, tasks=p.tasks)

    return unit.record(f"maps-{_stem(setting)}", _settings(training, p) | settings, compute)


def _settings(training: Record, parameters: Any) -> dict[str, Any]:
    p = parameters
    looked_at = {"split": p.split, "classes": p.classes, "tasks": p.tasks}
    return {"of": [training.key], "looked_at": looked_at, "seeds": p.seeds[:1], "measures": MEASURES}


def _stem(setting: Setting) -> str:
    return setting.name("LEO").removeprefix("leo-")


def _charts(codes: Tensor, perplexities: list[float]) -> dict[str, np.ndarray]:
    """Draw codes (tasks, stages, ways, latents) on one map each: (stages, tasks * ways, 2)."""
    points = codes.transpose(0, 1).flatten(0, 2).double().numpy()
    return {name: chart.reshape(codes.shape[1], -1, 2) for name, chart in charts(points, perplexities).items()}


def _judged(found: Walks, chart: np.ndarray, neighbors: int) -> dict[str, float]:
    """Say what a map (2, codes, 2) keeps of the codes before and after, one code an image."""
    _, first = np.unique(found.images.flatten().numpy(), return_index=True)
    space = np.stack([found.at(step).double().numpy() for step in (0, -1)])
    of = kept(space[:, first].reshape(-1, space.shape[-1]), chart[:, first].reshape(-1, 2), count=neighbors)
    classes, groups = found.classes.flatten(), found.groups
    before, after = (float(separation(torch.from_numpy(side.copy()), classes, groups).nanmean()) for side in chart)
    return {"neighbors": of.neighbors, "distances": of.distances, "before": before, "after": after}


def by_task(values: np.ndarray) -> Tensor:
    """Average silhouettes (tasks, ways) over the codes of each task that has one: (tasks,)."""
    means = torch.from_numpy(np.asarray(values, dtype=float)).nanmean(1)
    return means[means.isfinite()]


def panels(record: Record, label: str) -> dict[str, dict[str, Series]]:
    """Return curves over inner steps, each with its 95 % band over tasks."""
    found = {}
    for name, (title, scale) in PANELS.items():
        values = record.arrays[name]
        each = [by_task(row) if row.ndim == 2 else torch.from_numpy(row.astype(float)) for row in values]
        means = [over_tasks(row[None]) for row in each]
        middle, reach = (scale * np.array(part) for part in zip(*((m.value, m.ci95) for m in means), strict=True))
        found[title] = {label: Series(middle, middle - reach, middle + reach)}
    return found


def change(record: Record, name: str = "separation") -> Summary:
    """Return how much a quantity (steps + 1, tasks, ...) changed from the first code to the last, task by task."""
    values = torch.from_numpy(record.arrays[name]).double()
    difference = values[-1] - values[0]
    return over_tasks(by_task(difference.numpy())[None] if difference.dim() == 2 else difference[None])


def of_class(record: Record) -> dict[str, tuple[float, float, int]]:
    """Return each class's mean silhouette before and after adaptation, and its number of codes."""
    classes, values = record.arrays["classes"], record.arrays["separation"].astype(float)
    found = {}
    for number, name in enumerate(record.arrays["names"].tolist()):
        here = (classes == number) & np.isfinite(values[0]) & np.isfinite(values[-1])
        if here.any():
            found[name] = float(values[0][here].mean()), float(values[-1][here].mean()), int(here.sum())
    return found


def fidelity(record: Record) -> Markdown:
    """Show what each map keeps of the space of codes, and the separation that one would read off it."""
    scores = record.scores
    lines = ["| map | nearest neighbors kept | rank correlation of distances | silhouette before | after |"]
    lines.append("|---|--:|--:|--:|--:|")
    columns = (scores[name] for name in ("maps", "neighbors", "distances", "before", "after"))
    for name, near, far, before, after in zip(*columns, strict=True):
        lines.append(f"| {name} | {100 * near:.0f} % | {far:.2f} | {before:+.2f} | {after:+.2f} |")
    return Markdown("\n".join(lines))


def cost(trainings: Iterable[Record], others: Iterable[Record]) -> Markdown:
    """Say what the trainings took, and what looking at their codes took."""
    shown, looked = list(trainings), list(others)
    minutes = [sum(record.evidence["seconds"] for record in each) / 60 for each in (shown, looked)]
    hardware = [record.evidence["hardware"] for record in [*shown, *looked]]
    where = sorted({each["gpu"] or f"{each['cores']} CPU cores" for each in hardware})
    return Markdown(
        f"Training took {minutes[0]:.1f} minutes for {len(shown)} of the rows of the chapter before, measuring and "
        f"drawing the codes {minutes[1]:.1f}, on {' and '.join(where)}."
    )
