"""The pages that ship are drawn from the records that ship: nothing is computed, no data set is needed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mlkit import running

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = yaml.safe_load((ROOT / "book" / "published.yaml").read_text())


# They run; their records are still to be computed.
UNPUBLISHED = {
    "all_methods",
    "latent_embedding_optimization",
    "latent_space",
    "learned_optimizers",
    "learned_optimizers_images",
    "many_shots",
}


def test_every_unit_is_published_with_real_settings_or_named_here():
    assert set(PUBLISHED) == set(running.units(ROOT)) - UNPUBLISHED
    assert "smoke" not in PUBLISHED.values()


@pytest.mark.unit
@pytest.mark.parametrize("unit", PUBLISHED)
def test_the_published_page_computes_nothing(unit, tmp_path):
    (tmp_path / "book").mkdir()
    for part in ("records", "paper"):
        (tmp_path / "book" / part).symlink_to(ROOT / "book" / part)
    environment = {**os.environ, "MLKIT_ROOT": str(tmp_path), "MLKIT_DATA": str(tmp_path / "none")}
    environment.pop("MLKIT_RECORDS", None)
    preset = [] if PUBLISHED[unit] == "quick" else ["-f", f"{ROOT}/notebooks/presets/{PUBLISHED[unit]}/{unit}.yaml"]
    command = [sys.executable, "-m", "papermill", f"{ROOT}/notebooks/{unit}.ipynb", f"{tmp_path}/out.ipynb", *preset]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [path.name for path in tmp_path.glob("runs/*/*.json")] == []
