"""What a number is worth: the software and hardware behind it, the time and the memory it took."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

EXECUTION = ("device", "chunk_size", "workers")  # how a result was computed, not which result it is


def software() -> dict[str, Any]:
    """Return the versions of what computed a result and the commit it ran from (`dirty`: the code differs from it)."""
    git = ("git", "-C", str(Path(__file__).resolve().parents[1]))
    commit = _output(*git, "rev-parse", "HEAD") if _output(*git, "ls-files", "mlkit") else None
    changes = _output(*git, "status", "--porcelain", "--", "mlkit", "notebooks") if commit else None
    return {
        **{name: _version(name) for name in ("mlkit", "torch", "numpy")},
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "commit": commit,
        "dirty": None if changes is None else bool(changes),
    }


def hardware(device: str = "cpu") -> dict[str, Any]:
    """Return the processor, the cores this process may use, torch's threads, and the accelerator behind `device`."""
    import torch

    gpu = None
    if device.startswith("cuda") and torch.cuda.is_available():
        gpu = torch.cuda.get_device_name(device)
    elif device.startswith("mps"):
        gpu = f"{_cpu()} (mps)"
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return {"cpu": _cpu(), "cores": cores, "threads": torch.get_num_threads(), "gpu": gpu}


class Meter:
    """Measure the block it wraps: `seconds`, and the peak of the process's resident and of its CUDA memory in bytes.

    Linux measures the peak inside the block; elsewhere the resident peak is that of the whole process, an upper bound.
    """

    def __enter__(self) -> Meter:
        with contextlib.suppress(OSError):  # resets the kernel's mark of the highest resident size
            Path("/proc/self/clear_refs").write_text("5")
        if cuda := _cuda():
            cuda.reset_peak_memory_stats()
        self.seconds, self.memory_bytes, self.gpu_memory_bytes = 0.0, 0, None
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._start
        self.memory_bytes = _resident_peak()
        if cuda := _cuda():
            self.gpu_memory_bytes = cuda.max_memory_allocated() or None


class Sessions:
    """Seconds that earlier, killed sessions put into a work folder: from their start to the last file they left."""

    FILE = "sessions.json"

    def __init__(self, folder: Path):
        self._path = folder / self.FILE
        past = json.loads(self._path.read_text()) if self._path.exists() else {"count": 0, "seconds": 0.0, "start": 0.0}
        kept = [file.stat().st_mtime for file in folder.rglob("*") if file.is_file() and file != self._path]
        self.count: int = past["count"] + 1
        self.seconds: float = past["seconds"] + max(0.0, max(kept, default=0.0) - past["start"])

    def begin(self) -> None:
        """Note that a session starts now."""
        from mlkit.project import write_whole

        state = {"count": self.count, "seconds": self.seconds, "start": time.time()}
        write_whole(self._path, json.dumps(state).encode())


def seeds_of(*sources: Mapping[str, Any]) -> list[int]:
    """Return the seeds named by the first mapping that names any: `seeds` (a list, or a count from 0) or `seed`."""
    for source in sources:
        if "seeds" in source:
            return list(range(source["seeds"])) if isinstance(source["seeds"], int) else list(source["seeds"])
        if "seed" in source:
            return [source["seed"]]
    return []


def line(evidence: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """Return the evidence as one line for a caption: seeds, tasks, data, hardware, time, memory, version, date."""
    hard, soft = evidence["hardware"], evidence["software"]
    commit = f" commit {soft['commit'][:7]}{' with local changes' if soft['dirty'] else ''}" if soft["commit"] else ""
    parts = [
        _counts(evidence),
        _data(data),
        f"GPU {hard['gpu']}" if hard["gpu"] else f"CPU {hard['cores']} cores {hard['cpu']}",
        f"{evidence['seconds']:.{0 if evidence['seconds'] >= 10 else 1}f} s",
        f"{(evidence['gpu_memory_bytes'] or evidence['memory_bytes']) / 2**20:.0f} MiB",
        f"mlkit {soft['mlkit']}{commit}",
        evidence["date"][:10],
    ]
    return ", ".join(filter(None, parts))


def _counts(evidence: Mapping[str, Any]) -> str:
    seeds, tasks = len(evidence["seeds"]), evidence["tasks"]
    words = [f"{seeds} seed{'s' * (seeds != 1)}"] * bool(seeds) + [f"{tasks} tasks"] * bool(tasks)
    return " × ".join(words)


def _data(data: Mapping[str, Any]) -> str:
    if not data.get("data"):
        return ""
    notes = ["a stand-in"] * bool(data.get("stand_in"))
    notes += [f"sha {str(digest)[:8]}" for digest in [data.get("content_hash")] if digest]
    return f"{data['data']} ({', '.join(notes)})" if notes else str(data["data"])


def _cpu() -> str:
    with contextlib.suppress(OSError):
        if found := re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE):
            return found[1].strip()
    return _output("sysctl", "-n", "machdep.cpu.brand_string") or platform.processor() or platform.machine()


def _resident_peak() -> int:
    with contextlib.suppress(OSError):
        if found := re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE):
            return 1024 * int(found[1])
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _cuda() -> Any:
    torch = sys.modules.get("torch")
    return torch.cuda if torch and torch.cuda.is_available() and torch.cuda.is_initialized() else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _output(*command: str) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
