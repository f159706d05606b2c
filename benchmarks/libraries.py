"""Fetch the libraries of the comparison into runs/peers, where the project's own environment does not see them."""

from __future__ import annotations

import importlib
import subprocess
import sys
import tarfile
import types
import warnings
from pathlib import Path

HERE = Path(__file__).resolve().parent
FOLDER = HERE.parent / "runs" / "peers"
LEARN2LEARN = "learn2learn==0.2.0"
SOURCE = FOLDER / LEARN2LEARN.replace("==", "-") / "learn2learn"


def install() -> None:
    """Install what is missing."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    if not all((FOLDER / name).exists() for name in ("torchopt", "pyhessian", "curvlinops")):
        subprocess.run([*pip, "install", "--no-deps", "-t", FOLDER, "-r", HERE / "requirements.txt"], check=True)
    if not SOURCE.exists():
        source_only = ["--no-deps", "--no-binary", ":all:", "--no-build-isolation"]
        subprocess.run([*pip, "download", *source_only, "-d", FOLDER, LEARN2LEARN], check=True)
        with tarfile.open(next(FOLDER.glob("learn2learn-*.tar.gz"))) as archive:
            archive.extractall(FOLDER, filter="data")


def load() -> tuple[types.ModuleType, types.ModuleType, type]:
    """Return higher, torchopt, and learn2learn's MAML class (its module alone: the package needs the extensions)."""
    _see()
    for name, folder in (("learn2learn", SOURCE), ("learn2learn.algorithms", SOURCE / "algorithms")):
        package = types.ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules.setdefault(name, package)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of their age
        maml = importlib.import_module("learn2learn.algorithms.maml")
        return importlib.import_module("higher"), importlib.import_module("torchopt"), maml.MAML


def load_hessian() -> tuple[types.ModuleType, types.ModuleType]:
    """Return pyhessian and curvlinops."""
    _see()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what they import
        return importlib.import_module("pyhessian"), importlib.import_module("curvlinops")


def _see() -> None:
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
