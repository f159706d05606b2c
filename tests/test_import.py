"""Importing the library is cheap, and the examples in its docstrings hold."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import statistics
import subprocess
import sys

import pytest

import mlkit

MODULES = sorted(
    module.name for module in pkgutil.walk_packages(mlkit.__path__, "mlkit.") if not module.name.endswith("__main__")
)
COST = """
import importlib, sys, time
import torch

start = time.perf_counter()
for name in sys.argv[1:]:
    importlib.import_module(name)
print(time.perf_counter() - start)
"""


def seconds_to_import(*names: str) -> float:
    """Return the median of three processes."""

    def once() -> float:
        command = [sys.executable, "-W", "error", "-c", COST, *names]
        return float(subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout)

    return statistics.median(once() for _ in range(3))


def test_importing_what_a_notebook_imports_costs_less_than_two_seconds_beyond_torch():
    names = ("mlkit", "mlkit.experiment", "mlkit.figures", "mlkit.drawings", "mlkit.learners", "mlkit.models")
    assert seconds_to_import(*names) < 2.0


def test_importing_the_package_alone_does_not_import_torch():
    code = "import sys, mlkit; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-W", "error", "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_hold(name):
    found = doctest.testmod(importlib.import_module(name))
    assert found.failed == 0, f"{found.failed} of {found.attempted} examples failed; the output above says which"


def test_there_are_examples():
    finder = doctest.DocTestFinder()
    found = [test for name in MODULES for test in finder.find(importlib.import_module(name)) if test.examples]
    assert len(found) >= 5
