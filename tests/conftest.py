"""What several folders of tests share."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def site() -> Path:
    """Return the folder of the built book; build it where it is missing."""
    html = ROOT / "book" / "_build" / "html"
    if not (html / "index.html").exists():
        subprocess.run([sys.executable, ROOT / "book" / "build.py"], check=True, cwd=ROOT)
    return html
