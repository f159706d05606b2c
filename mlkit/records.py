"""Records: what ran, on what, with what result. The book draws them; a unit computes the ones that are missing.

    unit = mlkit.Unit("few_shot_regression", p)
    record = unit.record("maml", {"steps": p.steps, "seeds": p.seeds}, compute)

A record is `<name>-<8 hex digits of its key>.json`, beside an .npz where it has arrays; its key is the sha256 of unit,
name and settings. Those that ship with the project lie in `book/records/<unit>/`, a reader's own in `runs/<unit>/`.

The environment variable MLKIT_RECORDS changes what is looked up and where results go (words joined by commas):

- `fresh`: no shipped record counts, nor one older than this Unit, so that everything is computed at least once;
- `publish`: what is computed or found goes to `book/records/`, to ship.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlkit import evidence as proof
from mlkit import project
from mlkit.papers import judged
from mlkit.stored import Record, RecordError, canonical, load, plain, write

SHIPPED, LOCAL = "book/records", "runs"
BENCHMARKS = "benchmarks"  # a folder beside those of the units: timings, no records
MODES = ("fresh", "publish")


@dataclass(frozen=True)
class Result:
    """What a computation returns.

    `scores` is JSON-like (numbers that are not finite become null, with a note); `arrays` go to the .npz; `data` is
    `describe()` of the tasks; `tasks` counts them. Each of `answers` joins the record to a row of the papers: its
    `id`, `value` in the row's unit, and where known `ci95`, `tasks`, `seeds`, `note`; see `mlkit.papers.judged` for
    what decides its `verdict`.
    """

    scores: Mapping[str, Any]
    arrays: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    answers: list[dict[str, Any]] = field(default_factory=list)
    tasks: int | None = None


@dataclass(frozen=True)
class Work:
    """What a computation is given: `folder` for checkpoints; it survives a kill and goes once the record is stored."""

    folder: Path


Compute = Callable[[Work], Result]


class Unit:
    """One notebook's access to its records.

    Args:
        name: the unit, as its notebook is called.
        parameters: what `mlkit.parameters(In)` returned, or a dict; recorded with every result.
        root: the project's folder; found as `mlkit.project.root` says.

    Raises:
        RecordError: `name` or a word in MLKIT_RECORDS is wrong.
    """

    def __init__(self, name: str, parameters: Any = None, *, root: Path | str | None = None):
        self.name = _named("unit", name)
        self.root = Path(root).resolve() if root else project.root()
        values = parameters if isinstance(parameters, Mapping) else vars(parameters) if parameters else {}
        self.parameters = plain(values, "parameters")
        self.used: list[Record] = []  # every record asked for, in order
        self.modes = _modes()
        self._begun = datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")

    def record(self, name: str, settings: Mapping[str, Any], compute: Compute) -> Record:
        """Return the stored record of these settings; where there is none, compute and store it.

        Two processes that want the same record compute it once: the second waits for the first. A computation that is
        killed finds its checkpoints again in `work.folder`.

        Args:
            name: what the record holds, lower-case: `maml`, `test-accuracy`.
            settings: everything the result depends on; JSON-like and finite. `device`, `chunk_size` and `workers` are
                recorded but are not part of the key, and 1 and 1.0 are the same setting.
            compute: called as `compute(Work(folder))`, returns a Result.

        Raises:
            RecordError: a record is damaged, a setting is no JSON, a result cannot be stored, or an answer names no
                row of the papers.
        """
        settings = plain(settings, "settings")
        key = record_key(self.name, _named("record", name), settings)
        stem = f"{name}-{key[:8]}"
        record = self._stored(stem, key)
        if record is None:
            with _locked(self.root / LOCAL / self.name / "work" / f"{stem}.lock"):
                record = self._stored(stem, key) or self._compute(name, key, settings, compute)
        if "publish" in self.modes and record.path.parent != self._folder(SHIPPED):
            with _written(self._folder(SHIPPED)):
                record = write(record.body, record.arrays, self._folder(SHIPPED) / record.path.name)
        self.used.append(record)
        return record

    def _folder(self, place: str) -> Path:
        return self.root / place / self.name

    def _stored(self, stem: str, key: str) -> Record | None:
        fresh = "fresh" in self.modes
        for place in (SHIPPED, LOCAL):
            path = self._folder(place) / f"{stem}.json"
            if not path.exists() or (fresh and place == SHIPPED):
                continue
            record = load(path)
            if record.key != key:
                raise RecordError(f"expected {path} to hold the record {key}, got {record.key}; delete that file")
            if not fresh or record.evidence["date"] >= self._begun:
                _ = record.arrays  # read now, so that damage shows here
                return record
        return None

    def _compute(self, name: str, key: str, settings: dict[str, Any], compute: Compute) -> Record:
        stem = f"{name}-{key[:8]}"
        folder = self._folder(LOCAL) / "work" / stem
        with _written(folder):
            folder.mkdir(parents=True, exist_ok=True)
            sessions = proof.Sessions(folder)
            sessions.begin()
        with proof.Meter() as meter:
            result = compute(Work(folder))
        if not isinstance(result, Result):
            raise RecordError(f"expected compute to return mlkit.Result for {stem}, got {type(result).__name__}")
        body = self._body(name, key, settings, result)
        body["evidence"] |= {
            "seconds": round(meter.seconds + sessions.seconds, 3),
            "sessions": sessions.count,
            "memory_bytes": meter.memory_bytes,
            "gpu_memory_bytes": meter.gpu_memory_bytes,
        }
        with _written(self._folder(LOCAL)):
            record = write(body, result.arrays, self._folder(LOCAL) / f"{stem}.json")
        shutil.rmtree(folder, ignore_errors=True)
        return record

    def _body(self, name: str, key: str, settings: dict[str, Any], result: Result) -> dict[str, Any]:
        notes: list[str] = []
        data = plain(result.data, "data", notes)
        answers = [judged(plain(answer, "answers", notes), data=data, root=self.root) for answer in result.answers]
        execution = {option: ({**self.parameters, **settings}).get(option) for option in proof.EXECUTION}
        tasks = result.tasks or max((answer["tasks"] or 0 for answer in answers), default=0) or None
        return {
            "unit": self.name,
            "name": name,
            "key": key,
            "settings": settings,
            "parameters": self.parameters,
            "execution": {option: value for option, value in execution.items() if value is not None},
            "scores": plain(result.scores, "scores", notes),
            "data": data,
            "answers": answers,
            "notes": notes,
            "evidence": {
                "seeds": proof.seeds_of(settings, self.parameters),
                "tasks": tasks,
                "data_hash": data.get("content_hash"),
                "stand_in": data.get("stand_in"),
                "software": proof.software(),
                "hardware": proof.hardware(str(execution["device"] or "cpu")),
                "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds"),
            },
        }


def record_key(unit: str, name: str, settings: Mapping[str, Any]) -> str:
    """Return the sha256 of unit, name and the settings that shape the result, 64 hex digits."""
    shaping = {option: value for option, value in settings.items() if option not in proof.EXECUTION}
    return hashlib.sha256(canonical([unit, name, shaping])).hexdigest()


def records(root: Path | str | None = None) -> Iterator[Record]:
    """Yield every record of the project, the shipped ones first, each place in the order of its paths.

    Raises:
        RecordError: a record is damaged.
    """
    top = Path(root) if root else project.root()
    for place in (SHIPPED, LOCAL):
        paths = sorted((top / place).glob("*/*.json"))
        yield from map(load, (path for path in paths if path.parent.name != BENCHMARKS))


def shipped(unit: str, root: Path | str | None = None) -> list[Record]:
    """Return the records behind a unit's published page: its own, then those of other units that these draw from.

    A record names what it draws from by a setting `of`, a list of keys.

    Raises:
        RecordError: a record is damaged.
    """
    top = Path(root) if root else project.root()
    there = [record for record in records(top) if record.path.is_relative_to(top / SHIPPED)]
    own = [record for record in there if record.unit == unit]
    named = {key for record in own for key in record.settings.get("of", [])}
    return own + [record for record in there if record.unit != unit and record.key in named]


def _modes() -> set[str]:
    modes = set(filter(None, os.environ.get("MLKIT_RECORDS", "").split(",")))
    for mode in modes - set(MODES):
        hint = project.nearest(mode, MODES)
        raise RecordError(f"unknown word {mode!r} in MLKIT_RECORDS; {hint}valid: {', '.join(MODES)}, or unset it")
    return modes


def _named(what: str, name: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", name):
        raise RecordError(f"expected a {what} name of lower-case letters, digits, `_`, `-`, `.`, got {name!r}")
    return name


@contextlib.contextmanager
def _written(folder: Path) -> Iterator[None]:
    """Turn a failure to write into one that says what to do."""
    try:
        yield
    except OSError as error:
        raise RecordError(
            f"cannot write in {folder}: {error.strerror or error}; free space or permit writing there, or name another "
            "project folder in MLKIT_ROOT, then run again (checkpoints are kept)"
        ) from error


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of one record among processes; it ends with the process, however that ends."""
    with _written(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
