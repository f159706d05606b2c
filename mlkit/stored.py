"""A record as files: JSON with only finite numbers, arrays in an .npz, both checked by hash, never pickle."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mlkit import evidence as proof
from mlkit.project import staged


class RecordError(ValueError):
    """A record cannot be read, computed or stored; the message names the file and the remedy."""


@dataclass(frozen=True)
class Record:
    """A stored result: `path` of its JSON and the `body` read from it."""

    path: Path
    body: dict[str, Any]

    unit = property(lambda self: self.body["unit"])
    name = property(lambda self: self.body["name"])
    key = property(lambda self: self.body["key"])
    settings = property(lambda self: self.body["settings"])
    parameters = property(lambda self: self.body["parameters"])
    scores = property(lambda self: self.body["scores"])
    data = property(lambda self: self.body["data"])
    answers = property(lambda self: self.body["answers"])
    notes = property(lambda self: self.body["notes"])
    evidence = property(lambda self: self.body["evidence"])

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays of the record, by name.

        Raises:
            RecordError: the .npz is missing or is not the one that was stored.
        """
        if not (digest := self.body["arrays"]):
            return {}
        path = self.path.with_suffix(".npz")
        try:
            content = path.read_bytes()
        except OSError as error:
            raise _damaged(path, error.strerror or str(error)) from error
        if hashlib.sha256(content).hexdigest() != digest:
            raise _damaged(path, "other content than was stored")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}

    def evidence_line(self) -> str:
        """Return one line for a caption: seeds, tasks, data, hardware, time, memory, version, date."""
        return proof.line(self.evidence, self.data)


def load(path: Path) -> Record:
    """Read a record.

    Raises:
        RecordError: the file is truncated, edited, or no record.
    """
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        checksum = body.pop("checksum")
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, f"no whole record ({type(error).__name__}: {error})") from error
    if checksum != _checksum(body):
        raise _damaged(path, "other content than was stored")
    return Record(path, body)


def write(body: Mapping[str, Any], arrays: Mapping[str, Any], path: Path) -> Record:
    """Store a record whole or not at all, the .npz before the JSON that makes it count, and return it as read back.

    Raises:
        RecordError: an array has no plain dtype.
        OSError: the files cannot be written; what was there is untouched.
    """
    content = _packed(arrays)
    body = {**body, "arrays": hashlib.sha256(content).hexdigest() if content else None}
    text = json.dumps({**body, "checksum": _checksum(body)}, indent=1, allow_nan=False, ensure_ascii=False)
    bundle = path.with_suffix(".npz")
    with ExitStack() as files:  # both are on disk before either counts
        if content:
            packed = files.enter_context(staged(bundle, lambda file: file.write(content)))
        written = files.enter_context(staged(path, lambda file: file.write(f"{text}\n".encode())))
        path.unlink(missing_ok=True)
        if content:
            os.replace(packed, bundle)
        else:
            bundle.unlink(missing_ok=True)
        os.replace(written, path)
    return load(path)


def plain(value: Any, where: str, notes: list[str] | None = None) -> Any:
    """Return `value` as JSON knows it: numpy and torch scalars as numbers, tensors and tuples as lists, paths as text.

    A number that is not finite becomes None and adds a line to `notes`; without `notes` it is an error.

    Raises:
        RecordError: a value has another type, or is not finite; `where` says which.
    """
    if isinstance(value, Mapping):
        return {_text(key, where): plain(item, f"{where}.{key}", notes) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, f"{where}[{i}]", notes) for i, item in enumerate(value)]
    if hasattr(value, "tolist"):  # numpy scalars and arrays, torch tensors
        return plain(value.tolist(), where, notes)
    if isinstance(value, float) and not math.isfinite(value):
        if notes is None:
            raise RecordError(f"{where}: expected a finite number, got {value}; leave it out or pass None")
        notes.append(f"{where} was {value}, stored as null")
        return None
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise RecordError(f"{where}: expected numbers, text, lists and dicts, got {type(value).__name__}; convert it first")


def canonical(value: Any) -> bytes:
    """Return the one JSON text of a plain value: sorted keys, no spaces, whole floats as ints."""

    def whole(item: Any) -> Any:
        if isinstance(item, dict):
            return {key: whole(entry) for key, entry in item.items()}
        if isinstance(item, list):
            return [whole(entry) for entry in item]
        return int(item) if isinstance(item, float) and item.is_integer() and abs(item) < 2**53 else item

    return json.dumps(whole(value), sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _text(key: Any, where: str) -> str:
    if not isinstance(key, (str, int)) or isinstance(key, bool):
        raise RecordError(f"{where}: expected text as a key, got {type(key).__name__} {key!r}")
    return str(key)


def _packed(arrays: Mapping[str, Any]) -> bytes:
    """Return the bytes of an .npz; equal arrays give equal bytes."""
    if not arrays:
        return b""
    ready = {}
    for name, array in arrays.items():
        if hasattr(array, "detach"):
            array = array.detach().cpu()
        ready[name] = np.asarray(array)
        if ready[name].dtype.kind not in "biufcU":
            raise RecordError(f"arrays.{name}: expected numbers, booleans or text, got dtype {ready[name].dtype}")
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **ready)
    return buffer.getvalue()


def _checksum(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical(body)).hexdigest()


def _damaged(path: Path, got: str) -> RecordError:
    return RecordError(
        f"{path}: expected a record as mlkit stored it, got {got}; "
        "restore it (`git checkout` where it ships) or delete it to compute it again"
    )
