"""Tasks by name: the official layouts and splits of the data sets that the papers use, and folders of one's own."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np

from mlkit.catalogue import CATALOGUE, data_root, find, how_to_get
from mlkit.project import nearest
from mlkit.tasks.class_folders import ClassTasks, Rotations
from mlkit.tasks.glyphs import SPLITS as GLYPHS
from mlkit.tasks.glyphs import glyphs
from mlkit.tasks.image_files import Form, class_files, read_images
from mlkit.tasks.images import ImageClasses
from mlkit.tasks.sine import SETTINGS, SineTasks, sine

SPLITS = ("train", "val", "test")
FORMS = {
    "omniglot": Form(28, "L", "LANCZOS"),
    "cifar100": Form(32),
    "mini_imagenet": Form(84),
    "cub": Form(84, skip_gray=True),
}
SINES = {"sine": "finn"} | {f"sine_{setting}": setting for setting in SETTINGS}
NAMES = (*SINES, *(name for dataset in CATALOGUE for name in dataset.tasks))


def load(
    name: str | Path,
    split: str = "train",
    *,
    ways: int = 5,
    shots: int | None = None,
    query: int | None = None,
    rotations: Rotations = "none",
    root: Path | str | None = None,
) -> ClassTasks | SineTasks:
    """Return the tasks called `name`, or those of the folder at the path `name` (see `folder_tasks`).

    Names: sine, sine_finn, sine_huisman, sine_guiroy; glyphs; omniglot (1,100 / 100 / 423 characters),
    omniglot_background (792 / 172 / 659), cifar_fs (64 / 16 / 20 classes), fc100 (60 / 20 / 20),
    mini_imagenet (64 / 16 / 20), cub (140 / 30 / 30), cub_100_50_50. `shots` and `query` default to 1 and 15, for sine
    to those of its setting; `ways` and `rotations` mean nothing to sine. `root` is the data root (default: MLKIT_DATA).

    Raises:
        ValueError: The name or the split is not known, or a class is too small for the task.
        FileNotFoundError: The data is not there; the message says how to get it.

    Example:
        >>> load("glyphs", "test", ways=20).describe()["classes"]
        200
    """
    name = str(name)
    if name in SINES:
        return sine(SINES[name], split, shots=shots, query=query)
    size = {"shots": 1 if shots is None else shots, "query": 15 if query is None else query, "rotations": rotations}
    if name == "glyphs":
        return glyphs(split, ways=ways, **size)
    if name in NAMES:
        return ClassTasks(load_images(name, split, root=root), split, ways, **size)
    if Path(name).expanduser().is_dir():
        return folder_tasks(name, split, ways=ways, **size)
    raise ValueError(
        f"expected {', '.join(NAMES)}, or the path of a folder that is there; got {name!r}; {nearest(name, NAMES)}"
        "choose one of them"
    )


def image_form(name: str) -> tuple[int, int]:
    """Return size in pixels and channels of the images of `name`, without reading any; a folder's are (84, 3).

    Example:
        >>> image_form("omniglot"), image_form("cifar_fs")
        ((28, 1), (32, 3))
    """
    if name == "glyphs":
        return 28, 1
    form = FORMS[find(name).name] if name in NAMES else Form(84)
    return form.size, 1 if form.mode == "L" else 3


def class_count(name: str, split: str) -> int:
    """Return how many classes a split of `name` has, without reading images; a folder of one's own is read.

    Raises:
        ValueError: `name` has no classes, or is not known.

    Example:
        >>> class_count("omniglot", "train"), class_count("cifar_fs", "test")
        (1100, 20)
    """
    if name in SINES:
        raise ValueError(
            f"expected a data set of images by class, got {name!r}; choose glyphs, or one of the catalogue"
        )
    if name == "glyphs":
        return len(GLYPHS[split])
    return len(split_classes(name)[split]) if name in NAMES else load(name, split, ways=1, query=1).classes


def load_images(name: str, split: str, *, root: Path | str | None = None) -> ImageClasses:
    """Return the images of one split of a data set of the catalogue.

    Raises:
        ValueError: The split is not known, or not all its classes are there.
        FileNotFoundError: The data is not there.
    """
    classes = split_classes(name)
    if split not in classes:
        raise ValueError(f"expected a split of {', '.join(SPLITS)}; got {split!r}")
    return replace(read(find(name).name, root=root).select(classes[split]), name=name)


def folder_tasks(
    path: Path | str,
    split: str = "train",
    *,
    ways: int = 5,
    shots: int = 1,
    query: int = 15,
    rotations: Rotations = "none",
    size: int = 84,
    fractions: tuple[float, float, float] = (0.64, 0.16, 0.2),
    seed: int = 0,
) -> ClassTasks:
    """Return tasks from a folder of your own: <class>/<image>, or {train,val,test}/<class>/<image>.

    Without folders for the splits, classes are shuffled by `seed` and dealt out by `fractions`. Images become `size` x
    `size`, RGB.

    Raises:
        ValueError: The split is not known or holds no class, a file is no image, or a class is too small.
        FileNotFoundError: There is no such folder.
    """
    folder = Path(path).expanduser().resolve()
    if split not in SPLITS:
        raise ValueError(f"expected a split of {', '.join(SPLITS)}; got {split!r}")
    if not folder.is_dir():
        raise FileNotFoundError(f"expected a folder of <class>/<image>, found none at {folder}")
    if (folder / "train").is_dir() and (folder / "test").is_dir():
        if not (folder / split).is_dir():
            raise ValueError(f"expected the folder {folder / split} beside train and test; add it or use another split")
        found = class_files(folder / split)
        chosen = list(found)
        images = read_images(f"{folder.name}-{split}", found, folder=folder / split, form=Form(size), stand_in=True)
    else:
        found = class_files(folder)
        chosen = _dealt(list(found), fractions, seed)[split]
        images = read_images(folder.name, found, folder=folder, form=Form(size), stand_in=True)
    if not chosen:
        raise ValueError(f"the {split} split of {folder} holds no class of {len(found)}; change fractions {fractions}")
    return ClassTasks(images.select(chosen), split, ways, shots, query, rotations)


def _dealt(names: list[str], fractions: Sequence[float], seed: int) -> dict[str, list[str]]:
    if len(fractions) != 3 or min(fractions) < 0 or not np.isclose(sum(fractions), 1):
        raise ValueError(f"expected three fractions (train, val, test) that sum to 1, got {tuple(fractions)}")
    shuffled = random.Random(seed).sample(sorted(names), len(names))
    first, second = (round(len(names) * share) for share in (fractions[0], fractions[0] + fractions[1]))
    return {"train": sorted(shuffled[:first]), "val": sorted(shuffled[first:second]), "test": sorted(shuffled[second:])}


@cache
def split_classes(name: str) -> dict[str, list[str]]:
    """Return the classes of each split of a data set of the catalogue; no class is in two of them.

    omniglot: the 423 test characters of Vinyals et al. 2016; of the other 1,200, a shuffle with seed 1 holds 100 for
    validation (as Finn et al. 2017). omniglot_background: the 659 evaluation characters of Lake et al. 2015 are the
    test split, five background alphabets validation. cub: 140 / 30 / 30 as in the code of Huisman et al. 2022;
    cub_100_50_50 as Chen et al. 2019.
    """
    if name == "cub":
        return _listed("cub_140_30_30")
    if name in ("omniglot", "omniglot_background"):
        return _omniglot_splits(name)
    if name == "cifar_fs":
        return {split: [fine for _, fine in pairs] for split, pairs in _listed("cifar_fs").items()}
    if name == "fc100":  # its split is by superclass: all five classes of each
        pairs = sorted(tuple(pair) for pairs in _listed("cifar_fs").values() for pair in pairs)
        return {split: [fine for coarse, fine in pairs if coarse in part] for split, part in _listed("fc100").items()}
    return _listed(name)


def _listed(name: str) -> dict[str, list]:
    return json.loads((files("mlkit.tasks") / "splits" / f"{name}.json").read_text(encoding="utf-8"))


def _omniglot_splits(name: str) -> dict[str, list[str]]:
    flat = {
        split: [
            f"images_{part}/{alphabet}/{character}"
            for part, alphabets in parts.items()
            for alphabet, characters in alphabets.items()
            for character in characters
        ]
        for split, parts in _listed("omniglot_vinyals").items()
    }
    if name == "omniglot":
        rest = sorted(flat["train"] + flat["val"])
        held = set(random.Random(1).sample(rest, 100))
        return {"train": [n for n in rest if n not in held], "val": sorted(held), "test": sorted(flat["test"])}
    background, evaluation = ([n for n in flat["train"] if f"images_{p}/" in n] for p in ("background", "evaluation"))
    return {"train": background, "val": flat["val"], "test": sorted(evaluation + flat["test"])}


def read(dataset: str, *, root: Path | str | None = None) -> ImageClasses:
    """Return all images of a data set of the catalogue, by its own name.

    Raises:
        ValueError: A file is no image, or a binary file has another size than it should.
        FileNotFoundError: The data is not there.
    """
    folder = data_root(root) / dataset
    if binary := cifar_binary(dataset, root=root):
        return _read_cifar(binary)
    return read_images(
        dataset, image_paths(dataset, root=root), folder=folder, form=FORMS[dataset], ink=dataset == "omniglot"
    )


def image_paths(dataset: str, *, root: Path | str | None = None) -> dict[str, list[str]]:
    """Return the image files of each class of a data set, whichever of its layouts it lies in.

    Raises:
        FileNotFoundError: The data is not there.
    """
    folder = data_root(root) / dataset
    found: dict[str, list[str]] = {}
    if dataset == "omniglot":
        for alphabet in sorted(folder.glob("images_*/*/")):
            prefix = f"{alphabet.parent.name}/{alphabet.name}/"
            found |= {name: paths for name, paths in class_files(alphabet, prefix=prefix).items() if paths}
    elif dataset == "mini_imagenet" and any((folder / "images").glob("n*.jpg")):  # flat, as Ravi and Larochelle's lists
        for path in sorted((folder / "images").glob("n*.jpg")):
            found.setdefault(path.name[:9], []).append(str(path))
    else:
        for below in ("", "data", "train", "val", "test", "images", "CUB_200_2011/images"):
            if (folder / below).is_dir():
                found |= {name: paths for name, paths in class_files(folder / below).items() if paths}
    if not found:
        raise FileNotFoundError(how_to_get(find(dataset), root))
    return found


def cifar_binary(dataset: str, *, root: Path | str | None = None) -> Path | None:
    """Return the folder of CIFAR-100's official binary version, if that is how `dataset` lies there."""
    folder = data_root(root) / dataset / "cifar-100-binary"
    return folder if dataset == "cifar100" and folder.is_dir() else None


def _read_cifar(folder: Path) -> ImageClasses:
    """Read the official binary version: coarse label, fine label, 3072 bytes (3, 32, 32) an image."""
    names = (folder / "fine_label_names.txt").read_text().split()
    records = []
    for part, count in (("train", 50_000), ("test", 10_000)):
        path = folder / f"{part}.bin"
        if path.stat().st_size != count * 3074:
            raise ValueError(
                f"expected {count * 3074} bytes in {path}, got {path.stat().st_size}; remove {folder}, then "
                "`mlkit data get cifar100`"
            )
        records.append(np.fromfile(path, np.uint8).reshape(count, 3074))
    rows = np.concatenate(records)
    order = np.argsort(rows[:, 1], kind="stable")
    counts = np.bincount(rows[:, 1], minlength=len(names))
    images = rows[order, 2:].reshape(-1, 3, 32, 32)
    by_name = dict(zip(names, np.split(images, np.cumsum(counts)[:-1]), strict=True))
    return ImageClasses.build("cifar100", [by_name[name] for name in sorted(names)], names=sorted(names))
