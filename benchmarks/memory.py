"""Memory: checkpointed inner steps against their number, and the chunk size as a dial between time and memory.

    python benchmarks/memory.py

Each point is measured in a process of its own: the most memory that torch's tensors held at once, above what they held
before, by the account of torch's own allocator.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from cases import Case, cases, ours
from store import store

from mlkit.costs import peak_bytes

STEPS = (1, 2, 5, 10)
CHUNKS = (1, 2, 4, 16)


def base(device: str) -> Case:
    """Return the second-order Omniglot case with max-pool."""
    return next(case for case in cases(device) if case.bar and not case.regression and not case.first_order)


def point(device: str, *, checkpoint: bool = False, **changes: int | None) -> dict[str, Any]:
    """Measure `base` with `changes` in a child process."""
    settings = json.dumps({"checkpoint": checkpoint, **changes})
    command = [sys.executable, Path(__file__), "--device", device, "--point", settings]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    row = {**changes, "checkpoint": checkpoint, **found}
    print(json.dumps(row), flush=True)
    return row


def report_point(device: str, settings: dict[str, Any]) -> None:
    """Print time (best of two) and peak memory of one meta-iteration."""
    checkpoint = settings.pop("checkpoint")
    case = replace(base(device), **settings)
    weights, batch = case.weights(torch.float32, device), case.draw(case.tasks).to(device)
    learner = case.learner(checkpoint=checkpoint)
    tiny = replace(cases(device)[-1], tasks=1)
    ours(tiny, tiny.weights(torch.float32, device), tiny.draw(1).to(device))  # loads what loads once
    peak = peak_bytes(lambda: ours(case, weights, batch, learner), device)
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        ours(case, weights, batch, learner)
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    json.dump({"peak_bytes": peak, "seconds": min(seconds)}, sys.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.point:
        report_point(options.device, json.loads(options.point))
        return
    alone = {"tasks": 4, "chunk_size": 4, "query_chunk": 1, "workers": 1}
    steps = [
        point(options.device, checkpoint=checkpoint, steps=count, **alone)
        for checkpoint in (False, True)
        for count in STEPS
    ]
    chunks = [
        point(options.device, chunk_size=size, query_chunk=query, workers=1)
        for size in CHUNKS
        for query in sorted({1, size})
    ]
    peaks = {row["steps"]: row["peak_bytes"] for row in steps if row["checkpoint"]}
    ratio = {
        "measure": "peak memory with checkpointed inner steps, T=10 over T=1",
        "value": peaks[10] / peaks[1],
        "bar": 1.6,
    }
    print(json.dumps(ratio))
    store("memory", [ratio, {"steps": steps}, {"chunks": chunks}], device=options.device)


if __name__ == "__main__":
    main()
