"""Importing the library is cheap, and the examples in its docstrings hold."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import subprocess
import sys

import pytest

import mlkit

MODULES = sorted(
    module.name for module in pkgutil.walk_packages(mlkit.__path__, "mlkit.") if not module.name.endswith("__main__")
)
SLOW = {"scipy", "sklearn", "skopt", "torchvision", "ipywidgets", "papermill", "nbformat", "pandas", "dask"}
IMPORTED = "import sys; import mlkit, {}; print(*sys.modules)"


def test_importing_what_a_notebook_imports_leaves_slow_packages_for_when_they_are_used():
    names = ("mlkit.experiment", "mlkit.figures", "mlkit.drawings", "mlkit.learners", "mlkit.models")
    command = [sys.executable, "-W", "error", "-c", IMPORTED.format(", ".join(names))]
    imported = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert "torch" in imported and not SLOW & set(imported)


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
