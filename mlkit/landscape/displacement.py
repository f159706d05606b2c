"""How far adaptation moves each task's weights: over all of them, and block by block."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

from mlkit.adaptation import Weights
from mlkit.driver import Learner, Meta
from mlkit.landscape.directions import Tasks, adaptations, flatten

Measure = Callable[[Tensor, Tensor], Tensor]  # weights before and after (tasks, d) -> (tasks,)
WHOLE = "all"


def distance(start: Tensor, end: Tensor) -> Tensor:
    r"""Euclidean distance $d_1 = \|\theta - \tilde\theta\|$ (paper 000, eq. 22; its mean is figure 15 of paper 003)."""
    return torch.linalg.vector_norm(end - start, dim=1)


def unit_distance(start: Tensor, end: Tensor) -> Tensor:
    r"""Distance between unit vectors, $d_2 = \big\|\theta/\|\theta\| - \tilde\theta/\|\tilde\theta\|\big\|$ (eq. 23).

    It lies in [0, 2]. The unit vector of a block that is all zero (biases before the first step) is taken as zero.
    """
    return torch.linalg.vector_norm(F.normalize(end, eps=1e-30) - F.normalize(start, eps=1e-30), dim=1)


def mean_absolute(start: Tensor, end: Tensor) -> Tensor:
    r"""Mean absolute difference of the entries, $d_3 = \frac{1}{d} \sum_k |\theta - \tilde\theta|_k$ (eq. 24)."""
    return (end - start).abs().mean(1)


MEASURES: Mapping[str, Measure] = MappingProxyType(
    {"distance": distance, "unit_distance": unit_distance, "mean_absolute": mean_absolute}
)


def first_component(name: str) -> str:
    """Return the block of a parameter: "head" of "head.weight"."""
    return name.partition(".")[0]


def displacement(
    learner: Learner,
    meta: Meta,
    tasks: Tasks,
    *,
    measures: Mapping[str, Measure] = MEASURES,
    block: Callable[[str], str] = first_component,
    steps: int | None = None,
    chunk_size: int = 25,
    device: torch.device | str = "cpu",
) -> dict[str, dict[str, Tensor]]:
    """Measure how far each task's weights move, over all of them ("all") and over each block.

    A task that diverged is NaN in every measure; one that did not move is zero. Numbers are taken in float64.

    Args:
        learner: what adapts.
        meta: stacked meta-parameters of one run (1, ...).
        tasks: what to measure on.
        measures: by name, functions of the weights before and after (tasks, d) -> (tasks,).
        block: names the block of a parameter by the parameter's name.
        steps: inner steps; None for the learner's own number.
        chunk_size: tasks adapted at once.
        device: where to compute.

    Returns:
        name of the measure -> "all" or name of the block -> (tasks,), on the CPU.

    Raises:
        ValueError: a block is named "all"; `meta` holds several runs; `chunk_size` is below 1.
    """
    parts: dict[str, dict[str, list[Tensor]]] = {}
    for start, end in adaptations(learner, meta, tasks, steps=steps, chunk_size=chunk_size, device=device):
        diverged = ~flatten(end).isfinite().all(1).cpu()
        for where, names in _blocks(start, block).items():
            before, after = (flatten({name: of[name] for name in names}).cpu().double() for of in (start, end))
            for name, measure in measures.items():
                values = measure(before, after).masked_fill(diverged, math.nan)
                parts.setdefault(name, {}).setdefault(where, []).append(values)
    return {name: {where: torch.cat(values) for where, values in found.items()} for name, found in parts.items()}


def _blocks(weights: Weights, block: Callable[[str], str]) -> dict[str, list[str]]:
    """Return the names of each block's parameters, and of all."""
    found: dict[str, list[str]] = {WHOLE: list(weights)}
    for name in weights:
        if block(name) == WHOLE:
            raise ValueError(f"expected a block of another name than {WHOLE!r}, got it for {name}; it means all blocks")
        found.setdefault(block(name), []).append(name)
    return found
