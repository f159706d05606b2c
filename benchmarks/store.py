"""Store measurements with the evidence that the book shows."""

from __future__ import annotations

import datetime
import json
import re
from pathlib import Path
from typing import Any

from mlkit import evidence, project

ROOT = Path(__file__).resolve().parents[1]


def store(
    name: str, rows: list[dict[str, Any]], *, device: str, libraries: Path | None = None, partial: bool = False
) -> None:
    """Write book/records/benchmarks/NAME.json whole; a partial run goes to runs/benchmarks instead.

    libraries: the folder whose installed versions are recorded.
    """
    software = evidence.software() | (_versions(libraries) if libraries else {})
    content = {
        "benchmark": name,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "hardware": evidence.hardware(device),
        "software": software,
        "rows": rows,
    }
    folder = ROOT / ("runs" if partial else "book/records") / "benchmarks"
    project.write_whole(folder / f"{name}.json", (json.dumps(content, indent=1) + "\n").encode())


def _versions(folder: Path) -> dict[str, str]:
    names = "higher|torchopt|learn2learn|pyhessian|curvlinops"
    pattern = re.compile(rf"({names})(?:_for_pytorch)?-(\d[\d.]*\d)(\.dist-info)?", re.IGNORECASE)
    found = (pattern.fullmatch(path.name) for path in folder.iterdir())
    return {match[1].lower(): match[2] for match in found if match}
