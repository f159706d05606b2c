"""torchvision, importable beside any torch: `from mlkit.vision import transforms, tv_tensors, datasets`.

torchvision from PyPI is compiled against CUDA; beside a torch for CPUs its C++ extension does not load, and the import
stops at the operators that the extension would have declared. Declaring them is enough: transforms need none of them.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

MISSING = ("nms", "qnms")  # what torchvision annotates whether its extension has loaded or not


def _declare_operators() -> torch.library.Library | None:
    """Declare the operators of torchvision's extension where it cannot be loaded; what is returned must be kept."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None:
        raise ImportError("expected torchvision to be installed, found none; run `pip install torchvision`")
    for library in Path(spec.origin).parent.glob("_C*.so"):
        try:
            torch.ops.load_library(library)
        except OSError:
            continue
        return None
    declared = torch.library.Library("torchvision", "DEF")
    for name in MISSING:
        declared.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return declared


if not hasattr(torch.ops.torchvision, "nms"):
    _DECLARED = _declare_operators()

from torchvision import datasets, tv_tensors  # noqa: E402
from torchvision.transforms import v2 as transforms  # noqa: E402

__all__ = ["datasets", "transforms", "tv_tensors"]
