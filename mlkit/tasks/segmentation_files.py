"""From files to pictures with masks, once: what was decoded is kept beside the data, found again by what the files are.

Two layouts: folders of classes with a mask image a picture, and label maps that number the class of every pixel.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from tqdm import tqdm

from mlkit.project import staged, write_whole
from mlkit.tasks.masked_images import MaskedImages

PICTURES = (".jpg", ".jpeg", ".JPG", ".JPEG")
LEAST_SHARE = 0.02  # of a picture that a label covers, to make a pair of it
FRAME = 0.02  # by which the aspect ratios of a picture and its mask may differ
Files = Sequence[tuple[str, str, str]]  # picture, mask, class; no class where the mask is a label map
Decoded = tuple[np.ndarray, dict[str, np.ndarray]]  # a picture, the masks of its classes


def class_pairs(folder: Path) -> list[tuple[str, str, str]]:
    """Return the pairs of <class>/<n>.jpg with the mask <class>/<n>.png, by class, then by number.

    Raises:
        ValueError: a picture has no mask, or a mask no picture.
    """
    found = []
    for below in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        pictures = {path.stem: path for path in below.iterdir() if path.suffix in PICTURES}
        masks = {path.stem: path for path in below.iterdir() if path.suffix.lower() == ".png"}
        for stem in sorted(pictures.keys() ^ masks.keys()):
            have, lack = ("picture", ".png mask") if stem in pictures else ("mask", ".jpg picture")
            raise ValueError(
                f"expected a .jpg picture and a .png mask of the same name, got the {have} {below / stem} alone; add "
                f"its {lack} or remove it"
            )
        found += [(str(pictures[stem]), str(masks[stem]), below.name) for stem in sorted(pictures, key=_by_number)]
    return found


def _by_number(stem: str) -> tuple[int, str]:
    return int(stem) if stem.isdecimal() else 0, stem


def label_maps(pictures: Path, maps: Path) -> list[tuple[str, str, str]]:
    """Return the pictures that have a label map of the same name, in the order of their names.

    Raises:
        ValueError: a label map has no picture.
    """
    found = []
    for path in sorted(maps.glob("*.png")):
        picture = pictures / f"{path.stem}.jpg"
        if not picture.is_file():
            raise ValueError(f"expected the picture {picture} of {path}, found none; add it or remove the label map")
        found.append((str(picture), str(path), ""))
    return found


def read_pairs(
    name: str, files: Files, *, folder: Path, size: int, labels: Sequence[str | None] = (), stand_in: bool = False
) -> MaskedImages:
    """Return `files` at `size` x `size` pixels, from the cache in `folder`/.mlkit where they have not changed since.

    Args:
        name: of the data set.
        files: picture, mask, class.
        folder: what holds them all.
        size: side, in pixels; pictures are resized by bilinear interpolation, masks to the share of each pixel.
        labels: what label maps mean by 0, 1, ...; None for no class. A pair is a label with its picture, if it covers
            at least 2 % of that.
        stand_in: whether no paper uses this data.

    Raises:
        ValueError: there is no file, one is no image, or a mask has not the frame of its picture.
    """
    if not files:
        raise ValueError(f"expected {folder}/<class>/<n>.jpg with masks <n>.png, found none there")
    kind = f"{name}-{size}-masks"
    stem = folder / ".mlkit" / f"{kind}-{_fingerprint(files, folder, size, labels)}"
    arrays = _load(stem)
    if arrays is None:
        arrays = _decode_all(name, files, size, labels)
        _store(name, arrays, stem, stale=f"{glob.escape(kind)}-*")
    pictures, masks, (shown, offsets, names) = arrays
    tensors = [torch.from_numpy(pictures), torch.from_numpy(masks), torch.tensor(shown), torch.tensor(offsets)]
    return MaskedImages(name, *tensors, tuple(names), stand_in)


def decode_picture(path: str) -> np.ndarray:
    """Return a picture as uint8 (height, width, 3): gray becomes RGB, alpha is dropped, the camera's turn applied.

    Raises:
        ValueError: the file is not an image, or ends too early.
    """
    with _opened(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def decode_mask(path: str) -> np.ndarray:
    """Return a mask as uint8 (height, width), 255 for the class: the brightest channel, soft values kept.

    A mask of two values, such as 0 and 1, is stretched; one drawn in the alpha channel alone is taken from there.

    Raises:
        ValueError: the file is not an image, or ends too early.
    """
    with _opened(path) as image:
        deep = image.mode[0] in "IF"
        image = image if deep else image.convert("RGBA" if "A" in image.getbands() or image.mode == "P" else "RGB")
        pixels = np.asarray(image)
    if deep:
        return np.clip(pixels / (257 if pixels.max() > 255 else 1), 0, 255).astype(np.uint8)
    mask = pixels[..., :3].max(-1)
    if pixels.shape[-1] == 4 and mask.min() == mask.max():
        mask = pixels[..., 3] if pixels[..., 3].min() < 255 else mask
    values = np.unique(mask)
    return (mask == values[-1]).astype(np.uint8) * 255 if len(values) == 2 and values[0] == 0 else mask


def shrunk(mask: np.ndarray, size: int) -> np.ndarray:
    """Resize a mask (height, width) to the share of each of `size` x `size` pixels that it covers, times 255."""
    return np.asarray(Image.fromarray(mask).resize((size, size), Image.Resampling.BOX))


class _opened:
    """Open an image; what Pillow cannot read becomes an error that says what to do."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __enter__(self) -> Image.Image:
        try:
            self.image = Image.open(self.path)
            self.image.load()
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ValueError(
                f"expected an image, got {self.path}, which Pillow cannot read ({error}); replace or remove the file"
            ) from error
        return self.image

    def __exit__(self, *error: object) -> None:
        self.image.close()


def decode_pair(file: tuple[str, str, str], size: int, labels: Sequence[str | None]) -> Decoded:
    """Return a picture (3, size, size) and the masks (size, size) of its classes, uint8.

    Raises:
        ValueError: a file is no image, or the mask has not the frame of its picture.
    """
    path, mask_path, name = file
    picture = decode_picture(path)
    if labels:
        with _opened(mask_path) as image:
            mask = np.asarray(image)
        if mask.ndim != 2:
            raise ValueError(
                f"expected a label map, one number a pixel, got {mask_path} with {mask.shape[-1]} channels"
            )
    else:
        mask = decode_mask(mask_path)
    (height, width), (tall, wide) = picture.shape[:2], mask.shape
    if abs(height * wide - width * tall) > FRAME * width * tall:
        raise ValueError(
            f"expected the mask {mask_path} in the frame of its picture, {width} x {height} pixels or a multiple, got "
            f"{wide} x {tall}; crop or replace it"
        )
    scaled = np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BILINEAR))
    return scaled.transpose(2, 0, 1), _labeled(mask, size, labels) if labels else {name: shrunk(mask, size)}


def _labeled(mask: np.ndarray, size: int, labels: Sequence[str | None]) -> dict[str, np.ndarray]:
    share = np.bincount(mask.ravel(), minlength=256) / mask.size
    kept = [k for k, name in enumerate(labels) if name is not None and share[k] >= LEAST_SHARE]
    return {labels[k]: shrunk((mask == k).astype(np.uint8) * 255, size) for k in kept}


Arrays = tuple[np.ndarray, np.ndarray, tuple[list[int], list[int], list[str]]]


def _decode_all(name: str, files: Files, size: int, labels: Sequence[str | None]) -> Arrays:
    """Decode every file; masks are sorted by class, those of one class in the order of the files."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            decoded = list(
                tqdm(
                    pool.map(lambda file: decode_pair(file, size, labels), files),
                    f"read {name}",
                    len(files),
                    leave=False,
                )
            )
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    by_class: dict[str, list[tuple[int, np.ndarray]]] = {}
    for number, (_, masks) in enumerate(decoded):
        for label, mask in masks.items():
            by_class.setdefault(label, []).append((number, mask))
    names = sorted(by_class)
    shown = [number for label in names for number, _ in by_class[label]]
    masks = [mask for label in names for _, mask in by_class[label]]
    offsets = np.cumsum([0, *(len(by_class[label]) for label in names)]).tolist()
    return np.stack([picture for picture, _ in decoded]), np.stack(masks), (shown, offsets, names)


def _fingerprint(files: Files, folder: Path, size: int, labels: Sequence[str | None]) -> str:
    digest = hashlib.sha256(json.dumps([size, list(labels), LEAST_SHARE]).encode())
    start = len(str(folder))
    for picture, mask, name in files:
        stats = [(path[start:], (stat := os.stat(path)).st_size, stat.st_mtime_ns) for path in (picture, mask)]
        digest.update(json.dumps([name, stats]).encode())
    return digest.hexdigest()[:16]


def _load(stem: Path) -> Arrays | None:
    """Return what is cached, left on disk until it is touched, or None where it is not whole."""
    try:
        index = json.loads(Path(f"{stem}.json").read_text())
        pictures, masks = (np.load(f"{stem}-{part}.npy", mmap_mode="c") for part in ("pictures", "masks"))
        lists = index["shown"], index["offsets"], index["names"]
    except (OSError, ValueError, KeyError):
        return None
    return (pictures, masks, lists) if len(masks) == len(lists[0]) == lists[1][-1] else None


def _store(name: str, arrays: Arrays, stem: Path, *, stale: str) -> None:
    """Keep the pixels, then their index, in place of what is stale; say so and go on where that cannot be done."""
    pictures, masks, lists = arrays
    try:
        old = [path for path in stem.parent.glob(stale) if not path.name.startswith(stem.name)]
        for part, array in (("pictures", pictures), ("masks", masks)):
            with staged(Path(f"{stem}-{part}.npy"), lambda file, a=array: np.save(file, a)) as whole:
                os.replace(whole, f"{stem}-{part}.npy")
        index = dict(zip(("shown", "offsets", "names"), lists, strict=True))
        write_whole(Path(f"{stem}.json"), json.dumps(index).encode())
        for path in old:
            path.unlink(missing_ok=True)
    except OSError as error:
        warnings.warn(
            f"could not keep the decoded images of {name} in {stem.parent} ({error}); they are decoded anew next time. "
            "Make the folder writable or free some space",
            stacklevel=4,
        )
