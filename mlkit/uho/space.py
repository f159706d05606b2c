"""What may be tuned after meta-training, and within which bounds."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from types import MappingProxyType
from typing import Any

from torch import nn

from mlkit.driver import Learner
from mlkit.models.noise import Dropout
from mlkit.project import nearest

Values = dict[str, float | int]  # one setting of the update hyperparameters
NAMES = ("inner_lr", "steps", "batch_size", "dropout", "augmentation_rate")
WHOLE = ("steps", "batch_size")  # numbers that are integers


@dataclass(frozen=True)
class Range:
    """Bounds of one update hyperparameter, both included; `log`: uniform in its logarithm.

    Raises:
        ValueError: a bound is no number, they are reversed, or a logarithmic range reaches zero.
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise ValueError(f"expected finite bounds, got {self.low} and {self.high}")
        if self.low > self.high:
            raise ValueError(f"expected low <= high, got {self.low} > {self.high}; exchange them")
        if self.log and self.low <= 0:
            raise ValueError(f"expected low > 0 in a logarithmic range, got {self.low}; raise it, or use log=False")

    @property
    def is_fixed(self) -> bool:
        """Whether there is nothing to choose."""
        return self.low == self.high

    def borders(self, value: float) -> bool:
        """Whether a value lies within one per cent of a bound: what is best may lie beyond."""
        return not self.is_fixed and (value <= 1.01 * self.low or value >= 0.99 * self.high)


@dataclass(frozen=True)
class Space:
    """Update hyperparameters and their ranges; one whose bounds are equal is fixed there.

    Args:
        ranges: by name, out of NAMES. Without `steps` the objective finds the number of steps itself.

    Raises:
        ValueError: nothing is left to tune, a name is unknown, or a whole number has other bounds.

    Example:
        >>> Space({"inner_lr": Range(5e-4, 5e-2, log=True), "dropout": Range(0.2, 0.2)}).searched
        ('inner_lr',)
    """

    ranges: Mapping[str, Range]

    def __post_init__(self) -> None:
        for name, bounds in self.ranges.items():
            if name not in NAMES:
                raise ValueError(
                    f"unknown update hyperparameter {name!r}; {nearest(name, NAMES)}valid: {', '.join(NAMES)}"
                )
            if name in WHOLE and (bounds.low < 1 or bounds.low % 1 or bounds.high % 1):
                raise ValueError(f"expected whole bounds of at least 1 for {name}, got {bounds.low} and {bounds.high}")
        if not self.searched:
            raise ValueError(
                f"expected a space with something to tune, got {dict(self.ranges) or 'an empty one'}; "
                "give at least one name a low below its high"
            )
        object.__setattr__(self, "ranges", MappingProxyType(dict(self.ranges)))

    def __reduce__(self) -> tuple[Any, ...]:
        return Space, (dict(self.ranges),)

    @property
    def searched(self) -> tuple[str, ...]:
        """Names of what is tuned, in order."""
        return tuple(name for name, bounds in self.ranges.items() if not bounds.is_fixed)

    @property
    def fixed(self) -> Values:
        """Values of what is not."""
        return {name: _number(name, bounds.low) for name, bounds in self.ranges.items() if bounds.is_fixed}

    def values(self, point: Mapping[str, Any]) -> Values:
        """Return a whole setting: what is fixed, and the plain numbers of `point`."""
        return self.fixed | {name: _number(name, point[name]) for name in self.searched}

    def describe(self) -> dict[str, Any]:
        """Say what a record must say."""
        return {name: {"low": b.low, "high": b.high, "log": b.log} for name, b in self.ranges.items()}


# Paper 000, appendix D, and the released code: all ranges of the larger network are logarithmic.
EFFICIENTLAB_3 = Space({"inner_lr": Range(5e-4, 5e-2, log=True)})
EFFICIENTLAB_6_3 = Space(
    {
        "inner_lr": Range(5e-4, 5e-2, log=True),
        "dropout": Range(0.2, 0.5, log=True),
        "augmentation_rate": Range(0.5, 1.0, log=True),
        "batch_size": Range(1, 10, log=True),
    }
)


def _number(name: str, value: Any) -> float | int:
    return round(float(value)) if name in WHOLE else float(value)


def tuned(learner: Learner, values: Mapping[str, float | int]) -> Learner:
    """Return a copy of `learner` that adapts by `values`; the one given stays as it is. `steps` are left out.

    A learner that adapts by another's routine (its field `adaptation`) is tuned there.

    Raises:
        ValueError: the learner has no such hyperparameter.

    Example:
        >>> from mlkit.learners import MAML
        >>> from mlkit.models import MLP
        >>> tuned(MAML(MLP(), inner_lr=0.01), {"inner_lr": 0.1}).inner_lr
        0.1
    """
    known = {field.name for field in fields(learner)} if is_dataclass(learner) else set()
    if "adaptation" in known:
        return replace(learner, adaptation=tuned(learner.adaptation, values))
    changes: dict[str, Any] = {name: value for name, value in values.items() if name != "steps"}
    if "augmentation_rate" in changes:
        changes["augment"] = _with_rate(learner, changes.pop("augmentation_rate"))
    if "dropout" in changes:
        changes["model"] = _with_dropout(learner, changes.pop("dropout"))
    if unknown := [name for name in changes if name not in known]:
        raise ValueError(
            f"expected a learner with {unknown[0]!r}, got {type(learner).__name__}; leave it out of the space"
        )
    return replace(learner, **changes)


def _with_rate(learner: Learner, rate: float) -> Any:
    augment = getattr(learner, "augment", None)
    if augment is None:
        raise ValueError(
            f"expected a learner that augments, got {type(learner).__name__} without `augment`; "
            "leave augmentation_rate out of the space"
        )
    return replace(augment, rate=rate)


def _with_dropout(learner: Learner, rate: float) -> nn.Module:
    model = copy.deepcopy(learner.model)
    layers = [module for module in model.modules() if isinstance(module, Dropout)]
    if not layers:
        raise ValueError(
            f"expected a model with dropout, got {type(model).__name__} without; leave dropout out of the space"
        )
    for layer in layers:
        layer.rate = rate
    return model
