"""Pictures with masks by name: made-up ones, the sets that the papers use, a mixture of real ones, one's own folder."""

from __future__ import annotations

import json
import random
import re
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from mlkit.catalogue import data_root, find, how_to_get
from mlkit.project import nearest
from mlkit.tasks.masked_images import MaskedImages, joined
from mlkit.tasks.segmentation_files import Files, class_pairs, label_maps, read_pairs
from mlkit.tasks.shapes import SPLITS as SHAPES
from mlkit.tasks.shapes import Shapes, shapes

SPLITS = ("train", "val", "test", "train+val")
FOLDS = {f"pascal_5i_{fold}": fold for fold in range(4)}
MIXTURE = "voc_ccp_eth80"
REST, FSS_REST = "voc_rest", "fss1000_rest"  # what is left where classes of many pictures are held out
NAMES = ("shapes", "fss1000", *FOLDS, "ccp", "eth80", MIXTURE, REST, FSS_REST)
LEAST = 10  # pictures of a class that comes from label maps
LABEL_MAPS = {  # where pictures and label maps lie, the first that is there
    "voc": [
        (f"{below}JPEGImages", f"{below}{maps}")
        for below in ("", "VOC2012/", "VOCdevkit/VOC2012/")
        for maps in ("SegmentationClassAug", "SegmentationClass")
    ],
    "ccp": [("photos", "masks")],
}
VOC = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


def load(
    name: str | Path, split: str = "train", *, size: int = 64, root: Path | str | None = None
) -> MaskedImages | Shapes:
    """Return the pictures and masks of one split of `name`, at `size` x `size` pixels.

    | name | classes for training / validation / testing |
    |---|---|
    | shapes | 560 / 200 / 240, made up, no download |
    | fss1000 | 560 / 200 / 240, as paper 000; 10 pairs each |
    | pascal_5i_0 .. pascal_5i_3 | fold i is tested, the next one validates, the other 10 classes train |
    | ccp | 16 / 5 / 8 tags of Clothing Co-Parsing |
    | eth80 | 50 / 10 / 20 objects of ETH-80, by kind |
    | voc_ccp_eth80 | classes of all three to train on and validate, 9 classes of FSS-1000 to be tested on |
    | voc_rest | likewise, but none that is like a class of PASCAL with many pictures; those are for testing |
    | fss1000_rest | 796 / 199 / 5: all but the classes of FP-k, for which paper 000 holds them out |
    | the path of a folder | <class>/<n>.jpg with <n>.png, or {train,val,test}/<class>/... |

    No picture is in two splits; one that shows a test class is for testing only. In voc_ccp_eth80 the classes that
    overlap a test class are left out; `splits/voc_ccp_eth80.json` holds the rule and the list. "train+val" is both.

    Raises:
        ValueError: the name or split is not known, a class is missing, or a file is not as it should be.
        FileNotFoundError: the data is not there; the message says how to get it.

    Example:
        >>> len(load("shapes", "test").names)
        240
    """
    name = str(name)
    if split not in SPLITS:
        raise ValueError(f"expected a split of {', '.join(SPLITS)}; got {split!r}")
    if name == "shapes":
        return shapes(split, size=size)
    if name in (MIXTURE, REST):
        return _mixture(name, split, size, root)
    if name in NAMES:
        parts, fss = split_classes(name), name in ("fss1000", FSS_REST)
        source = read("voc" if name in FOLDS else "fss1000" if fss else name, size=size, root=root)
        return _selected(source, parts, split, least=0 if fss else LEAST)
    if Path(name).expanduser().is_dir():
        return _own_folder(Path(name).expanduser().resolve(), split, size)
    raise ValueError(
        f"expected {', '.join(NAMES)}, or the path of a folder that is there; got {name!r}; {nearest(name, NAMES)}"
        "choose one of them"
    )


def class_count(name: str, split: str, *, size: int = 64) -> int:
    """Return how many classes a split of `name` has; all but shapes and FSS-1000 are read to know."""
    parts = SHAPES if name == "shapes" else split_classes(name) if name in ("fss1000", FSS_REST) else None
    if parts is None:
        return len(load(name, split, size=size).names)
    return sum(len(parts[part]) for part in split.split("+"))


@cache
def split_classes(name: str) -> dict[str, list[str]]:
    """Return the classes of each split of a data set; no class is in two of them.

    Raises:
        ValueError: `name` has no list of classes.
    """
    if name in FOLDS:
        five = [list(VOC[5 * fold : 5 * fold + 5]) for fold in range(4)]
        test, val, *train = five[FOLDS[name] :] + five[: FOLDS[name]]
        return {"train": [name for part in train for name in part], "val": val, "test": test}
    if name == FSS_REST:
        whole, held = listed("fss1000"), listed("fss1000")["fp_k"]
        parts = {"train": whole["train"] + whole["test"], "val": whole["val"]}
        return {part: [name for name in names if name not in held] for part, names in parts.items()} | {"test": held}
    if name not in ("fss1000", "ccp", "eth80"):
        raise ValueError(f"expected fss1000, ccp, eth80 or {', '.join(FOLDS)}; got {name!r}; choose one of them")
    return {part: listed(name)[part] for part in ("train", "val", "test")}


@cache
def listed(name: str) -> dict[str, Any]:
    """Return what the package's file of splits `name` says."""
    return json.loads((files("mlkit.tasks") / "splits" / f"{name}.json").read_text(encoding="utf-8"))


def read(dataset: str, *, size: int, root: Path | str | None = None) -> MaskedImages:
    """Return all pictures and masks of fss1000, voc, ccp or eth80.

    Raises:
        ValueError: a file is not as it should be.
        FileNotFoundError: the data is not there.
    """
    found, labels = pair_files(dataset, root=root)
    whole = dataset == "fss1000" or (dataset == "voc" and len(found) >= find("voc").images)
    folder = data_root(root) / dataset
    return read_pairs(dataset, found, folder=folder, size=size, labels=labels, stand_in=not whole)


def pair_files(dataset: str, *, root: Path | str | None = None) -> tuple[Files, tuple[str | None, ...]]:
    """Return picture, mask and class of every pair of a data set; and where masks are label maps, what they mean.

    Raises:
        ValueError: a picture or a mask stands alone.
        FileNotFoundError: the data is not there.
    """
    folder = data_root(root) / dataset
    for pictures, maps in LABEL_MAPS.get(dataset, ()):
        if (folder / maps).is_dir() and (found := label_maps(folder / pictures, folder / maps)):
            return found, (None, *VOC) if dataset == "voc" else _tags(folder / "labels.txt")
    for place in (folder / "fewshot_data", folder) if dataset not in LABEL_MAPS else ():
        if place.is_dir() and (found := class_pairs(place)):
            return found, ()
    raise FileNotFoundError(how_to_get(find(dataset), root))


def _tags(path: Path) -> tuple[str | None, ...]:
    if not path.is_file():
        raise FileNotFoundError(f"expected the names of the tags, one a line, in {path}; copy labels.txt there")
    return tuple(None if name == "null" else name for name in path.read_text(encoding="utf-8").splitlines())


def _selected(source: MaskedImages, parts: dict[str, list[str]], split: str, *, least: int) -> MaskedImages:
    """Take a split's classes, free of pictures that belong to a split after it."""
    after = {"train": ("val", "test"), "val": ("test",), "test": (), "train+val": ("test",)}[split]
    names = [name for part in split.split("+") for name in parts[part]]
    without = [name for part in after for name in parts[part]]
    return source.select([n for n in names if n in source.names or not least], without=without, least=least)


def _mixture(name: str, split: str, size: int, root: Path | str | None) -> MaskedImages:
    """Return real classes to train on and to validate, none like those that are tested."""
    said = listed(name)
    if name == MIXTURE and split == "test":
        return read("fss1000", size=size, root=root).select(said["test"])
    source = joined(name, [read(part, size=size, root=root) for part in ("voc", "ccp", "eth80")])
    if name == REST and split == "test":
        return source.select(said["test"])
    alike = {kind for kind, names in said["overlaps"].items() if set(names) & set(said["test"])}
    left_out = [name for name in source.names if _kind(name) in alike]
    train = [name for name in source.names if name not in {*left_out, *said["val"]}]
    return _selected(source, {"train": train, "val": said["val"], "test": left_out}, split, least=LEAST)


def _kind(name: str) -> str:
    """Return the kind of an object of ETH-80, eth80/apple of eth80/apple03; of other classes, the name."""
    return re.sub(r"\d+$", "", name)


def _own_folder(folder: Path, split: str, size: int) -> MaskedImages:
    """Read a folder of one's own; without folders for the splits, classes are shuffled and dealt out 64 : 16 : 20."""
    if (folder / "train").is_dir() and (folder / "test").is_dir():
        parts = [part for part in split.split("+") if (folder / part).is_dir()]
        if not parts:
            raise ValueError(f"expected the folder {folder / split} beside train and test; add it or use another split")
        found = [file for part in parts for file in class_pairs(folder / part)]
        return read_pairs(f"{folder.name}-{split}", found, folder=folder, size=size, stand_in=True)
    source = read_pairs(folder.name, class_pairs(folder), folder=folder, size=size, stand_in=True)
    names = random.Random(0).sample(source.names, len(source.names))
    first, second = round(0.64 * len(names)), round(0.8 * len(names))
    parts = {"train": names[:first], "val": names[first:second], "test": names[second:]}
    chosen = sorted(name for part in split.split("+") for name in parts[part])
    if not chosen:
        raise ValueError(f"the {split} split of {folder} holds no class of {len(names)}; add classes, or make folders")
    return source.select(chosen)
