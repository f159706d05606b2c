"""Measure everything: `make bench`. The book shows what lands in book/records/benchmarks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from mlkit.running import ENVIRONMENT

MEASURES = ("peers", "hessian", "memory", "sampling", "segmentation", "turtle", "uho", "leo")

for name in MEASURES:
    script = Path(__file__).with_name(f"{name}.py")
    subprocess.run([sys.executable, script], check=True, env=ENVIRONMENT | os.environ)
