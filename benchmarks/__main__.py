"""Measure everything: `make bench`. The book shows what lands in book/records/benchmarks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from mlkit.running import ENVIRONMENT

for script in ("peers.py", "hessian.py", "memory.py", "sampling.py", "segmentation.py", "turtle.py", "uho.py", "leo.py"):
    subprocess.run([sys.executable, Path(__file__).with_name(script)], check=True, env=ENVIRONMENT | os.environ)
