"""From image files to arrays, once: decoded images are kept beside the data and found again by what the files are."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from mlkit.project import staged, write_whole
from mlkit.tasks.images import ImageClasses

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
Files = Mapping[str, Sequence[str]]  # class name -> paths of its images, in order


@dataclass(frozen=True)
class Form:
    """What images become: `size` x `size` pixels, resized by a Pillow filter, in a Pillow mode ("L" or "RGB")."""

    size: int
    mode: str = "RGB"
    resample: str = "BICUBIC"
    skip_gray: bool = False  # leave files out that hold no color


def class_files(folder: Path, *, prefix: str = "") -> dict[str, list[str]]:
    """Return the image files of each class folder, both in the order of their names; hidden ones are left out."""
    files = {}
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if not name.startswith(".") and os.path.isdir(path):
            files[prefix + name] = [os.path.join(path, image) for image in sorted(os.listdir(path)) if is_image(image)]
    return files


def is_image(name: str) -> bool:
    """Tell an image file by its name."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES


def decode(path: str, form: Form) -> np.ndarray | None:
    """Return one image as uint8 (channels, size, size), or None where the form skips it.

    Raises:
        ValueError: The file is not an image, or ends too early.
    """
    try:
        with Image.open(path) as image:
            if form.skip_gray and image.mode in ("1", "L", "LA", "I"):
                return None
            image = image.convert(form.mode)  # before resizing: Pillow takes the nearest pixel of 1-bit images
            if image.size != (form.size, form.size):
                image = image.resize((form.size, form.size), Image.Resampling[form.resample])
            pixels = np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"expected an image, got {path}, which Pillow cannot read ({error}); replace or remove the file"
        ) from error
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def read_images(
    name: str, files: Files, *, folder: Path, form: Form, ink: bool = False, stand_in: bool = False
) -> ImageClasses:
    """Return the images of `files`, from the cache in `folder`/.mlkit where the files have not changed since.

    Raises:
        ValueError: There is no image, or a file is none.
    """
    if not any(files.values()):
        raise ValueError(f"expected {folder}/<class>/<image> ({', '.join(sorted(SUFFIXES))}), found no image there")
    kind = f"{name}-{form.size}-{form.mode}"
    stem = folder / ".mlkit" / f"{kind}-{_fingerprint(files, folder, form)}"
    classes = _load(name, stem)
    if classes is None:
        classes = _decode_all(name, files, form)
        _store(classes, stem, stale=f"{glob.escape(kind)}-*")
    return replace(classes, ink=ink, stand_in=stand_in)


def _fingerprint(files: Files, folder: Path, form: Form) -> str:
    digest = hashlib.sha256(json.dumps(asdict(form), sort_keys=True).encode())
    start = len(str(folder))
    for name, paths in files.items():
        stats = [(path[start:], stat.st_size, stat.st_mtime_ns) for path in paths if (stat := os.stat(path))]
        digest.update(json.dumps([name, stats]).encode())
    return digest.hexdigest()[:16]


def _decode_all(name: str, files: Files, form: Form) -> ImageClasses:
    def one_class(paths: Sequence[str]) -> np.ndarray:
        decoded = [pixels for path in paths if (pixels := decode(path, form)) is not None]
        empty = np.empty((0, len(Image.new(form.mode, (1, 1)).getbands()), form.size, form.size), np.uint8)
        return np.stack(decoded) if decoded else empty

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            arrays = list(tqdm(pool.map(one_class, files.values()), f"read {name}", len(files), leave=False))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return ImageClasses.build(name, arrays, names=list(files))


def _load(name: str, stem: Path) -> ImageClasses | None:
    """Return the cached images, left on disk until they are touched, or None where they are not whole."""
    try:
        index = json.loads(Path(f"{stem}.json").read_text())
        images = torch.from_numpy(np.load(f"{stem}.npy", mmap_mode="c", allow_pickle=False))
        offsets = torch.tensor(index["offsets"])
    except (OSError, ValueError, KeyError):
        return None
    if offsets[-1] != len(images):
        return None
    return ImageClasses(name, images, offsets, tuple(index["names"]), tuple(index["digests"]))


def _store(classes: ImageClasses, stem: Path, *, stale: str) -> None:
    """Keep the pixels, then their index, in place of what is stale; say so and go on where that cannot be done."""
    index = {"offsets": classes.offsets.tolist(), "names": classes.names, "digests": classes.digests}
    try:
        old = list(stem.parent.glob(stale))
        with staged(Path(f"{stem}.npy"), lambda file: np.save(file, classes.images.numpy())) as whole:
            os.replace(whole, f"{stem}.npy")
        write_whole(Path(f"{stem}.json"), json.dumps(index).encode())
        for path in old:
            if not path.name.startswith(stem.name):
                path.unlink(missing_ok=True)
    except OSError as error:
        warnings.warn(
            f"could not keep the decoded images of {classes.name} in {stem.parent} ({error}); they are decoded anew "
            "next time. Make the folder writable or free some space",
            stacklevel=4,
        )
