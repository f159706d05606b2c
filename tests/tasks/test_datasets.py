from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mlkit.catalogue import CATALOGUE, data_root
from mlkit.seeding import seeded
from mlkit.tasks import ClassTasks, SineTasks, folder_tasks, frozen, load, sample
from mlkit.tasks.datasets import NAMES, read, split_classes

COUNTS = {
    "omniglot": (1100, 100, 423),
    "omniglot_background": (792, 172, 659),
    "cifar_fs": (64, 16, 20),
    "fc100": (60, 20, 20),
    "mini_imagenet": (64, 16, 20),
    "cub": (140, 30, 30),
    "cub_100_50_50": (100, 50, 50),
}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLKIT_DATA", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", COUNTS)
def test_splits_are_disjoint_and_as_long_as_published(name: str):
    splits = split_classes(name)
    assert tuple(len(splits[split]) for split in ("train", "val", "test")) == COUNTS[name]
    assert len({k for part in splits.values() for k in part}) == sum(COUNTS[name])


def test_fc100_keeps_superclasses_apart():
    assert {"orchid", "poppy", "rose", "sunflower", "tulip"} <= set(split_classes("fc100")["train"])
    assert {"baby", "boy", "girl", "man", "woman"} <= set(split_classes("fc100")["test"])


def test_omniglot_protocols_agree_on_what_is_never_trained_on():
    vinyals, lake = split_classes("omniglot"), split_classes("omniglot_background")
    assert all(name.startswith("images_evaluation/") for name in lake["test"] + vinyals["test"])
    assert not any(name.startswith("images_evaluation/") for name in lake["train"] + lake["val"])
    assert set(vinyals["test"]) < set(lake["test"])


@pytest.mark.parametrize(
    ("name", "below", "suffix"),
    [
        ("omniglot", "omniglot", ".png"),
        ("omniglot_background", "omniglot", ".png"),
        ("cifar_fs", "cifar100", ".png"),
        ("cifar_fs", "cifar100/data", ".png"),
        ("mini_imagenet", "mini_imagenet", ".jpg"),
        ("mini_imagenet", "mini_imagenet/{split}", ".jpg"),
        ("cub", "cub/CUB_200_2011/images", ".jpg"),
        ("cub_100_50_50", "cub/images", ".jpg"),
        ("cub", "cub", ".jpg"),
    ],
)
def test_official_layouts_are_read(root: Path, make_folder, name: str, below: str, suffix: str):
    for split, classes in split_classes(name).items():
        make_folder(below.format(split=split), dict.fromkeys(classes[:6], 2), suffix=suffix)
    with pytest.raises(ValueError, match="are not there, the first"):
        load(name, "test", query=1)
    images = read(CATALOGUE[[name in d.tasks for d in CATALOGUE].index(True)].name)
    tasks = ClassTasks(images.select(split_classes(name)["test"][:6]), "test", 5, 1, 1)
    side = {"omniglot": 28, "omniglot_background": 28, "cifar_fs": 32}.get(name, 84)
    assert sample(tasks, 2, seeded(0)).query.x.shape == (2, 5, 1 if side == 28 else 3, side, side)
    assert images.ink == (side == 28) and not images.stand_in


def test_mini_imagenet_as_one_folder_of_files(root: Path, make_folder):
    made = make_folder("made", dict.fromkeys(split_classes("mini_imagenet")["val"], 2), suffix=".jpg")
    (root / "mini_imagenet" / "images").mkdir(parents=True)
    for path in made.glob("*/*.jpg"):
        path.rename(root / "mini_imagenet" / "images" / f"{path.parent.name}00000{path.name}")
    assert load("mini_imagenet", "val", query=1).describe() | {"content_hash": ""} == {
        "data": "mini_imagenet", "split": "val", "ways": 5, "shots": 1, "query": 1, "rotations": "none", "classes": 16,
        "images": 32, "shape": [3, 84, 84], "content_hash": "", "stand_in": False,
    }  # fmt: skip


def test_cifar_binary_and_class_folders_hold_the_same_images(root: Path):
    from PIL import Image

    names = sorted({name for part in split_classes("cifar_fs").values() for name in part})
    folder = root / "cifar100" / "cifar-100-binary"
    folder.mkdir(parents=True)
    (folder / "fine_label_names.txt").write_text("\n".join(names) + "\n")
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 256, (60_000, 3074), dtype=np.uint8)
    rows[:, 1] = rng.permutation(np.arange(60_000) % 100)
    rows[:50_000].tofile(folder / "train.bin")
    rows[50_000:].tofile(folder / "test.bin")
    tasks = load("fc100", "test")
    assert tasks.describe()["images"] == 12_000 and set(tasks.source.sizes.tolist()) == {600}
    name, k = tasks.source.names[0], names.index(tasks.source.names[0])
    first = rows[rows[:, 1] == k][:2, 2:].reshape(2, 3, 32, 32)
    assert np.array_equal(tasks.source.images[:2], first)
    other = root / "other" / "cifar100" / name
    other.mkdir(parents=True)
    for i, image in enumerate(first):
        Image.fromarray(image.transpose(1, 2, 0)).save(other / f"{i:03d}.png")
    assert np.array_equal(read("cifar100", root=root / "other").images, first)
    (folder / "test.bin").write_bytes(b"short")
    with pytest.raises(ValueError, match=r"expected 30740000 bytes in .*test\.bin, got 5"):
        load("cifar_fs")


@pytest.mark.parametrize("name", ["omniglot", "cifar_fs", "mini_imagenet", "cub"])
def test_missing_data_says_where_how_and_what(root: Path, name: str):
    with pytest.raises(FileNotFoundError) as caught:
        load(name)
    message = str(caught.value)
    assert str(root) in message and "<class>" in message.replace("<synset>", "<class>").replace(
        "<character>", "<class>"
    )
    assert ("mlkit data get" in message) == (name in ("omniglot", "cifar_fs"))
    assert ("By hand" in message) == (name in ("mini_imagenet", "cub"))


def test_names_that_are_not_there():
    with pytest.raises(ValueError, match="did you mean 'omniglot'"):
        load("omniglott")
    with pytest.raises(ValueError, match="train, val, test"):
        load("omniglot", "testing")
    assert isinstance(load("sine_huisman", "test"), SineTasks) and load("sine").describe()["setting"] == "finn"
    assert load("glyphs", "val", ways=20, shots=2, rotations="classes").describe()["classes"] == 640
    assert {"sine", "glyphs", "cub_100_50_50"} <= set(NAMES)


def test_own_folder_is_dealt_into_disjoint_splits(make_folder):
    folder = make_folder("birds", {f"k{i:02d}": 4 for i in range(25)})
    parts = [folder_tasks(folder, split, ways=4, query=2, size=8) for split in ("train", "val", "test")]
    names = [name for part in parts for name in part.source.names]
    assert sorted(names) == [f"k{i:02d}" for i in range(25)] and [p.classes for p in parts] == [16, 4, 5]
    assert all(part.describe()["stand_in"] and part.describe()["data"] == "birds" for part in parts)
    again = folder_tasks(folder, "test", ways=4, query=2, size=8)
    assert frozen(again, 3, 0).content_hash == frozen(parts[2], 3, 0).content_hash
    assert folder_tasks(folder, "test", query=2, size=8, seed=1).source.names != again.source.names
    assert load(folder, "test", query=2).source.images.shape[1:] == (3, 84, 84)


def test_own_folder_with_its_own_splits(make_folder):
    for split, prefix in (("train", "a"), ("test", "b")):
        folder = make_folder(f"own/{split}", {f"{prefix}{i}": 3 for i in range(5)}).parent
    assert folder_tasks(folder, "test", query=1, size=8).source.names == ("b0", "b1", "b2", "b3", "b4")
    with pytest.raises(ValueError, match="val beside train and test"):
        folder_tasks(folder, "val", query=1, size=8)


def test_own_folder_errors(make_folder, tmp_path: Path):
    folder = make_folder("few", {f"k{i}": 2 for i in range(3)})
    with pytest.raises(ValueError, match=r"val split of .* holds no class of 3"):
        folder_tasks(folder, "val", size=8, fractions=(0.5, 0.0, 0.5))
    with pytest.raises(ValueError, match="sum to 1"):
        folder_tasks(folder, "val", size=8, fractions=(0.5, 0.5, 0.5))
    with pytest.raises(ValueError, match="has 2 images, expected at least"):
        folder_tasks(folder, "train", ways=1, size=8)
    with pytest.raises(FileNotFoundError, match="found none at"):
        folder_tasks(tmp_path / "nowhere")


@pytest.mark.parametrize(("name", "folder"), [("omniglot", "omniglot"), ("cifar_fs", "cifar100")])
def test_real_data_is_read_whole(name: str, folder: str):
    if not (data_root() / folder).is_dir():
        pytest.skip(f"{name} is not at {data_root() / folder}")
    tasks = [load(name, split) for split in ("train", "val", "test")]
    per_class = 20 if name == "omniglot" else 600
    assert [t.classes for t in tasks] == list(COUNTS[name])
    assert all(set(t.source.sizes.tolist()) == {per_class} for t in tasks)
    digests = [digest for t in tasks for digest in t.source.digests]
    assert len(set(digests)) == len(digests)
    x = sample(tasks[0], 4, seeded(0)).query.x
    assert torch.all((x >= 0) & (x <= 1)) and (float(x.mean()) < 0.3) == (name == "omniglot")
