"""What a computation costs: its time, and the memory that tensors hold while it runs."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.profiler import ProfilerActivity, profile

from mlkit.evidence import Meter

TIMES = 3


def seconds_of(compute: Callable[[], object], device: str = "cpu", times: int = TIMES) -> float:
    """Return the median of several runs in seconds, after one that is not counted."""
    found = []
    for _ in range(times + 1):
        begin = time.perf_counter()
        compute()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        found.append(time.perf_counter() - begin)
    return statistics.median(found[1:])


def peak_bytes(compute: Callable[[], object], device: str = "cpu") -> int:
    """Return the most memory that tensors held at once while `compute` ran, above what they held before.

    By the account of torch's own allocator, in this thread: let `compute` use no other.
    """
    if device.startswith("cuda"):
        before = torch.cuda.memory_allocated()
        with Meter() as meter:
            compute()
        return (meter.gpu_memory_bytes or before) - before
    with _quiet(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        compute()
    with TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiled.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    changes = [event["args"] for event in events if event["name"] == "[memory]"]
    if not changes:
        return 0
    return max(change["Total Allocated"] for change in changes) - (changes[0]["Total Allocated"] - changes[0]["Bytes"])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide what is written to the standard error past Python: the profiler says there that it starts and stops."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
