"""Small LEOs and tasks of features that both files of their tests use."""

from __future__ import annotations

import torch

from mlkit.driver import for_tasks
from mlkit.learners import LEO
from mlkit.seeding import seeded
from mlkit.tasks import Examples, FeatureClasses, FeatureTasks, TaskBatch

from .test_gradients import start

WAYS, FEATURES, LATENTS = 3, 7, 4
SMALL = {"features": FEATURES, "ways": WAYS, "latents": LATENTS, "inner_lr": 0.2, "finetuning_lr": 0.3, "dropout": 0.3}
SMALL |= {"inner_steps": 2, "kl": 0.2, "l2": 0.1, "orthogonality": 0.3, "encoder_penalty": 0.0}
VARIANTS = {
    "v1": {"version": "v1", "finetuning_steps": 0, "learn_inner_lr": False},
    "v1, hidden layer": {"version": "v1", "finetuning_steps": 0, "learn_inner_lr": False, "hidden": (5,)},
    "v3": {"finetuning_steps": 2},
    "v3, hidden layer": {"finetuning_steps": 1, "hidden": (5,)},
    "random prior": {"finetuning_steps": 1, "start": "prior"},
    "deterministic": {"finetuning_steps": 1, "deterministic": True},
}


def leo(name: str = "v3", **changes: object) -> LEO:
    return LEO(**SMALL | VARIANTS[name] | changes)


def feature_tasks(count: int = 3, *, shots: int = 2, query: int = 2) -> TaskBatch:
    generator = seeded("feature tasks", count)

    def examples(each: int) -> Examples:
        x = torch.randn(count, WAYS * each, FEATURES, generator=generator, dtype=torch.float64) / 2
        return Examples(x, torch.arange(WAYS).repeat_interleave(each).repeat(count, 1))

    return TaskBatch(examples(shots), examples(query), torch.randint(2**62, (count,), generator=generator))


def own(learner: LEO, count: int = 3) -> dict[str, torch.Tensor]:
    return for_tasks(start(learner), torch.zeros(count, dtype=torch.int64))


def gaussians(split: str, classes: int = 24, features: int = 12) -> FeatureTasks:
    """Classes around means that differ in 3 directions, under noise that is as large in all 12."""
    generator = seeded("gaussians", split)
    means = torch.zeros(classes, 1, features)
    means[..., :3] = 3 * torch.randn(classes, 1, 3, generator=generator)
    rows = means + 1.5 * torch.randn(classes, 12, features, generator=generator)
    mixed = rows @ torch.linalg.qr(torch.randn(features, features, generator=seeded("turn"))).Q
    source = FeatureClasses.build("gaussians", list(mixed.numpy()), names=[f"{split}{k}" for k in range(classes)])
    return FeatureTasks(source.scaled(), split, WAYS, 1, 5)
