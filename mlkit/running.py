"""Running a unit: its notebook with checked parameters, through papermill, as `mlkit run` does."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mlkit import project
from mlkit.parameters import check, read
from mlkit.stored import canonical

NOTEBOOKS, RUNS = "notebooks", "runs"
QUICK = "quick"  # the defaults of every unit
ENVIRONMENT = {  # of the kernel, where the reader's own does not say otherwise
    "OMP_NUM_THREADS": "1",  # small operations lose more by sharing than they win; `workers` uses the cores
    "OMP_WAIT_POLICY": "PASSIVE",  # idle threads sleep: spinning ones stall a busy machine
}


class RunError(ValueError):
    """A unit cannot be run; the message says why and what to do."""


class StoppedError(RuntimeError):
    """A cell of a unit failed; the message says which, why, and where the traceback is."""


def units(root: Path) -> list[str]:
    """Return the names of the units, in alphabetical order."""
    return sorted(path.stem for path in (root / NOTEBOOKS).glob("*.ipynb"))


def notebook(unit: str, root: Path) -> Path:
    """Return the notebook of `unit`.

    Raises:
        RunError: there is none of that name.
    """
    known = units(root)
    if unit not in known:
        valid = ", ".join(known) or f"none in {root / NOTEBOOKS}; run inside a checkout of the project"
        raise RunError(f"unknown unit {unit!r}; {project.nearest(unit, known)}valid: {valid}")
    return root / NOTEBOOKS / f"{unit}.ipynb"


def preset(name: str, unit: str, root: Path) -> dict[str, Any]:
    """Return the values in a YAML file, or in the unit's preset of that name (`quick`: its defaults).

    Raises:
        RunError: there is no such file or preset, or it does not hold `name: value` lines.
    """
    if name == QUICK:
        return {}
    folder = root / NOTEBOOKS / "presets"
    path = next((path for path in (Path(name), folder / name / f"{unit}.yaml") if path.is_file()), None)
    if path is None:
        known = [QUICK, *sorted(file.parent.name for file in folder.glob(f"*/{unit}.yaml"))]
        raise RunError(
            f"no file or preset {name!r}; {project.nearest(name, known)}presets of {unit}: {', '.join(known)}"
        )
    return values(path.read_text(encoding="utf-8"), str(path))


def values(text: str, where: str) -> dict[str, Any]:
    """Parse YAML that holds `name: value`; nothing at all is no values.

    Raises:
        RunError: it holds something else.
    """
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RunError(f"expected YAML lines `name: value` in {where}, got: {' '.join(str(error).split())}") from None
    if found is not None and not isinstance(found, dict):
        raise RunError(f"expected YAML lines `name: value` in {where}, got {type(found).__name__} {found!r}")
    return {str(name): value for name, value in (found or {}).items()}


def run(unit: str, given: Mapping[str, Any], *, root: Path, output: Path | None = None) -> Path:
    """Check the parameters, execute the notebook of `unit` with them, and return the executed copy.

    Args:
        unit: name of the unit.
        given: values that differ from the defaults.
        root: the project's folder.
        output: where the executed notebook goes; `runs/<unit>/` under a name that its parameters decide.

    Raises:
        ParameterError: an unknown name or a wrong type; nothing was started.
        RunError: there is no such unit.
        StoppedError: a cell of the notebook failed.
    """
    source = notebook(unit, root)
    checked = vars(check(read(source), given))
    digest = hashlib.sha256(canonical(checked)).hexdigest()[:8]
    output = output or root / RUNS / unit / f"{unit}-{digest}.ipynb"
    output.parent.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("MLKIT_ROOT", str(root))  # the kernel's, wherever it is started
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")  # a debugger's remark on frozen modules
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import papermill

    try:
        papermill.execute_notebook(*map(_literal_path, (source, output)), parameters=dict(given))
    except papermill.PapermillExecutionError as error:
        raise StoppedError(
            f"{unit} stopped in cell [{error.exec_count}]: {error.ename}: {error.evalue}; the traceback is in {output}"
        ) from None
    return output


def computed(unit: str, root: Path, since: float) -> Sequence[Path]:
    """Return the local records that were stored after `since` (seconds since the epoch), but for those of other units.

    What several units share lies in a folder that is no unit's.
    """
    others = set(units(root)) - {unit}
    files = (path for path in (root / RUNS).glob("*/*.json") if path.parent.name not in others)
    return sorted(path for path in files if path.stat().st_mtime >= since)


def _literal_path(path: Path) -> str:
    """Escape what papermill would take for a placeholder."""
    return str(path).replace("{", "{{").replace("}", "}}")
