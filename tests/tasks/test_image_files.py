from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlkit.tasks import image_files
from mlkit.tasks.image_files import Form, class_files, read_images
from mlkit.tasks.images import ImageClasses


def read(folder: Path, **form) -> ImageClasses:
    return read_images("small", class_files(folder), folder=folder, form=Form(**{"size": 8} | form))


def test_images_are_sorted_by_class_and_name(make_folder):
    found = read(make_folder("set", {"b": 3, "a": 2}))
    assert found.names == ("a", "b") and found.offsets.tolist() == [0, 2, 5] and found.images.shape == (5, 3, 8, 8)
    assert [tuple(image[:, 0, 0].tolist()) for image in found.images] == [
        (0, 0, 200), (0, 1, 200), (2, 0, 200), (2, 1, 200), (2, 2, 200)
    ]  # fmt: skip


def test_second_reading_decodes_nothing(make_folder, monkeypatch: pytest.MonkeyPatch):
    folder = make_folder("set", {"a": 2, "b": 3})
    first = read(folder)
    monkeypatch.setattr(image_files, "decode", lambda *_: pytest.fail("decoded again"))
    second = read(folder)
    assert second.content_hash == first.content_hash and np.array_equal(second.images, first.images)
    assert second.names == first.names and second.offsets.tolist() == first.offsets.tolist()


@pytest.mark.parametrize("change", ["pixels", "more", "fewer", "form"])
def test_a_change_is_noticed_and_the_old_cache_goes(make_folder, change: str):
    folder = make_folder("set", {"a": 2, "b": 3})
    first, form = read(folder), {}
    if change == "pixels":
        Image.new("RGB", (8, 8), "red").save(folder / "a" / "001.png")
    elif change == "more":
        Image.new("RGB", (8, 8), "red").save(folder / "a" / "002.png")
    elif change == "fewer":
        (folder / "b" / "002.png").unlink()
    else:
        form = {"resample": "NEAREST", "size": 4}
    second = read(folder, **form)
    assert second.content_hash != first.content_hash
    assert len(list((folder / ".mlkit").glob("*.npy"))) == (2 if change == "form" else 1)


@pytest.mark.parametrize("damage", ["truncate npy", "no json", "truncate json"])
def test_a_damaged_cache_is_made_anew(make_folder, damage: str):
    folder = make_folder("set", {"a": 2, "b": 3})
    first = read(folder)
    path = next((folder / ".mlkit").glob("*.npy" if "npy" in damage else "*.json"))
    if damage == "no json":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-20])
    assert read(folder).content_hash == first.content_hash
    assert read(folder).images.shape == (5, 3, 8, 8)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_without_a_place_to_write_reading_goes_on_in_memory(make_folder, monkeypatch: pytest.MonkeyPatch, code: int):
    folder = make_folder("set", {"a": 2, "b": 3})

    def refuse(file, array):
        file.write(b"half")
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(image_files.np, "save", refuse)
    with pytest.warns(UserWarning, match="could not keep the decoded images of small"):
        assert len(read(folder).images) == 5
    assert list((folder / ".mlkit").iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"not an image", "truncated"])
def test_a_file_that_is_no_image_is_named(make_folder, content: bytes | str):
    folder = make_folder("set", {"a": 2}, side=64)
    path = folder / "a" / "001.png"
    path.write_bytes(path.read_bytes()[:-40] if content == "truncated" else content)
    with pytest.raises(ValueError, match=r"expected an image, got .*001\.png.*replace or remove"):
        read(folder)
    assert not (folder / ".mlkit").exists()


def test_hidden_files_and_other_files_are_left_out(make_folder):
    folder = make_folder("set", {"a": 2, "b": 3})
    (folder / "a" / ".DS_Store").write_bytes(b"x")
    (folder / "a" / "._000.png").write_bytes(b"x")
    (folder / "a" / "notes.txt").write_text("x")
    (folder / "readme.md").write_text("x")
    assert len(read(folder).images) == 5


def test_a_folder_without_images_says_what_was_expected(tmp_path: Path):
    with pytest.raises(ValueError, match=r"<class>/<image>.*found no image"):
        read(tmp_path)


def test_gray_files_are_skipped_or_made_rgb(make_folder):
    folder = make_folder("set", {"a": 3}, mode="L")
    Image.new("RGB", (9, 5), "red").save(folder / "a" / "color.jpg")
    assert read(folder).images.shape == (4, 3, 8, 8)
    assert read(folder, skip_gray=True).images.shape == (1, 3, 8, 8)


def test_one_bit_images_are_smoothed_when_they_shrink(tmp_path: Path):
    (tmp_path / "a").mkdir()
    pixels = np.indices((105, 105)).sum(0) // 3 % 2 * 255
    Image.fromarray(pixels.astype(np.uint8)).convert("1").save(tmp_path / "a" / "x.png")
    found = read(tmp_path, size=28, mode="L", resample="LANCZOS")
    assert len(found.images.unique()) > 10
