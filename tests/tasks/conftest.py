from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """Write small images: make_folder("a/b", {"cat": 3}) -> tmp_path / "a/b" with cat/000.png, ..."""

    def make(below: str, classes: dict[str, int], *, mode: str = "RGB", side: int = 8, suffix: str = ".png") -> Path:
        for k, (name, count) in enumerate(sorted(classes.items())):
            folder = tmp_path / below / name
            folder.mkdir(parents=True)
            for i in range(count):
                color = (k * 2 % 256, i, 200) if mode == "RGB" else 255 * (i % 2)
                Image.new(mode, (side, side), color).save(folder / f"{i:03d}{suffix}")
        return tmp_path / below

    return make
