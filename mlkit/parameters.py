"""The parameters of a unit: one notebook cell of typed literals, checked however the notebook is run.

A unit's first cell, tagged `parameters`, is its manual (`papermill --help-notebook`):

    shots: int = 5  # support examples a class
    seeds: list[int] = [0, 1]  # one run each

papermill puts the values it was given into a cell right behind it; in JupyterLab one edits the cell itself. Its next
cell, `p = mlkit.parameters(In)`, reads both back, whoever wrote them, and stops on a name or a type that is wrong.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mlkit.project import nearest

INJECTED = "# Parameters"  # the first line of the cell that papermill writes
SCALARS = {"bool": bool, "int": int, "float": float, "str": str}


class ParameterError(ValueError):
    """A parameter has an unknown name, another type, or no literal value; shown in a notebook without its traceback."""

    def _render_traceback_(self) -> list[str]:
        return [f"ParameterError: {self}"]


class Parameters(SimpleNamespace):
    """Checked values as attributes, read-only: `p.shots`; `vars(p)` is the dict of all."""

    def __setattr__(self, name: str, value: Any) -> None:
        raise ParameterError(f"parameter {name!r} is read-only; edit the parameters cell and run it again")

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(_unknown(name, vars(self)))


@dataclass(frozen=True)
class Declaration:
    """One line of a parameters cell: its annotation (as written) and its default."""

    annotation: str
    default: Any


def parameters(history: Sequence[str]) -> Parameters:
    """Return the checked parameters of the running notebook; call it as `parameters(In)`.

    The parameters cell and the cell that papermill injects are read from IPython's history in the order they ran, so
    what counts is what a reader ran last.

    Args:
        history: sources of the cells that ran, IPython's `In`.

    Raises:
        ParameterError: no parameters cell ran, or a name, a type or a value in it is wrong.
    """
    declared: dict[str, Declaration] = {}
    values: dict[str, Any] = {}
    for source in history:
        if source.lstrip().startswith(INJECTED):
            values |= _assigned(source)
        elif _declares(source) and (not declared or declared.keys() & _names(source)):
            declared = declarations(source)
            values = {}
    if not declared:
        raise ParameterError(
            "expected a parameters cell above, found none that ran; run the notebook from its first cell"
        )
    return check(declared, values)


def check(declared: Mapping[str, Declaration], given: Mapping[str, Any]) -> Parameters:
    """Return the defaults of `declared` updated by `given`, every value checked against its annotation.

    Raises:
        ParameterError: `given` has an unknown name or a value of another type.
    """
    given = {name: value for name, value in given.items() if not name.startswith("PAPERMILL_")}
    for name in given:
        if name not in declared:
            raise ParameterError(_unknown(name, declared))
    return Parameters(
        **{
            name: _typed(name, given.get(name, declaration.default), declaration.annotation)
            for name, declaration in declared.items()
        }
    )


def declarations(source: str) -> dict[str, Declaration]:
    """Parse the source of a parameters cell, `name: type = literal` a line, checking each default.

    Raises:
        ParameterError: a line has no type or no literal value, or they contradict each other.
    """
    declared = {}
    for name, node in _assignments(ast.parse(source)):
        if name is None:
            raise ParameterError(
                f"expected only lines `name: type = value` among parameters, got `{ast.unparse(node)}`"
            )
        if not isinstance(node, ast.AnnAssign):
            raise ParameterError(f"parameter {name!r}: expected a type; write `{name}: type = value  # comment`")
        annotation = ast.unparse(node.annotation)
        if not _is_known(annotation):
            raise ParameterError(
                f"parameter {name!r}: expected a type among {', '.join(SCALARS)} and list[...], got {annotation}"
            )
        declared[name] = Declaration(annotation, _literal(name, node.value))
        _typed(name, declared[name].default, annotation)
    return declared


def read(notebook: Path | str) -> dict[str, Declaration]:
    """Return what the cell tagged `parameters` of a notebook file declares.

    Raises:
        ParameterError: the notebook has no such cell, or the cell is wrong.
    """
    import nbformat

    for cell in nbformat.read(notebook, as_version=4).cells:
        if cell.cell_type == "code" and "parameters" in cell.metadata.get("tags", ()):
            return declarations(cell.source)
    raise ParameterError(f"expected a code cell tagged `parameters` in {notebook}, found none; tag its first cell")


def resolve(text: str) -> Any:
    """Turn a value typed on the command line into bool, None, int, float or str, as `papermill -p` does."""
    if text in (words := {"True": True, "False": False, "None": None}):
        return words[text]
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def _unknown(name: str, valid: Mapping[str, Any]) -> str:
    return f"unknown parameter {name!r}; {nearest(name, valid)}valid: {', '.join(valid)}"


def _typed(name: str, value: Any, annotation: str) -> Any:
    """Return `value` as the annotated type (int becomes float where a float is expected)."""
    if annotation.startswith("list["):
        if not isinstance(value, list):
            raise ParameterError(_mismatch(name, value, annotation))
        return [_typed(f"{name}[{i}]", item, annotation[5:-1]) for i, item in enumerate(value)]
    kind = SCALARS[annotation]
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise ParameterError(_mismatch(name, value, annotation))
    if kind is float and not math.isfinite(value):
        raise ParameterError(f"parameter {name!r}: expected a finite float, got {value}")
    return value


def _mismatch(name: str, value: Any, annotation: str) -> str:
    message = f"parameter {name!r}: expected {annotation}, got {type(value).__name__} {value!r}"
    if isinstance(value, str) and annotation == "float" and isinstance(resolve(value), (int, float)):
        return f"{message}; write a number with a point in YAML, as in 1.0e-3, and no quotes"
    if annotation == "str":
        return f"{message}; quote it in YAML, or use `-r {name} {value}` on the command line"
    if annotation.startswith("list["):
        return f"{message}; give a list as `-y '{name}: [...]'` or in a file"
    return message


def _is_known(annotation: str) -> bool:
    if annotation.startswith("list[") and annotation.endswith("]"):
        return _is_known(annotation[5:-1])
    return annotation in SCALARS


def _assignments(module: ast.Module) -> Iterator[tuple[str | None, Any]]:
    """Yield (name, node) for each `name = ...` and `name: type = ...`, (None, node) for any other statement."""
    for node in module.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        is_assignment = isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None
        yield (target.id if is_assignment and isinstance(target, ast.Name) else None), node


def _parsed(source: str) -> list[tuple[str | None, Any]]:
    try:
        return list(_assignments(ast.parse(source)))
    except SyntaxError:
        return []


def _names(source: str) -> set[str]:
    return {name for name, _ in _parsed(source) if name}


def _declares(source: str) -> bool:
    """Tell whether a cell assigns a typed name."""
    return any(name and isinstance(node, ast.AnnAssign) for name, node in _parsed(source))


def _assigned(source: str) -> dict[str, Any]:
    return {name: _literal(name, node.value) for name, node in _parsed(source) if name}


def _literal(name: str, node: ast.expr) -> Any:
    match node:  # papermill writes numbers that are not finite as float('inf')
        case ast.Call(func=ast.Name(id="float"), args=[ast.Constant(value=str(text))]):
            return float(text)
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise ParameterError(
            f"parameter {name!r}: expected a literal, got `{ast.unparse(node)}`; derived values belong in a later cell"
        ) from None
