"""Meta-learned initializations as files: stored small, read back as the learner that adapts them to one's own data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from mlkit import project
from mlkit.augmentation import Augmentation
from mlkit.driver import Meta
from mlkit.experiment import weights_of
from mlkit.learners import Displacement
from mlkit.models import EfficientLab
from mlkit.models.noise import is_noise
from mlkit.records import LOCAL, SHIPPED, Result
from mlkit.segmentation_losses import segmentation_loss
from mlkit.stored import Record, load
from mlkit.tasks.base import Examples, TaskBatch
from mlkit.tasks.segmentation_files import FRAME, decode_mask, decode_picture, shrunk

NAME, UNIT = "initialization", "segmentation"  # of the record, and of the chapter that makes it
MOST = 10  # pictures to adapt to


@dataclass(frozen=True)
class Initialization:
    """A learner with its meta-parameters (1, ...), for pictures of `size` pixels."""

    learner: Displacement
    meta: Meta
    size: int

    @torch.no_grad()
    def segment(
        self,
        images: Sequence[Any],
        masks: Sequence[Any],
        query: Sequence[Any],
        *,
        steps: int | None = None,
        seed: int = 0,
        device: str = "cpu",
    ) -> list[np.ndarray]:
        """Adapt to labeled pictures and segment others; see `mlkit.segment`.

        Raises:
            ValueError: there is no picture, numbers do not match, or something is no picture or no mask.
        """
        if not 1 <= len(images) <= MOST or len(masks) != len(images) or len(query) == 0:
            raise ValueError(
                f"expected 1 to {MOST} pictures, as many masks, and at least one picture to segment; got "
                f"{len(images)}, {len(masks)} and {len(query)}"
            )
        pictures, found = [_picture(image) for image in images], [_mask(mask) for mask in masks]
        for picture, mask in zip(pictures, found, strict=True):
            _check_frame(picture.shape[:2], mask.shape)
        asked = [_picture(image) for image in query]
        support = Examples(self._scaled(pictures), torch.stack([_share(mask, self.size) for mask in found])[None])
        unknown = Examples(self._scaled(asked), torch.zeros(1, len(asked), self.size, self.size))
        task = TaskBatch(support, unknown, torch.tensor([seed])).to(device)
        meta = {name: tensor.to(device) for name, tensor in self.meta.items()}
        outputs = self.learner.predict(self.learner.adapt(meta, task, steps=steps), task.query.x)[0]
        likely = torch.sigmoid(outputs[:, 1] - outputs[:, 0]).cpu()
        return [_enlarged(one, picture.shape[:2]) for one, picture in zip(likely, asked, strict=True)]

    def _scaled(self, pictures: Sequence[np.ndarray]) -> Tensor:
        """Resize pictures of any size as training pictures were: (1, pictures, 3, size, size) in [0, 1]."""
        size = (self.size, self.size)
        scaled = [np.asarray(Image.fromarray(each).resize(size, Image.Resampling.BILINEAR)) for each in pictures]
        return torch.from_numpy(np.stack(scaled)).permute(0, 3, 1, 2)[None] / 255


def packed(learner: Displacement, meta: Meta) -> Result:
    """Return what a record holds of an initialization: weights of one run (1, ...) in half precision.

    Statistics of the normalization, which may be large, keep theirs.
    """
    kept = {name: tensor[0].cpu() for name, tensor in meta.items() if not is_noise(name)}
    arrays = {f"meta/{name}": tensor.half() if name.startswith("theta.") else tensor for name, tensor in kept.items()}
    return Result({"parameters": sum(p.numel() for p in learner.model.parameters())}, arrays)


def described(learner: Displacement, size: int) -> dict[str, Any]:
    """Return the settings from which `read` builds the learner again."""
    network = {name: value for name, value in learner.model.describe().items() if name != "encoder_weights"}
    kept = ("inner_lr", "inner_steps", "batch_size", "l2")
    rate = learner.augment.rate if learner.augment else 0.0
    adaptation = {name: getattr(learner, name) for name in kept} | {"augmentation": rate}
    return {"size": size, "network": network, "adaptation": adaptation}


def read(path: Path | str | Record) -> Initialization:
    """Read an initialization from its record.

    Raises:
        RecordError: the file is damaged, or no record.
        ValueError: the record holds no initialization.
    """
    record = path if isinstance(path, Record) else load(Path(path))
    if not {"network", "adaptation", "size"} <= record.settings.keys():
        raise ValueError(f"expected the record of an initialization in {record.path}, got one of {record.name!r}")
    adaptation = dict(record.settings["adaptation"])
    rate = adaptation.pop("augmentation")
    augment = Augmentation(rate) if rate else None
    model = EfficientLab(**record.settings["network"])
    learner = Displacement(model, loss=segmentation_loss, augment=augment, **adaptation)
    given = {name: tensor.float() for name, tensor in weights_of(record).items()}
    return Initialization(learner, _with_noise(model, given), record.settings["size"])


def published(root: Path | str | None = None) -> Initialization:
    """Read the initialization that ships with the book, else the newest that this machine made.

    Raises:
        FileNotFoundError: there is none.
    """
    top = Path(root) if root else project.root()
    for place in (SHIPPED, LOCAL):
        records = [load(path) for path in (top / place / UNIT).glob(f"{NAME}-*.json")]
        if records:
            return read(max(records, key=lambda record: record.evidence["date"]))
    raise FileNotFoundError(
        f"expected an initialization {NAME}-*.json in {top / SHIPPED / UNIT}, found none; run `mlkit run {UNIT}` in a "
        "checkout of the project, or pass the path of one"
    )


def _with_noise(model: EfficientLab, given: Mapping[str, Tensor]) -> Meta:
    """Add the state of layers that draw masks, which no file keeps."""
    noise = {f"buffers.{name}": tensor[None] for name, tensor in model.named_buffers() if is_noise(name)}
    return {**given, **noise}


def _picture(image: Any) -> np.ndarray:
    """Return a picture as bytes (height, width, 3)."""
    if isinstance(image, (str, Path)):
        return decode_picture(str(image))
    if isinstance(image, Image.Image):
        return np.asarray(image.convert("RGB"))
    pixels = _bytes(image)
    pixels = np.repeat(pixels[..., None], 3, 2) if pixels.ndim == 2 else pixels
    if pixels.ndim != 3 or pixels.shape[2] not in (3, 4):
        raise ValueError(f"expected a picture (height, width) or (height, width, 3), got an array {pixels.shape}")
    return np.ascontiguousarray(pixels[..., :3])


def _mask(mask: Any) -> np.ndarray:
    """Return a mask as bytes (height, width), 255 where the thing is."""
    if isinstance(mask, (str, Path)):
        return decode_mask(str(mask))
    pixels = _bytes(mask.convert("L") if isinstance(mask, Image.Image) else mask)
    if pixels.ndim != 2:
        raise ValueError(f"expected a mask (height, width), got an array {pixels.shape}; leave one channel")
    return pixels * 255 if pixels.max(initial=0) == 1 else pixels


def _bytes(pixels: Any) -> np.ndarray:
    """Return pixels as uint8: bytes as they are, floating point in [0, 1] and booleans times 255."""
    pixels = np.asarray(pixels)
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype != bool and not (pixels.dtype.kind == "f" and pixels.min() >= 0 and pixels.max() <= 1):
        span = f"{pixels.min()} to {pixels.max()}" if pixels.size and pixels.dtype.kind in "iuf" else "no numbers"
        raise ValueError(f"expected bytes, or floating point in [0, 1], got {pixels.dtype}, {span}; convert it first")
    return (255 * pixels.astype(np.float64)).round().astype(np.uint8)


def _check_frame(picture: tuple[int, ...], mask: tuple[int, ...]) -> None:
    (height, width), (tall, wide) = picture, mask
    if abs(height * wide - width * tall) > FRAME * width * tall:
        raise ValueError(
            f"expected a mask in the frame of its picture, {width} x {height} pixels or a multiple, got {wide} x "
            f"{tall}; crop it"
        )


def _share(mask: np.ndarray, size: int) -> Tensor:
    return torch.from_numpy(shrunk(mask, size).copy()).float() / 255


def _enlarged(likely: Tensor, shape: tuple[int, int]) -> np.ndarray:
    """Resize a map (size, size) bilinearly to the shape of its picture."""
    return F.interpolate(likely[None, None], size=shape, mode="bilinear", align_corners=False)[0, 0].numpy()
