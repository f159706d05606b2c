"""A unit's parameters: what is read back from the history of a notebook, and what stops it."""

from __future__ import annotations

import nbformat
import pytest

from mlkit.parameters import ParameterError, check, declarations, parameters, read, resolve

CELL = """\
shots: int = 5  # support examples a class
inner_lr: float = 1  # step size
method: str = "maml"  # which learner
second_order: bool = True  # differentiate through the inner loop
seeds: list[int] = [0, 1]  # one run each
"""


def injected(*lines: str) -> str:
    return "\n".join(("# Parameters", *lines, ""))


def test_defaults_are_read_typed():
    p = parameters(["", CELL, "p = mlkit.parameters(In)"])
    assert vars(p) == {"shots": 5, "inner_lr": 1.0, "method": "maml", "second_order": True, "seeds": [0, 1]}
    assert type(p.inner_lr) is float


def test_papermills_cell_overrides():
    p = parameters(["", CELL, injected("shots = 1", "inner_lr = 2", "seeds = [3]"), "x = 1"])
    assert (p.shots, p.inner_lr, p.seeds, p.method) == (1, 2.0, [3], "maml")


def test_what_ran_last_counts():
    edited = CELL.replace("= 5", "= 7")
    assert parameters([CELL, injected("shots = 1"), edited]).shots == 7  # a reader edits the cell and runs it again
    assert parameters([CELL, edited, injected("shots = 1")]).shots == 1
    assert parameters([CELL, "p = 1", "losses: list[float] = []"]).shots == 5  # other typed cells are no parameters
    assert parameters([CELL, "%broken syntax ("]).shots == 5


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "shot = 3",
            "unknown parameter 'shot'; did you mean 'shots'? valid: shots, inner_lr, method, second_order, seeds",
        ),
        ("zzz = 3", "unknown parameter 'zzz'; valid: shots, inner_lr, method, second_order, seeds"),
        ("shots = 'five'", "parameter 'shots': expected int, got str 'five'"),
        ("shots = 5.0", "parameter 'shots': expected int, got float 5.0"),
        ("shots = True", "parameter 'shots': expected int, got bool True"),
        ("shots = None", "parameter 'shots': expected int, got NoneType None"),
        ("second_order = 1", "parameter 'second_order': expected bool, got int 1"),
        ("seeds = [0, 1.5]", "parameter 'seeds[1]': expected int, got float 1.5"),
        ("inner_lr = float('inf')", "parameter 'inner_lr': expected a finite float, got inf"),
        ("inner_lr = '1e-3'", "as in 1.0e-3"),
        ("seeds = '[0]'", "-y 'seeds: [...]'"),
        ("method = 3", "-r method 3"),
    ],
)
def test_wrong_values_stop(line, message):
    with pytest.raises(ParameterError) as error:
        parameters([CELL, injected(line)])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("shots: int = 2 + 3", "expected a literal, got `2 + 3`"),
        ("shots: int = 'a'", "expected int, got str 'a'"),
        ("shots: Path = 'a'", "expected a type among bool, int, float, str and list[...], got Path"),
        ("shots: int = 1\nways = 5", "parameter 'ways': expected a type; write `ways: type = value"),
        ("shots: int = 1\nimport os", "got `import os`"),
    ],
)
def test_a_wrong_cell_stops(cell, message):
    with pytest.raises(ParameterError, match="expected") as error:
        parameters([cell])
    assert message in str(error.value)


def test_no_cell_ran():
    with pytest.raises(ParameterError, match="run the notebook from its first cell"):
        parameters(["", "p = mlkit.parameters(In)"])


def test_values_are_read_only_and_names_are_checked():
    p = parameters([CELL])
    with pytest.raises(AttributeError, match="did you mean 'shots'"):
        _ = p.shot
    with pytest.raises(ParameterError, match="read-only"):
        p.shots = 3


def test_a_file_declares_the_same(tmp_path):
    cell = nbformat.v4.new_code_cell(CELL, metadata={"tags": ["parameters"]})
    path = tmp_path / "unit.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    assert read(path) == declarations(CELL)
    assert vars(check(read(path), {"shots": 1})) == vars(parameters([CELL, injected("shots = 1")]))
    nbformat.write(nbformat.v4.new_notebook(), path)
    with pytest.raises(ParameterError, match="tagged `parameters`"):
        read(path)


@pytest.mark.parametrize(
    "text", ["5", "-1", "1e-3", "0.5", "True", "False", "None", "maml", "[0]", "", " 5", "1_000", "nan"]
)
def test_text_becomes_what_papermill_makes_of_it(text):
    papermill = pytest.importorskip("papermill.cli")
    assert repr(resolve(text)) == repr(papermill._resolve_type(text))
