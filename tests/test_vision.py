"""torchvision can be imported whether its C++ extension loads or not; in processes of their own, as imports last."""

from __future__ import annotations

import subprocess
import sys

import pytest

TRANSFORM = """
import torch
{first}
from mlkit.vision import datasets, transforms, tv_tensors

image = tv_tensors.Image(torch.arange(3 * 8 * 8, dtype=torch.uint8).view(3, 8, 8))
mask = tv_tensors.Mask((torch.arange(64) % 3).view(8, 8))
flip = transforms.Compose([transforms.RandomHorizontalFlip(p=1), transforms.ToDtype(torch.float32, scale=True)])
flipped, flipped_mask = flip(image, mask)
assert torch.allclose(flipped, image.flip(-1) / 255)
assert torch.equal(flipped_mask, mask.flip(-1)) and flipped_mask.dtype == mask.dtype
half, half_mask = transforms.Resize((4, 4), antialias=True)(image, mask)
assert half.shape == (3, 4, 4) and half_mask.shape == (4, 4)
assert set(half_mask.unique().tolist()) <= {{0, 1, 2}}  # classes are never mixed
assert isinstance(half, tv_tensors.Image) and isinstance(half_mask, tv_tensors.Mask)
assert issubclass(datasets.ImageFolder, torch.utils.data.Dataset)
"""

WITHOUT_EXTENSION = """
def refuse(path):
    raise OSError(f"{path}: undefined symbol")


torch.ops.load_library = refuse
"""

AGAIN = """
import importlib

import mlkit.vision

before = mlkit.vision.transforms
importlib.reload(mlkit.vision)
assert mlkit.vision.transforms is before
import torchvision

assert torchvision.transforms.v2 is before
"""


def run(code: str) -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_transforms_work_on_an_image_and_its_mask_and_importing_twice_is_harmless():
    run(TRANSFORM.format(first="") + AGAIN)


def test_transforms_work_where_the_extension_cannot_be_loaded():
    run(TRANSFORM.format(first=WITHOUT_EXTENSION) + AGAIN)


def test_without_torchvision_the_error_says_what_to_install():
    with pytest.raises(AssertionError, match=r"ImportError: expected torchvision to be installed.*pip install"):
        run("import importlib.util as u; find = u.find_spec; u.find_spec = lambda name: None; import mlkit.vision")
