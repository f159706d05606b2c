"""Tasks of few and of many shots: one class, training sets of k pictures that grow, pictures apart to be judged on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mlkit.catalogue import data_root, find
from mlkit.project import nearest
from mlkit.seeding import seeded
from mlkit.tasks.base import Examples, TaskBatch
from mlkit.tasks.masked_images import MaskedImages, joined
from mlkit.tasks.segmentation import Pairs, describe_pairs
from mlkit.tasks.segmentation_datasets import pair_files, read
from mlkit.tasks.segmentation_files import class_pairs, decode_picture, read_pairs, shrunk
from mlkit.tasks.shapes import PICTURES, shapes

SHOTS, QUERY, REPEATS = (1, 5, 10, 50, 100, 200, 400), 20, 4  # paper 000, appendices D and E
FP_K = {  # paper 000, table 6: class of PASCAL-5i, class of FSS-1000
    "aeroplane": "airliner",
    "bus": "bus",
    "motorbike": "motorbike",
    "pottedplant": "potted_plant",
    "tvmonitor": "television",
}
PASCAL = {  # classes of PASCAL that `voc_rest` holds out: the most shots that even a part of the set has
    **dict.fromkeys(("dog", "cat", "horse"), 400),
    **dict.fromkeys(("car", "sheep", "cow"), 200),
    **dict.fromkeys(("aeroplane", "motorbike"), 100),
}
NAMES = ("shapes", "voc", "fp_k")


@dataclass(frozen=True, eq=False)
class ManyShots:
    """Every class, `repeats` times: `query` pictures to be judged on and a list of others to adapt to.

    The k pictures of k shots are the first k of that list, so that training sets are nested and the query set is the
    same for every k (paper 000, appendix E). Task i is class i modulo the number of classes.

    Args:
        source: pictures and masks.
        split: its name.
        shots: numbers of pictures to adapt to, growing.
        query: pictures to be judged on.
        repeats: tasks of each class.
        up_to: the most shots of a class that has too few pictures for all of them.

    Raises:
        ValueError: a number is below 1, the shots do not grow, or a class has too few pictures.
    """

    source: Pairs
    split: str = "test"
    shots: tuple[int, ...] = SHOTS
    query: int = QUERY
    repeats: int = REPEATS
    up_to: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        grows = all(few < more for few, more in zip(self.shots, self.shots[1:], strict=False))
        if not self.shots or not grows or min(self.shots[0], self.query, self.repeats) < 1:
            raise ValueError(
                f"expected growing shots, query and repeats, all of at least 1; got {self.shots}, {self.query}, "
                f"{self.repeats}"
            )
        for name, size in zip(self.source.names, self.source.offsets.diff().tolist(), strict=True):
            if size < (most := self.most(name)) + self.query:
                raise ValueError(
                    f"class {name!r} of {self.source.name} has {size} pictures, expected at least shots + query = "
                    f"{most} + {self.query} = {most + self.query}; lower them, leave the class out, or let it have "
                    f"fewer: up_to={{{name!r}: {max(size - self.query, 0)}}}"
                )

    def __len__(self) -> int:
        return len(self.source.names) * self.repeats

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.source.names

    def most(self, name: str) -> int:
        """Return the largest number of shots of a class."""
        allowed = [k for k in self.shots if k <= self.up_to.get(name, k)]
        return max(allowed, default=self.shots[0])

    def having(self, shots: int) -> list[int]:
        """Return the tasks whose class has so many shots."""
        return [task for task in range(len(self)) if shots <= self.most(self.names[task % len(self.names)])]

    def pairs_of(self, task: int) -> tuple[Tensor, Tensor, int]:
        """Return the pairs to be judged on (query,), those to adapt to (the rest,), and the seed of a task."""
        repeat, k = divmod(task, len(self.names))
        generator = seeded("many shots", self.source.name, self.names[k], repeat)
        start, end = self.source.offsets[k : k + 2].tolist()
        order = start + torch.randperm(end - start, generator=generator)
        return order[: self.query], order[self.query :], int(torch.randint(2**62, (), generator=generator))

    def gather(self, tasks: Sequence[int], shots: int) -> TaskBatch:
        """Look up tasks, numbers out of `having(shots)`, with so many pictures to adapt to."""
        judged, learned, seeds = zip(*(self.pairs_of(task) for task in tasks), strict=True)
        support = self._examples(torch.stack([each[:shots] for each in learned]))
        return TaskBatch(support, self._examples(torch.stack(judged)), torch.tensor(seeds))

    def _examples(self, pairs: Tensor) -> Examples:
        pictures, masks = self.source.pairs(pairs)
        return Examples(pictures / 255, masks / 255)

    def to(self, device: torch.device | str) -> ManyShots:
        """Move pictures and masks to `device`."""
        return replace(self, source=self.source.to(device))

    def describe(self) -> dict[str, Any]:
        """Return what a record says about the data."""
        kept = {"shots": list(self.shots), "query": self.query, "repeats": self.repeats}
        return describe_pairs(self.source, self.split) | kept | ({"up_to": dict(self.up_to)} if self.up_to else {})


@dataclass(frozen=True)
class ManyShotsSpec:
    """Tasks of many shots by name; nothing is loaded.

    | name | classes |
    |---|---|
    | shapes | test classes, made up, with as many pictures as needed |
    | voc | dog, cat, horse; car, sheep, cow to 200 shots; aeroplane, motorbike to 100 |
    | fp_k | the 5 classes of paper 000, table 6: PASCAL-5i united with FSS-1000 |
    | the path of a folder | <class>/<n>.jpg with <n>.png |

    An initialization must not have seen a class that it is judged on: test classes of `shapes` are in no training
    split; `voc_rest` and `fss1000_rest` hold out those of voc and fp_k. People are not judged: `voc_rest` learns from
    photos of clothing, which show them.

    Args:
        name: see the table.
        shots: numbers of pictures to adapt to.
        query: pictures to be judged on.
        repeats: tasks of each class.
        size: side of the pictures, in pixels.
        classes: the first so many of them; those of real data may be fewer.
    """

    name: str = "shapes"
    shots: tuple[int, ...] = SHOTS
    query: int = QUERY
    repeats: int = REPEATS
    size: int = 64
    classes: int = 5

    def load(self) -> ManyShots:
        """Load pictures and masks.

        Raises:
            FileNotFoundError: the data is not there; the message says how to get it.
            ValueError: there is no such data, or a class has too few pictures.
        """
        up_to = {name: most for name, most in self._up_to().items() if most < max(self.shots)}
        return ManyShots(self._source(), "test", tuple(self.shots), self.query, self.repeats, up_to)

    def describe(self) -> dict[str, Any]:
        """Return the fields."""
        return asdict(self)

    def _up_to(self) -> dict[str, int]:
        return dict(list(PASCAL.items())[: self.classes]) if self.name == "voc" else {}

    def _source(self) -> Pairs:
        if self.name == "shapes":
            pictures = -(-(max(self.shots) + self.query) // PICTURES) * PICTURES
            return shapes("test", size=self.size, classes=self.classes, pictures=pictures)
        if self.name == "voc":
            chosen = read("voc", size=self.size).select(list(PASCAL)[: self.classes])
            return replace(chosen, stand_in=True)  # the paper judges the classes of FP-k
        if self.name == "fp_k":
            return fp_k(size=self.size).select(list(FP_K)[: self.classes])
        folder = Path(self.name).expanduser()
        if not folder.is_dir():
            raise ValueError(
                f"expected {', '.join(NAMES)}, or the path of a folder that is there; got {self.name!r}; "
                f"{nearest(self.name, NAMES)}choose one of them"
            )
        folder = folder.resolve()
        source = read_pairs(folder.name, class_pairs(folder), folder=folder, size=self.size, stand_in=True)
        return source.select(source.names[: self.classes])


@cache
def fp_k(*, size: int = 64, root: Path | str | None = None) -> MaskedImages:
    """Return FP-k: each of 5 classes of PASCAL-5i united with its class of FSS-1000 (paper 000, table 6).

    Every picture of PASCAL that shows any of a class counts, as the paper's 420 pairs a class need.

    Raises:
        ValueError: a class is missing.
        FileNotFoundError: the data is not there; the message says how to get it.
    """
    both = joined("fp_k", [_of_pascal(size, root), read("fss1000", size=size, root=root).select(list(FP_K.values()))])
    rows = [torch.cat([both.of(f"voc/{ours}"), both.of(f"fss1000/{theirs}")]) for ours, theirs in FP_K.items()]
    offsets = torch.tensor([0, *map(len, rows)]).cumsum(0)
    order = torch.cat(rows)
    united = replace(both, masks=both.masks[order], shown=both.shown[order], offsets=offsets, names=tuple(FP_K))
    return united.select(united.names)  # drops no picture; keeps those that are shown


def _of_pascal(size: int, root: Path | str | None) -> MaskedImages:
    """Return every picture of PASCAL that shows a class of FP-k, however little of it."""
    files, labels = pair_files("voc", root=root)
    with ThreadPoolExecutor() as pool:
        found = list(filter(None, pool.map(partial(_showing, size=size, labels=labels), files)))
    by_class = {name: [(k, masks[name]) for k, (_, masks) in enumerate(found) if name in masks] for name in FP_K}
    if missing := [name for name, pairs in by_class.items() if not pairs]:
        raise ValueError(
            f"expected pictures of {missing[0]!r} in {data_root(root) / 'voc'}, found none; complete the data"
        )
    shown = [k for pairs in by_class.values() for k, _ in pairs]
    pictures, masks = [picture for picture, _ in found], [mask for pairs in by_class.values() for _, mask in pairs]
    return MaskedImages(
        "voc",
        torch.from_numpy(np.stack(pictures)),
        torch.from_numpy(np.stack(masks)),
        torch.tensor(shown),
        torch.tensor([0, *map(len, by_class.values())]).cumsum(0),
        tuple(FP_K),
        stand_in=len(files) < find("voc").images,
    )


def _showing(
    file: tuple[str, str, str], *, size: int, labels: Sequence[str | None]
) -> tuple[np.ndarray, dict[str, np.ndarray]] | None:
    """Return a picture (3, size, size) with the masks (size, size) of the classes of FP-k on it, or None."""
    with Image.open(file[1]) as image:
        marked = np.asarray(image)
    here = [labels[k] for k in np.unique(marked).tolist() if k < len(labels) and labels[k] in FP_K]
    if not here:
        return None
    picture = Image.fromarray(decode_picture(file[0])).resize((size, size), Image.Resampling.BILINEAR)
    masks = {name: shrunk((marked == labels.index(name)).astype(np.uint8) * 255, size) for name in here}
    return np.asarray(picture).transpose(2, 0, 1), masks
