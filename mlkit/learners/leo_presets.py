"""Numbers of LEO: those that the paper gives, and those that its authors tuned for their public code."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from mlkit.outer import OuterLoop

# The paper gives neither beta (kl) nor lambda (l2 / 2 and orthogonality): these are ours.
V1: dict[str, Any] = {
    "version": "v1", "inner_steps": 3, "test_steps": 6, "finetuning_steps": 0, "learn_inner_lr": False,
    "dropout": 0.95, "kl": 1e-3, "encoder_penalty": 0.0, "l2": 2e-6, "orthogonality": 1e-6,
}  # fmt: skip
V3: dict[str, Any] = {"version": "v3", "inner_steps": 5, "finetuning_steps": 5, "learn_inner_lr": True}
COLUMNS = ("l2", "orthogonality", "dropout", "kl", "encoder_penalty")
TUNED = {  # data, shots: outer learning rate, then COLUMNS (README of the public code)
    ("mini_imagenet", 1): (2.739071e-4, 3.623413e-10, 0.188103, 0.307651, 0.756143, 5.756821e-6),
    ("mini_imagenet", 5): (4.102361e-4, 8.540338e-9, 1.523998e-3, 0.300299, 0.466387, 2.661608e-7),
    ("tiered_imagenet", 1): (8.659053e-4, 4.148858e-10, 5.451078e-3, 0.475126, 2.034189e-3, 8.302962e-5),
    ("tiered_imagenet", 5): (6.110314e-4, 1.690399e-10, 2.481216e-2, 0.415158, 1.622811, 2.672450e-5),
}


def tuned(data: str, shots: int) -> tuple[float, dict[str, float]]:
    """Return the outer learning rate and the weights of the penalties that the authors found.

    For more than one shot they are those of 5.

    Raises:
        ValueError: they tuned none for such data.
    """
    names = sorted({name for name, _ in TUNED})
    if data not in names:
        raise ValueError(f"expected data out of {', '.join(names)}, got {data!r}; for others take those of one of them")
    outer_lr, *rest = TUNED[data, 1 if shots == 1 else 5]
    return outer_lr, dict(zip(COLUMNS, rest, strict=True))


def leo_outer_loop(
    version: str = "v3", shots: int = 1, data: str = "mini_imagenet", *, iterations: int | None = None, **changes: Any
) -> OuterLoop:
    """Return the outer loop of a preset: Adam, 12 tasks a step.

    | version | steps | learning rate | clipping |
    |---|---|---|---|
    | v1 | 50,000 | 0.001 | none |
    | v3 | 100,000 | tuned | values to 0.1, then the norm to 0.1 |

    The paper does not say how many tasks a step takes. The public code scales each tensor's gradient to the norm 0.1,
    `OuterLoop` that of all together. Where a loss or gradient is not finite, the public code takes a step along the L2
    penalty alone, which is next to nothing; here the step is skipped. Validation every 1,000 steps picks the state, as
    the public code does.

    Raises:
        ValueError: an unknown version, or data without tuned values.
    """
    if version not in ("v1", "v3"):
        raise ValueError(f"expected a version out of v1, v3; got {version!r}")
    adam = partial(torch.optim.Adam, lr=tuned(data, shots)[0] if version == "v3" else 1e-3)
    settled: dict[str, Any] = {"optimizer": adam, "meta_batch": 12, "validate_every": 1000, "on_divergence": "skip"}
    if version == "v3":
        settled |= {"clip_value": 0.1, "clip_norm": 0.1}
    steps = (50_000 if version == "v1" else 100_000) if iterations is None else iterations
    return OuterLoop(steps, **{**settled, **changes})
