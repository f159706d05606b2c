"""The command `mlkit`: data, run, status. A user's mistake ends with one line and exit code 2, a failed run with 1."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlkit import project
from mlkit.papers import AnswerError
from mlkit.parameters import ParameterError, resolve
from mlkit.running import RunError, StoppedError
from mlkit.stored import RecordError, load


class DataError(ValueError):
    """A data set that is unknown, incomplete or damaged."""


MISTAKES = (ParameterError, AnswerError, RecordError, RunError, DataError, OSError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 1 a unit stopped, 2 a mistake in what was asked."""
    options = _parser().parse_args(arguments)
    try:
        code = options.command(options)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except StoppedError as error:
        return _fail(error, 1)
    except MISTAKES as error:
        return _fail(error, 2)
    except KeyboardInterrupt:
        return _fail("interrupted; run the same command again to go on from the last checkpoint", 130)
    return code


def _fail(error: object, code: int) -> int:
    print(f"mlkit: {error}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mlkit", description="Run the units of the book, get their data, see what is reproduced."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_data(commands)
    _add_run(commands)
    status = commands.add_parser("status", help="print what the records reproduce of the papers")
    status.add_argument("--json", action="store_true", help="one JSON object a row instead of a table")
    status.set_defaults(command=_status)
    return parser


def _add_data(commands: Any) -> None:
    data = commands.add_parser("data", help="list, download and check data sets")
    data.set_defaults(command=_data)
    actions = data.add_subparsers(required=True, metavar="ACTION", dest="action")
    for action, text in (
        ("list", "print every data set: its size, whether it is here, its license, its source"),
        ("get", "download a data set, or say how to get it by hand"),
        ("check", "verify the files of a data set"),
    ):
        parser = actions.add_parser(action, help=text)
        if action != "list":
            parser.add_argument("name", metavar="NAME")
        parser.add_argument("--root", type=Path, help="data folder (default: MLKIT_DATA or ~/.cache/mlkit)")


def _add_run(commands: Any) -> None:
    run = commands.add_parser(
        "run", help="execute the notebook of a unit", epilog="papermill takes -f, -y, -p and -r alike."
    )
    run.add_argument("unit", metavar="UNIT")
    pair = {"nargs": 2, "metavar": ("NAME", "VALUE"), "action": "append", "default": []}
    run.add_argument(
        "-f",
        dest="files",
        metavar="FILE|PRESET",
        action="append",
        default=[],
        help="values from YAML, or a preset: quick, smoke, paper",
    )
    run.add_argument(
        "-y",
        dest="yaml",
        metavar="YAML",
        action="append",
        default=[],
        help="values as YAML text, as in -y 'seeds: [0, 1]'",
    )
    run.add_argument("-p", dest="values", help="one value; numbers, True, False and None are read as such", **pair)
    run.add_argument("-r", dest="texts", help="one value, kept as text", **pair)
    run.add_argument("--device", help="short for -r device DEVICE")
    run.add_argument("--output", type=Path, help="the executed notebook (default: in runs/UNIT/)")
    run.add_argument("--fresh", action="store_true", help="compute every record again, as MLKIT_RECORDS=fresh")
    run.add_argument(
        "--publish", action="store_true", help="put the records into book/records, as MLKIT_RECORDS=publish"
    )
    run.set_defaults(command=_run)


def _data(options: argparse.Namespace) -> int:
    from mlkit import data

    try:
        if options.action == "list":
            print("\n".join(_listed(dataset, options.root) for dataset in data.catalogue()))
        elif options.action == "get":
            print(f"{options.name}: {data.get(options.name, options.root)}")
        else:
            return _checked(data.check(options.name, options.root))
    except ValueError as error:  # what mlkit.data raises for an unknown name or a damaged archive
        raise DataError(str(error)) from error
    return 0


def _checked(report: Any) -> int:
    print(f"{report.dataset.name}: {report.classes} classes, {report.images} images in {report.folder}")
    for problem in report.problems:
        print(f"  {problem}")
    print("complete" if report.ok else "incomplete or damaged; `mlkit data get` says how to get it")
    return 0 if report.ok else 1


def _listed(dataset: Any, root: Path | None) -> str:
    folder = dataset.folder(root)
    is_built_in = not dataset.archives and not dataset.steps
    place = "built in" if is_built_in else f"in {folder}" if folder.exists() else "not here"
    return f"{dataset.name:<14}{dataset.title}\n{'':<14}{dataset.size}; {place}; {dataset.license}; {dataset.source}"


def _run(options: argparse.Namespace) -> int:
    from mlkit import running

    root = project.root()
    running.notebook(options.unit, root)  # a wrong name is told before a wrong value
    given: dict[str, Any] = {}
    for name in options.files:
        given |= running.preset(name, options.unit, root)
    for text in options.yaml:
        given |= running.values(text, f"-y {text!r}")
    given |= {name: resolve(text) for name, text in options.values} | dict(options.texts)
    given |= {"device": options.device} if options.device else {}
    _set_modes(fresh=options.fresh, publish=options.publish)
    start = time.time()
    output = running.run(options.unit, given, root=root, output=options.output)
    for path in running.computed(options.unit, root, start):
        print(f"record:   {_shown(path)}: {load(path).evidence_line()}")
    print(f"notebook: {_shown(output)}")
    return 0


def _set_modes(**asked: bool) -> None:
    modes = filter(None, os.environ.get("MLKIT_RECORDS", "").split(","))
    modes = dict.fromkeys([*modes, *(mode for mode, is_asked in asked.items() if is_asked)])
    if modes:
        os.environ["MLKIT_RECORDS"] = ",".join(modes)  # read by the unit, in the kernel


def _shown(path: Path) -> str:
    return os.path.relpath(path) if path.resolve().is_relative_to(Path.cwd()) else str(path)


def _status(options: argparse.Namespace) -> int:
    from mlkit import status

    rows = status.rows()
    if options.json:
        print("\n".join(json.dumps(row.as_dict(), ensure_ascii=False) for row in rows))
    else:
        print(status.table(rows, shutil.get_terminal_size((120, 24)).columns))
    return 0
