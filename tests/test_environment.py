"""The three lists of dependencies say the same: pyproject.toml (ranges), environment.yml (conda), requirements.lock."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
RANGES = [Requirement(text) for text in sum(PROJECT["optional-dependencies"].values(), PROJECT["dependencies"])]
PINS = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if line and not line.startswith("#")]
PINNED = dict(line.split("==") for line in PINS)


def test_conda_installs_the_ranges_of_the_project():
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (pip,) = [entry["pip"] for entry in listed if isinstance(entry, dict)]
    assert pip[-1] == "-e ."
    assert {str(Requirement(text)) for text in pip[:-1]} == {str(wanted) for wanted in RANGES}
    assert f"python{PROJECT['requires-python']}" in listed


@pytest.mark.parametrize("wanted", RANGES, ids=str)
def test_the_lock_holds_a_version_within_each_range(wanted):
    assert wanted.specifier.contains(PINNED[canonicalize_name(wanted.name)])


def test_the_lock_is_plain_and_sorted():
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line) for line in PINS), "name==version, no +cpu, no path"
    assert sorted(PINNED) == list(PINNED)
    assert len(PINNED) == len(PINS)


def test_every_extra_is_a_list_of_ranges_with_a_lower_bound():
    assert [wanted.name for wanted in RANGES if not any(spec.operator == ">=" for spec in wanted.specifier)] == []


def test_actions_are_pinned_by_commit():
    uses = [
        line.split("uses:")[1].strip()
        for path in (ROOT / ".github" / "workflows").glob("*.yml")
        for line in path.read_text().splitlines()
        if "uses:" in line
    ]
    assert len(uses) > 4
    assert [use for use in uses if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v[\d.]+", use)] == []
