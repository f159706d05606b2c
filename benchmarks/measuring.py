"""What the comparisons with a peer measure: seconds, and how far apart two results are."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


def distance(found: Mapping[str, Tensor], exact: Mapping[str, Tensor]) -> float:
    """Return the norm of the difference over the norm of `exact`, all parameters together."""
    difference = sum((found[name].double() - exact[name].double()).square().sum() for name in exact)
    return float((difference / sum(tensor.double().square().sum() for tensor in exact.values())).sqrt())


def seconds(method: Callable[..., Any], *arguments: Any) -> float:
    """Return what a call takes, on a GPU until its work is done."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    wait()
    start = time.perf_counter()
    method(*arguments)
    wait()
    return time.perf_counter() - start
