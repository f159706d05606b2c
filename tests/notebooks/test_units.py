"""Every unit: a clean notebook with a manual of parameters and presets that fit it, and every cell runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from mlkit.parameters import ParameterError, check, read
from mlkit.running import preset, units

ROOT = Path(__file__).resolve().parents[2]
UNITS = units(ROOT)
SHARING = ("landscape_metrics", "flatness", "trajectories", "gradient_coherence", "representations")
TIMED = ("train_seconds", "tasks_per_second")


def cells(unit: str, kind: str = "code") -> list[nbformat.NotebookNode]:
    notebook = nbformat.read(ROOT / "notebooks" / f"{unit}.ipynb", as_version=4)
    return [cell for cell in notebook.cells if cell.cell_type == kind]


def tags(cell: nbformat.NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def test_the_units_are_there():
    assert {"few_shot_regression", "few_shot_images", "regularized_maml", *SHARING} <= set(UNITS)


@pytest.mark.parametrize("unit", UNITS)
def test_outputs_are_stripped_and_the_file_is_valid(unit):
    path = ROOT / "notebooks" / f"{unit}.ipynb"
    nbformat.validate(json.loads(path.read_text(encoding="utf-8")))
    for cell in cells(unit):
        assert cell.outputs == []
        assert cell.execution_count is None


@pytest.mark.parametrize("unit", UNITS)
def test_code_cells_are_short(unit):
    lines = {cell.source.splitlines()[0]: len(cell.source.splitlines()) for cell in cells(unit)}
    first, *others = lines.items()
    assert first[1] <= 32, "the parameters cell"
    assert {line: count for line, count in others if count > 25} == {}


@pytest.mark.parametrize("unit", UNITS)
def test_the_parameters_cell_is_a_manual(unit):
    (manual,) = [cell for cell in cells(unit) if "parameters" in tags(cell)]
    assert manual is not None
    assert manual == cells(unit)[0]
    declared = read(ROOT / "notebooks" / f"{unit}.ipynb")  # every line `name: type = literal`
    commented = [line for line in manual.source.splitlines() if "  # " in line]
    assert len(commented) == len(declared) == len(manual.source.splitlines())
    assert vars(check(declared, {})) == {name: declaration.default for name, declaration in declared.items()}


@pytest.mark.parametrize("unit", UNITS)
def test_presets_fit(unit):
    declared = read(ROOT / "notebooks" / f"{unit}.ipynb")
    folders = {path.parent.name for path in (ROOT / "notebooks/presets").glob(f"*/{unit}.yaml")}
    assert {"smoke", "paper"} <= folders
    for name in folders:
        given = preset(name, unit, ROOT)
        assert given, f"{name} changes nothing"
        checked = vars(check(declared, given))
        assert all(checked[key] == value for key, value in given.items())
    with pytest.raises(ParameterError, match=r"unknown parameter 'nothing_like_it'; .*valid: "):
        check(declared, {"nothing_like_it": 1})


def test_every_preset_has_its_unit():
    assert {path.stem for path in (ROOT / "notebooks/presets").glob("*/*.yaml")} <= set(UNITS)


@pytest.mark.parametrize("name", ["quick", "smoke", "cpu", "paper"])
def test_chapters_that_share_trainings_give_them_the_same_parameters(name):
    def values(unit: str) -> dict[str, object]:
        return vars(check(read(ROOT / "notebooks" / f"{unit}.ipynb"), preset(name, unit, ROOT)))

    whole, *others = (values(unit) for unit in SHARING)
    one_step = whole | {key: whole[f"one_step_{key}"] for key in ("epochs", "iterations")}
    for unit, own in zip(SHARING[1:], others, strict=True):
        expected = one_step if unit == "gradient_coherence" else whole
        shared = own.keys() & expected.keys()
        assert len(shared) >= 19
        assert {key: own[key] for key in shared} == {key: expected[key] for key in shared}


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_teaches(unit):
    prose = "\n".join(cell.source for cell in cells(unit, "markdown"))
    assert prose.startswith("# ")
    assert "\n## Exercises" in prose
    assert "{cite:" in prose


def project_at(folder: Path) -> Path:
    """Return a project of its own, without records, whose notebooks and papers are the real ones."""
    (folder / "book").mkdir(parents=True)
    (folder / "notebooks").symlink_to(ROOT / "notebooks")
    for name in ("paper", "published.yaml"):
        (folder / "book" / name).symlink_to(ROOT / "book" / name)
    return folder


def call(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a module of Python elsewhere than in the checkout; what it leaves lands in `root`."""
    environment = {**os.environ, "MLKIT_ROOT": str(root), "OMP_NUM_THREADS": "1"}
    environment.pop("MLKIT_RECORDS", None)
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=300, check=False)


def plain_papermill(root: Path, unit: str, *given: str) -> subprocess.CompletedProcess[str]:
    notebooks = root / "notebooks"
    smoke = ("-f", str(notebooks / "presets/smoke" / f"{unit}.yaml"))
    return call(root, "papermill", str(notebooks / f"{unit}.ipynb"), str(root / "out.ipynb"), *smoke, *given)


def stored(root: Path, unit: str) -> dict[str, dict[str, object]]:
    """Read what identifies the local records and what they found, but for times."""
    found = {}
    for path in (root / "runs" / unit).glob("*.json"):
        body = json.loads(path.read_text())
        scores = {name: value for name, value in body["scores"].items() if name not in TIMED}
        kept = ("unit", "name", "key", "settings", "parameters", "answers", "data", "arrays")
        found[path.name] = {key: body[key] for key in kept} | {"scores": scores}
    return found


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Execute units by plain papermill at their smoke preset, each once: unit -> its project."""
    done: dict[str, Path] = {}

    def execute(unit: str) -> Path:
        if unit not in done:
            done[unit] = project_at(tmp_path_factory.mktemp(unit) / "project")
            finished = plain_papermill(done[unit], unit)
            assert finished.returncode == 0, finished.stderr[-3000:]
        return done[unit]

    return execute


@pytest.mark.unit
@pytest.mark.parametrize("unit", UNITS)
def test_every_cell_runs_at_the_smoke_preset(executed, unit):
    root = executed(unit)
    notebook = nbformat.read(root / "out.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert sum("plotly" in json.dumps(output.get("data", {})) for output in outputs) >= 3
    assert stored(root, unit)
    assert not list((root / "runs" / unit / "work").glob("*/"))  # no checkpoint outlives its record


@pytest.mark.unit
def test_mlkit_run_and_plain_papermill_give_the_same_records(executed, tmp_path):
    root = project_at(tmp_path / "project")
    finished = call(root, "mlkit", "run", "few_shot_regression", "-f", "smoke")
    assert finished.returncode == 0, finished.stderr[-3000:]
    ours, plain = (stored(each, "few_shot_regression") for each in (root, executed("few_shot_regression")))
    assert len(ours) == 7  # three methods, two numbers of steps each, and the 10-shot setting
    assert ours == plain


@pytest.mark.unit
def test_an_unknown_name_stops_both_ways_of_running(tmp_path):
    root = project_at(tmp_path / "project")
    message = "unknown parameter 'inner_step'; did you mean 'inner_steps'? valid: setting, shots, query, methods"
    plain = plain_papermill(root, "few_shot_regression", "-p", "inner_step", "3")
    assert plain.returncode != 0
    assert plain.stderr.rstrip().splitlines()[-1].startswith(f"ParameterError: {message}")
    ours = call(root, "mlkit", "run", "few_shot_regression", "-f", "smoke", "-p", "inner_step", "3")
    assert (ours.returncode, ours.stdout) == (2, "")
    assert ours.stderr.startswith(f"mlkit: {message}")
    assert not (root / "runs").exists()
