"""Readers of pictures with masks: the layouts of the real sets, odd images, splits without leakage, the cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import mlkit.data
from mlkit.catalogue import SEGMENTATION, data_root
from mlkit.seeding import seeded
from mlkit.tasks import SegmentationSpec, sample
from mlkit.tasks.segmentation_datasets import FOLDS, NAMES, VOC, listed, load, read, split_classes
from mlkit.tasks.segmentation_files import class_pairs, decode_mask, decode_picture, read_pairs, shrunk

HERE = data_root()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLKIT_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def write_pair(folder: Path, number: int, *, side: int = 8, color: int = 90) -> None:
    """Write <number>.jpg of one color with a mask whose upper half is the class."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (side, side), (color, number, 40)).save(folder / f"{number}.jpg", quality=100)
    mask = np.zeros((side, side), np.uint8)
    mask[: side // 2] = 255
    Image.fromarray(mask).save(folder / f"{number}.png")


@pytest.fixture
def own(tmp_path: Path) -> Callable[..., Path]:
    def make(*classes: str, count: int = 3) -> Path:
        for k, name in enumerate(classes):
            for number in range(1, count + 1):
                write_pair(tmp_path / "own" / name, number, color=20 * k)
        return tmp_path / "own"

    return make


def label_map(folder: Path, pictures: str, maps: str, number: int, columns: list[int], side: int = 20) -> None:
    """Write a picture and its label map, whose columns hold these labels, repeated to fill it."""
    for below in (pictures, maps):
        (folder / below).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (side, side), (number * 5, 60, 90)).save(folder / pictures / f"{number:04d}.jpg", quality=100)
    row = np.repeat(np.array(columns, np.uint8), side // len(columns))
    Image.fromarray(np.tile(row, (side, 1))).save(folder / maps / f"{number:04d}.png")


def test_folders_of_classes_are_read_in_the_order_of_their_numbers(own):
    folder = own("owl", "ant", count=11)
    found = class_pairs(folder)
    assert [Path(p).name for p, _, name in found if name == "ant"] == [f"{n}.jpg" for n in range(1, 12)]
    source = read_pairs("own", found, folder=folder, size=4)
    assert source.names == ("ant", "owl") and source.offsets.tolist() == [0, 11, 22] and source.size == 4
    picture, mask = source.pairs(torch.tensor(13))
    assert abs(int(picture[1, 0, 0]) - 3) <= 2 and mask[:2].eq(255).all() and mask[2:].eq(0).all()


@pytest.mark.parametrize(
    ("mode", "background", "foreground"),
    [
        ("L", 0, 255), ("1", 0, 1), ("L", 0, 1), ("L", 0, 128), ("RGB", (0, 0, 0), (0, 0, 255)), ("I;16", 0, 65535),
        ("RGBA", (0, 0, 0, 255), (255, 255, 255, 255)), ("RGBA", (9, 9, 9, 0), (9, 9, 9, 255)),
        ("LA", (255, 0), (255, 255)), ("P", 0, 3),
    ],
)  # fmt: skip
def test_masks_of_any_kind_mean_the_same(tmp_path, mode, background, foreground):
    image = Image.new(mode, (6, 6), background)
    if mode == "P":
        image.putpalette([0, 0, 0, *[128, 0, 0] * 5])
    image.paste(foreground, (0, 0, 6, 3))
    image.save(tmp_path / "mask.png")
    expected = np.zeros((6, 6), np.uint8)
    expected[:3] = 255
    assert np.array_equal(decode_mask(str(tmp_path / "mask.png")), expected)


def test_soft_masks_stay_soft_and_shrink_to_shares(tmp_path):
    soft = np.tile(np.array([0, 51, 255, 255], np.uint8), (4, 1))
    Image.fromarray(soft).save(tmp_path / "mask.png")
    assert np.array_equal(decode_mask(str(tmp_path / "mask.png")), soft)
    assert shrunk(soft, 2).tolist() == [[26, 255], [26, 255]]
    assert shrunk(soft, 8).shape == (8, 8) and set(np.unique(shrunk(soft, 8))) == {0, 51, 255}


@pytest.mark.parametrize(("mode", "color"), [("L", 70), ("CMYK", (0, 0, 0, 185)), ("RGB", (70, 70, 70))])
def test_pictures_of_any_kind_become_rgb(tmp_path, mode, color):
    Image.new(mode, (6, 4), color).save(tmp_path / "picture.jpg", quality=100)
    picture = decode_picture(str(tmp_path / "picture.jpg"))
    assert picture.shape == (4, 6, 3) and np.abs(picture.astype(int) - 70).max() <= 2
    Image.new("RGBA", (6, 4), (70, 70, 70, 10)).save(tmp_path / "clear.png")
    assert decode_picture(str(tmp_path / "clear.png")).tolist() == [[[70, 70, 70]] * 6] * 4


def test_the_turn_that_a_camera_noted_is_applied(tmp_path):
    image = Image.new("RGB", (6, 4), 0)
    exif = image.getexif()
    exif[0x0112] = 6  # a quarter turn
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert decode_picture(str(tmp_path / "turned.jpg")).shape == (6, 4, 3)


def test_a_mask_of_another_size_fits_if_its_frame_is_that_of_the_picture(own):
    folder = own("ant")
    mask = np.zeros((24, 24), np.uint8)
    mask[:12] = 255
    Image.fromarray(mask).save(folder / "ant" / "1.png")
    source = read_pairs("own", class_pairs(folder), folder=folder, size=4)
    assert torch.equal(source.masks[0], source.masks[1])
    Image.fromarray(mask[:18]).save(folder / "ant" / "1.png")
    with pytest.raises(ValueError, match=r"1.png in the frame of its picture, 8 x 8 pixels or a multiple, got 24 x 18"):
        read_pairs("own", class_pairs(folder), folder=folder, size=4)


def test_what_is_missing_or_damaged_is_named(own, tmp_path):
    folder = own("ant")
    (folder / "ant" / "2.png").unlink()
    with pytest.raises(ValueError, match=r"got the picture .*ant/2 alone; add its .png mask or remove it"):
        load(str(folder), "train")
    (folder / "ant" / "2.jpg").unlink()
    (folder / "ant" / "3.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"expected an image, got .*3.jpg, which Pillow cannot read"):
        load(str(folder), "train")
    (folder / "ant" / "3.jpg").unlink()
    with pytest.raises(ValueError, match=r"got the mask .*ant/3 alone; add its .jpg picture"):
        load(str(folder), "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"<class>/<n>.jpg with masks <n>.png, found none"):
        load(str(tmp_path / "empty"), "train")


def test_a_folder_of_ones_own_is_dealt_out_or_has_its_own_splits(own):
    folder = own(*"abcdefghij")
    parts = {split: load(str(folder), split, size=4).names for split in ("train", "val", "test", "train+val")}
    assert [len(parts[split]) for split in ("train", "val", "test", "train+val")] == [6, 2, 2, 8]
    assert set(parts["train"]) | set(parts["val"]) | set(parts["test"]) == set("abcdefghij")
    for split, name in (("train", "owl"), ("test", "fox")):
        write_pair(folder / split / name, 1)
    assert load(str(folder), "test", size=4).names == ("fox",)
    with pytest.raises(ValueError, match="val beside train and test"):
        load(str(folder), "val", size=4)


def test_decoded_pictures_are_kept_until_a_file_changes(own, monkeypatch):
    folder, spec = own(*"abcde", count=4), {"size": 4}
    first = load(str(folder), "train", **spec)
    monkeypatch.setattr("mlkit.tasks.segmentation_files.decode_pair", None)
    again = load(str(folder), "train", **spec)
    assert again.content_hash == first.content_hash and len(list((folder / ".mlkit").iterdir())) == 3
    monkeypatch.undo()
    write_pair(folder / first.names[0], 2, color=200, side=12)
    changed = load(str(folder), "train", **spec)
    assert changed.content_hash != first.content_hash and len(list((folder / ".mlkit").iterdir())) == 3
    next((folder / ".mlkit").glob("*masks.npy")).write_bytes(b"cut")
    assert load(str(folder), "train", **spec).content_hash == changed.content_hash


def test_lists_of_fss1000_are_those_of_paper_000():
    parts = split_classes("fss1000")
    assert [len(parts[split]) for split in ("train", "val", "test")] == [560, 200, 240]
    assert len(set().union(*map(set, parts.values()))) == 1000
    assert (parts["train"][-1], parts["val"][0], parts["val"][-1]) == ("sarong", "saxophone", "zucchini")
    assert listed("fss1000")["fp_k"] == ["airliner", "bus", "motorbike", "potted_plant", "television"]
    assert {"bus", "motorbike"} <= set(parts["test"])


@pytest.mark.parametrize("below", ["fewshot_data", "."])
def test_fss1000_is_read_from_its_official_layout(root, below):
    for name in split_classes("fss1000")["test"]:
        write_pair(root / "fss1000" / below / name, 1)
    source = load("fss1000", "test", size=4)
    assert source.names == tuple(split_classes("fss1000")["test"]) and not source.stand_in
    with pytest.raises(ValueError, match="expected a class of fss1000, got 'thors_hammer'"):
        load("fss1000", "train", size=4)


def write_voc(root: Path, counts: dict[tuple[int, ...], int], below: str = "") -> None:
    number = 0
    for labels, count in counts.items():
        for _ in range(count):
            label_map(root / "voc" / below, "JPEGImages", "SegmentationClassAug", number, list(labels))
            number += 1


def test_pascal_5i_holds_no_picture_that_shows_a_class_of_a_later_split(root):
    # aeroplane (1) is tested in fold 0, bus (6) validates, dog (12) and horse (13) train; 255 is ignored
    write_voc(root, {(0, 1): 10, (0, 6): 11, (12, 255): 12, (13, 13): 10, (12, 1): 3, (6, 12): 2, (12, 13): 2})
    parts = {split: load("pascal_5i_0", split, size=4) for split in ("train", "val", "test", "train+val")}
    pairs = {split: dict(zip(part.names, part.offsets.diff().tolist(), strict=True)) for split, part in parts.items()}
    assert pairs == {
        "train": {"dog": 14, "horse": 12},
        "val": {"bus": 13},
        "test": {"aeroplane": 13},
        "train+val": {"dog": 16, "horse": 12, "bus": 13},
    }  # fmt: skip
    seen = [{tuple(p.flatten().tolist()) for p in parts[split].pictures} for split in ("train", "val", "test")]
    assert sum(map(len, seen)) == len(set().union(*seen)) == 50
    assert parts["train"].masks[0].tolist() == [[255, 255, 0, 0]] * 4 and parts["train"].stand_in
    with pytest.raises(ValueError, match=r"expected a split of train, val, test, train\+val; got 'all'"):
        load("pascal_5i_0", "all")


def test_folds_of_pascal_are_five_classes_each_and_no_class_is_in_two_splits():
    tested = [split_classes(name)["test"] for name in FOLDS]
    assert [name for fold in tested for name in fold] == list(VOC)
    for name in (*FOLDS, "ccp", "eth80"):
        parts = split_classes(name)
        every = [k for part in parts.values() for k in part]
        assert len(every) == len(set(every)) and all(parts.values())
    assert split_classes("pascal_5i_3")["val"] == tested[0]


def test_small_labels_and_color_maps(root):
    write_voc(root, {(0, *[12] * 9): 10, (*[0] * 19, 7): 10}, below="VOCdevkit/VOC2012/")
    source = read("voc", size=4)
    assert source.names == ("car", "dog")  # car covers 5 %
    path = root / "voc/VOCdevkit/VOC2012/SegmentationClassAug/0000.png"
    Image.open(path).convert("RGB").save(path)
    with pytest.raises(ValueError, match=r"a label map, one number a pixel, got .*0000.png with 3 channels"):
        read("voc", size=4)


def test_the_mixture_leaves_out_what_overlaps_its_test_classes(root):
    said = listed("voc_ccp_eth80")
    # dog, cat, horse and sheep are 12, 8, 13 and 17
    write_voc(
        root, {(12, 0): 10, (12, 8): 4, (8, 0): 10, (13, 0): 10, (17, 0): 10, (17, 8): 3}
    )  # dog, cat, horse, sheep
    (root / "ccp").mkdir()
    (root / "ccp" / "labels.txt").write_text("null\ncoat\nhair")
    for number in range(10):
        label_map(root / "ccp", "photos", "masks", number, [1, 2])
    for number in range(1, 11):
        for name in ("apple01", "dog03", "tomato02", "pear09", "cup04", "horse05"):
            write_pair(root / "eth80" / name, number)
        for name in said["test"]:
            write_pair(root / "fss1000" / "fewshot_data" / name, number)
    train, val, test = (load("voc_ccp_eth80", split, size=4) for split in ("train", "val", "test"))
    assert train.names == ("voc/cat", "voc/horse", "ccp/coat", "ccp/hair", "eth80/horse05")
    assert val.names == ("voc/sheep", "eth80/cup04") and test.names == tuple(said["test"])
    assert train.offsets.diff().tolist()[:2] == [10, 10]  # not the cats beside dogs or sheep
    assert train.stand_in and len(train.masks) > len(train.pictures)
    spec = SegmentationSpec("voc_ccp_eth80", size=4)
    assert sample(spec.split("train"), 2, seeded(0)).query.y.shape == (2, 5, 4, 4)


def test_every_overlap_is_between_classes_that_there_are():
    said, fss = listed("voc_ccp_eth80"), split_classes("fss1000")
    names, sources = {name for part in fss.values() for name in part}, said["overlaps"]
    assert all(set(alike) <= names for alike in sources.values()) and set(said["test"]) <= names
    kinds = {f"eth80/{name.rstrip('0123456789')}" for part in split_classes("eth80").values() for name in part}
    tags = {f"ccp/{name}" for part in split_classes("ccp").values() for name in part}
    assert set(sources) == kinds | tags | {f"voc/{name}" for name in VOC}
    assert all({name.rstrip("0123456789")} <= set(sources) for name in said["val"]) and "rule" in said
    other = {"punching_bag", "sleeping_bag", "hair_drier", "hair_razor"}  # a word in common, and nothing else
    for kind, alike in sources.items():
        word = kind.partition("/")[2]
        same = {name for name in names if {word, word.removesuffix("s")} & set(name.split("_"))}
        assert same - other <= set(alike), kind
    assert sources["voc/dog"] == sources["eth80/dog"] and sources["voc/car"] == sources["eth80/car"]
    assert sources["voc/cow"] == sources["eth80/cow"] and sources["voc/horse"] == sources["eth80/horse"]


def test_the_catalogue_says_how_to_get_them_and_checks_them(root):
    tasks = [name for dataset in SEGMENTATION for name in dataset.tasks]
    assert set(tasks) | {"voc_ccp_eth80", "voc_rest", "fss1000_rest"} == set(NAMES)
    with pytest.raises(FileNotFoundError, match=r"expected FSS-1000[\s\S]*fewshot_data/<class>[\s\S]*1\. Fetch"):
        load("fss1000", "test")
    with pytest.raises(FileNotFoundError, match="Clothing"):
        load("voc_ccp_eth80", "train") if write_voc(root, {(12, 0): 10}) is None else None
    with pytest.raises(ValueError, match="did you mean 'eth80'"):
        load("eth8")
    assert mlkit.data.check("shapes").ok and mlkit.data.get("shapes", root) == root / "shapes"
    report = mlkit.data.check("voc", root)
    assert (report.classes, report.images, report.ok) == (1, 10, False) and "expected 12031" in report.problems[0]
    assert mlkit.data.get("pascal_5i_1", root) == root / "voc"


@pytest.mark.skipif(not (HERE / "fss1000").is_dir(), reason="no real FSS-1000 pictures on this machine")
def test_the_real_pictures_of_fss1000_have_their_masks():
    source = read("fss1000", size=32, root=HERE)
    share = source.masks.double().mean((-2, -1)) / 255
    assert (source.offsets.diff() == 10).all() and share.min() > 0 and 0.1 < share.mean() < 0.5
    soft = (source.masks > 5) & (source.masks < 250)
    assert 0.01 < soft.double().mean() < 0.3
    assert set(source.names) <= {name for part in split_classes("fss1000").values() for name in part}
