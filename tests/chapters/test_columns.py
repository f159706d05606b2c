"""Columns of a parameters cell become settings, in all chapters alike."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

from mlkit.chapters import methods
from mlkit.chapters import settings as landscapes
from mlkit.chapters.columns import settings_of

P = SimpleNamespace(
    data=["a", "b"], ways=[5, 20], shots=[1, 5], networks=["n", "m"], rotations=["none", "all"], inner_lrs=[0.4, 0.1],
    meta_batches=[4, 2], epochs=[1, 2], iterations=[3, 6], sizes=[16, 32], widths=[0.25, 1.0],
    encoders=["random", "imagenet"], joint_iterations=[0, 7], test_tasks=[10, 20],
)  # fmt: skip


def test_an_entry_of_each_column_makes_a_setting():
    assert settings_of(P, {"sizes": "size", "data": "name"}, dict, fixed=1) == [
        {"size": 16, "name": "a", "fixed": 1},
        {"size": 32, "name": "b", "fixed": 1},
    ]
    assert methods.settings(P)[1] == methods.Setting("b", 32, 1.0, "imagenet", 6, 7, 20)
    assert (landscapes(P)[1].data, landscapes(P)[1].inner_lr, landscapes(P)[1].iterations) == ("b", 0.1, 6)


def test_columns_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match=r"in each of sizes, data; got \{'sizes': 1, 'data': 2\}"):
        settings_of(SimpleNamespace(sizes=[16], data=["a", "b"]), {"sizes": "size", "data": "name"}, dict)


def test_the_methods_of_table_1_are_known_without_its_chapter():
    code = (
        "import sys; from mlkit.chapters.methods import METHODS; print('FOMAML* (no residual)' in METHODS, "
        "'mlkit.chapters.architectures' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["True", "False"]
