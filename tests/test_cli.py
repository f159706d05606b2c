"""The command line, and that `mlkit run` and plain papermill are the same run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from mlkit import running
from mlkit.cli import main
from mlkit.running import RunError, preset, values

CELLS = (
    "shots: int = 5  # support examples a class\nlr: float = 0.1  # step size\nseeds: list[int] = [0, 1]  # runs\n"
    'device: str = "cpu"  # where to compute',
    "import mlkit\n\np = mlkit.parameters(In)\nunit = mlkit.Unit('waves', p)",
    "def compute(work):\n    return mlkit.Result(scores={'mean': p.shots * p.lr, 'seeds': p.seeds})\n\n\n"
    "record = unit.record('maml', {'shots': p.shots, 'lr': p.lr, 'seeds': p.seeds}, compute)",
    "assert p.shots < 100, 'too many shots'",
)


def project_at(root: Path) -> Path:
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
    cells[0].metadata["tags"] = ["parameters"]
    kernel = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}}
    (root / "notebooks/presets/smoke").mkdir(parents=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), root / "notebooks/waves.ipynb")
    (root / "notebooks/presets/smoke/waves.yaml").write_text("shots: 2\nseeds: [7]\n")
    (root / "pyproject.toml").write_text('[project]\nname = "mlkit"\n')
    return root


@pytest.fixture
def root(tmp_path, monkeypatch):
    for name in ("MLKIT_ROOT", "MLKIT_RECORDS"):
        monkeypatch.delenv(name, raising=False)
    folder = project_at(tmp_path / "project")
    monkeypatch.chdir(folder)
    return folder


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a module of Python in the current folder, as a user does."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, timeout=120, env=environment, check=False
    )


def stored(root: Path) -> dict:
    (path,) = (root / "runs/waves").glob("maml-*.json")
    body = json.loads(path.read_text())
    return {key: body[key] for key in ("unit", "name", "key", "settings", "parameters", "scores", "answers", "arrays")}


@pytest.mark.unit
def test_both_ways_of_running_give_the_same(root, tmp_path, monkeypatch):
    first = call("mlkit", "run", "waves", "-f", "smoke", "-p", "lr", "2")
    assert first.returncode == 0, first.stderr
    lines = first.stdout.splitlines()
    assert lines[0].startswith("record:   runs/waves/maml-")
    assert "1 seed" in lines[0]
    assert lines[1].startswith("notebook: runs/waves/waves-")
    assert Path(lines[1].split(": ", 1)[1]).is_file()
    assert stored(root)["scores"] == {"mean": 4.0, "seeds": [7]}

    other = project_at(tmp_path / "other")
    monkeypatch.chdir(other)
    preset_file = "notebooks/presets/smoke/waves.yaml"
    second = call("papermill", "notebooks/waves.ipynb", "out.ipynb", "-f", preset_file, "-p", "lr", "2")
    assert second.returncode == 0, second.stderr
    assert stored(other) == stored(root)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("-p", "shot", "3"), "unknown parameter 'shot'; did you mean 'shots'? valid: shots, lr, seeds, device"),
        (("-r", "lr", "fast"), "parameter 'lr': expected float, got str 'fast'"),
    ],
)
def test_both_ways_of_running_stop_with_the_same_message(root, given, message):
    plain = call("papermill", "notebooks/waves.ipynb", "out.ipynb", *given)
    assert plain.returncode != 0
    assert plain.stderr.rstrip().splitlines()[-1] == f"ParameterError: {message}"
    ours = call("mlkit", "run", "waves", *given)
    assert (ours.returncode, ours.stdout, ours.stderr) == (2, "", f"mlkit: {message}\n")
    assert not (root / "runs").exists()


@pytest.mark.unit
def test_a_cell_that_fails_ends_with_one_line(root):
    failed = call("mlkit", "run", "waves", "-p", "shots", "100", "--output", "here.ipynb")
    assert failed.returncode == 1
    last = failed.stderr.rstrip().splitlines()[-1]
    assert last.startswith("mlkit: waves stopped in cell [")
    assert last.endswith("AssertionError: too many shots; the traceback is in here.ipynb")
    assert (root / "here.ipynb").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "wave"), "unknown unit 'wave'; did you mean 'waves'? valid: waves"),
        (
            ("run", "waves", "-f", "smok"),
            "no file or preset 'smok'; did you mean 'smoke'? presets of waves: quick, smoke",
        ),
        (("run", "waves", "-y", "[1]"), "expected YAML lines `name: value` in -y '[1]', got list [1]"),
        (("run", "waves", "-y", "a: ["), "expected YAML lines `name: value` in -y 'a: ['"),
        (
            ("run", "waves", "-y", "lr: 1e-3"),
            "parameter 'lr': expected float, got str '1e-3'; write a number with a point",
        ),
        (("run", "waves", "--device", "tpu", "-p", "sots", "1"), "unknown parameter 'sots'; did you mean 'shots'?"),
        (("data", "get", "omniglott"), "did you mean 'omniglot'?"),
        (("data", "check", "nothing"), "got 'nothing'"),
    ],
)
def test_mistakes_end_with_one_line_and_code_2(root, capsys, arguments, message):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("mlkit: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_presets_are_files_or_names(root):
    assert preset("quick", "waves", root) == {}
    assert preset("smoke", "waves", root) == preset("notebooks/presets/smoke/waves.yaml", "waves", root)
    assert values("", "nothing") == {}
    with pytest.raises(RunError, match="presets of waves: quick, smoke"):
        preset("paper", "waves", root)


def test_data_list_names_every_data_set(capsys, tmp_path):
    assert main(["data", "list", "--root", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "omniglot " in printed
    assert "not here" in printed
    assert "built in" in printed
    assert "https://github.com/brendenlake/omniglot" in printed


def test_data_check_tells_what_is_missing(capsys, tmp_path):
    assert main(["data", "check", "omniglot", "--root", str(tmp_path)]) == 1
    assert "incomplete or damaged" in capsys.readouterr().out


def test_new_records_are_those_of_the_unit_and_of_no_other_unit(root):
    project_at(root.parent / "elsewhere")  # another unit's notebook
    (root.parent / "elsewhere/notebooks/waves.ipynb").rename(root / "notebooks/tides.ipynb")
    for place, age in {"waves/new": 0, "waves/old": 90, "shared/new": 0, "tides/new": 0}.items():
        path = root / f"runs/{place}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (time.time() - age, time.time() - age))
    found = running.computed("waves", root, time.time() - 30)
    assert [str(path.relative_to(root)) for path in found] == ["runs/shared/new.json", "runs/waves/new.json"]
