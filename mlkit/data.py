"""Data sets on this machine: what there is, get one, check one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from mlkit.catalogue import CATALOGUE, SEGMENTATION, Archive, Dataset, data_root, find, how_to_get
from mlkit.download import DownloadError, download, unpack
from mlkit.tasks.datasets import FORMS, cifar_binary, image_paths, read, split_classes
from mlkit.tasks.image_files import decode
from mlkit.tasks.segmentation_datasets import pair_files
from mlkit.tasks.segmentation_files import decode_pair

__all__ = [
    "Archive",
    "Dataset",
    "DownloadError",
    "Report",
    "catalogue",
    "check",
    "data_root",
    "find",
    "get",
    "how_to_get",
]
FIRST = 10  # problems that a report lists
MADE_UP = ("glyphs", "shapes")  # there is nothing to get or to check


@dataclass(frozen=True)
class Report:
    """What a data set's folder holds; `problems` are the first ten things that are not as they should be."""

    dataset: Dataset
    folder: Path
    classes: int
    images: int
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether there is no problem."""
        return not self.problems


def catalogue() -> list[Dataset]:
    """Return the data sets that have a reader here."""
    return [*CATALOGUE, *SEGMENTATION]


def get(name: str, root: Path | str | None = None) -> Path:
    """Download and unpack what is missing of a data set; return its folder.

    Raises:
        ValueError: The name is not known, or an archive is damaged.
        FileNotFoundError: It cannot be downloaded for you; the message holds the steps.
        DownloadError: No mirror delivered it.
        OSError: The folder cannot be written, or the disk is full.
    """
    dataset = find(name)
    folder = dataset.folder(root)
    if dataset.name in MADE_UP or _complete(dataset, root):
        return folder
    if not dataset.archives:
        raise FileNotFoundError(how_to_get(dataset, root))
    for archive in dataset.archives:
        if not (folder / archive.unpacks_to).is_dir():
            file = download(archive, folder)
            unpack(file, folder, top=archive.unpacks_to)
            file.unlink()
    return folder


def _complete(dataset: Dataset, root: Path | str | None) -> bool:
    try:
        if dataset in SEGMENTATION:
            return bool(pair_files(dataset.name, root=root))
        return len(image_paths(dataset.name, root=root)) >= dataset.classes
    except FileNotFoundError:
        return False


def check(name: str, root: Path | str | None = None) -> Report:
    """Read every image of a data set and compare with what should be there; damaged files do not stop it.

    Raises:
        ValueError: The name is not known.
    """
    dataset = find(name)
    folder = dataset.folder(root)
    if dataset.name in MADE_UP:
        return Report(dataset, folder, dataset.classes, dataset.images, ())
    try:
        if dataset in SEGMENTATION:
            return _checked_pairs(dataset, root)
        if cifar_binary(dataset.name, root=root):
            found = read(dataset.name, root=root)
            sizes, problems = dict(zip(found.names, found.sizes.tolist(), strict=True)), []
        else:
            sizes, problems = _decodable(dataset, root)
    except (OSError, ValueError) as error:
        return Report(dataset, folder, 0, 0, (str(error),))
    needed = {name for task in dataset.tasks for part in split_classes(task).values() for name in part}
    problems += [f"class {name} is not there" for name in sorted(needed - sizes.keys())]
    if dataset.images_per_class:
        expected = dataset.images_per_class
        problems += [f"class {k}: expected {expected} images, got {n}" for k, n in sizes.items() if n != expected]
    elif sum(sizes.values()) != dataset.images:
        problems.append(f"expected {dataset.images} images, got {sum(sizes.values())}")
    return Report(dataset, folder, len(sizes), sum(sizes.values()), tuple(problems[:FIRST]))


def _decodable(dataset: Dataset, root: Path | str | None) -> tuple[dict[str, int], list[str]]:
    """Return how many files each class has, and the ones that are no images."""
    paths, problems = image_paths(dataset.name, root=root), []
    for path in tqdm([path for part in paths.values() for path in part], f"check {dataset.name}", leave=False):
        try:
            decode(path, FORMS[dataset.name])
        except ValueError as error:
            problems.append(str(error))
    return {name: len(part) for name, part in paths.items()}, problems


def _checked_pairs(dataset: Dataset, root: Path | str | None) -> Report:
    """Decode every picture with its masks; label maps count the classes that cover enough of a picture."""
    files, labels = pair_files(dataset.name, root=root)
    found, problems = set(), []
    for file in tqdm(files, f"check {dataset.name}", leave=False):
        try:
            found |= decode_pair(file, 16, labels)[1].keys()
        except ValueError as error:
            problems.append(str(error))
    if len(files) != dataset.images:
        problems.append(f"expected {dataset.images} pictures, got {len(files)}; what is there can be used")
    return Report(dataset, dataset.folder(root), len(found), len(files), tuple(problems[:FIRST]))
