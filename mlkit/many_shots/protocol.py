"""How a number of shots decides how to adapt, and the early stopping in it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class StepDecay:
    r"""Learning rate $\alpha_t = \max(\alpha f^{\lfloor t / n \rfloor}, a)$ of step t, as the code of paper 000 has it.

    Args:
        factor: f.
        every: n, in steps.
        floor: a.

    Example:
        >>> [StepDecay().rate(0.005, step) for step in (0, 4, 5)]
        [0.005, 0.005, 0.0025]
    """

    factor: float = 0.5
    every: int = 5
    floor: float = 1e-7

    def rate(self, lr: float, step: int) -> float:
        """Return the learning rate of step `step` = 0, 1, ..."""
        return max(lr * self.factor ** (step // self.every), self.floor)


@dataclass(frozen=True)
class Rule:
    """How the number of steps is found and what the learning rate does: one panel of figure 4 of paper 000.

    Args:
        patience: steps in a row without a better score on the held-out pictures that early stopping puts up with.
        decay: of the learning rate; None for a fixed one.
    """

    patience: int = 100
    decay: StepDecay | None = None


FIGURE_4 = {"left": Rule(100, StepDecay()), "middle": Rule(50), "right": Rule(100)}  # paper 000


@dataclass(frozen=True)
class Protocol:
    """How to adapt to k pictures (paper 000, section 5.5 and appendix E).

    Args:
        rules: what is compared, by name; they share whatever work they can.
        few_below: with fewer shots the update hyperparameters are given.
        held_out: share of the pictures, rounded down, on which early stopping looks; they are the last ones.
        max_steps: of early stopping.
        check_every: steps between two looks.
        decays_while_stopping: let the learning rate also decay while the number of steps is searched; in the paper's
            code it decays only afterwards.

    Raises:
        ValueError: there is no rule, or a number is out of its range.
    """

    rules: Mapping[str, Rule] = field(default_factory=lambda: dict(FIGURE_4))
    few_below: int = 10
    held_out: float = 0.2
    max_steps: int = 500
    check_every: int = 1
    decays_while_stopping: bool = False

    def __post_init__(self) -> None:
        if not self.rules or any(rule.patience < 0 for rule in self.rules.values()):
            raise ValueError(f"expected rules with a patience of at least 0, got {dict(self.rules)}")
        if not 1 <= self.check_every <= self.max_steps:
            raise ValueError(f"expected 1 <= check_every <= max_steps, got {self.check_every} and {self.max_steps}")
        if self.held_out >= 1 or self.held(self.few_below) < 1:
            raise ValueError(
                f"expected to hold out at least one of {self.few_below} pictures and not all, got a share of "
                f"{self.held_out}; change it, or raise few_below"
            )

    def held(self, shots: int) -> int:
        """Return how many of so many pictures are held out."""
        return int(self.held_out * shots)

    def describe(self) -> dict[str, Any]:
        """Say what a record must say."""
        return asdict(self)


def best_step(scores: Sequence[float], patience: int, every: int = 1) -> tuple[int, bool]:
    """Return the first best number of steps, and whether early stopping has stopped.

    It stops when more than `patience` steps in a row have brought no strictly better score.

    Args:
        scores: after `every`, 2 `every`, ... steps; higher is better, NaN never is.
        patience: in steps.
        every: steps between two scores.

    Example:
        >>> best_step([0.1, 0.3, 0.2, 0.3], patience=1), best_step([0.1, 0.3, 0.2], patience=1)
        ((2, True), (2, False))
    """
    usable = [-math.inf if math.isnan(value) else value for value in scores]
    best = 0
    for index, value in enumerate(usable):
        if value > usable[best]:
            best = index
        elif (index - best) * every > patience:
            return (best + 1) * every, True
    return (best + 1) * every, False
