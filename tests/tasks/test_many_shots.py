"""Tasks of many shots: nested training sets, pictures to be judged on apart, classes that nothing was trained on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mlkit.tasks import shapes
from mlkit.tasks.many_shots import FP_K, PASCAL, SHOTS, ManyShots, ManyShotsSpec, fp_k
from mlkit.tasks.masked_images import MaskedImages
from mlkit.tasks.segmentation_datasets import VOC, class_count, load, split_classes
from mlkit.tasks.shapes import SPLITS, _scenes

SMALL = {"shots": (1, 2, 5), "query": 3, "repeats": 2}


def marked(*sizes: int) -> MaskedImages:
    """Return pictures whose first pixel says class and number, and whose masks say the same."""
    label = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    number = torch.cat([torch.arange(size) for size in sizes])
    pictures, masks = torch.zeros(sum(sizes), 3, 2, 2).byte(), torch.zeros(sum(sizes), 2, 2).byte()
    pictures[:, 0, 0, 0], pictures[:, 1, 0, 0] = label.byte(), number.byte()
    masks[:, 0, 0], masks[:, 0, 1] = label.byte(), number.byte()
    offsets = torch.tensor([0, *sizes]).cumsum(0)
    names = ("ant", "bee", "cat")[: len(sizes)]
    return MaskedImages("marked", pictures, masks, torch.arange(sum(sizes)), offsets, names)


def numbers(examples) -> tuple[torch.Tensor, torch.Tensor]:
    """Return class and number of every picture, after checking that each has its own mask."""
    said = (examples.x[:, :, :2, 0, 0] * 255).round().long()
    assert torch.equal(said, (examples.y[:, :, 0] * 255).round().long())
    return said[..., 0], said[..., 1]


def test_training_sets_are_nested_and_apart_from_the_pictures_that_judge():
    tasks = ManyShots(marked(9, 12, 8), **SMALL)
    assert len(tasks) == 6 and tasks.having(5) == list(range(6))
    for task in range(6):
        batches = [tasks.gather([task], shots) for shots in (1, 2, 5)]
        classes, support = numbers(batches[-1].support)
        assert (classes == task % 3).all() and support.shape == (1, 5)
        judged = numbers(batches[-1].query)[1]
        assert len({*support[0].tolist(), *judged[0].tolist()}) == 8
        for batch in batches[:-1]:
            shots = batch.support.x.shape[1]
            assert torch.equal(numbers(batch.support)[1], support[:, :shots])
            assert torch.equal(numbers(batch.query)[1], judged) and torch.equal(batch.seeds, batches[-1].seeds)


def test_repeats_differ_and_nothing_depends_on_what_else_is_asked_for():
    tasks = ManyShots(marked(9, 12, 8), **SMALL)
    whole = tasks.gather(range(6), 5)
    assert len(whole.seeds.unique()) == 6
    assert not torch.equal(numbers(whole.query)[1][0], numbers(whole.query)[1][3])
    some = replace(tasks, shots=(2,), repeats=1).gather([1], 2)
    assert torch.equal(some.query.x[0], whole.query.x[1]) and torch.equal(some.support.x[0], whole.support.x[1, :2])
    assert some.seeds[0] == whole.seeds[1]


def test_a_class_with_too_few_pictures_is_refused_unless_it_may_have_fewer():
    with pytest.raises(ValueError, match=r"class 'cat' of marked has 7 pictures, expected .* 5 \+ 3 = 8; .*'cat': 4"):
        ManyShots(marked(9, 12, 7), **SMALL)
    tasks = ManyShots(marked(9, 12, 7), **SMALL, up_to={"cat": 4})
    assert tasks.most("cat") == 2 and tasks.most("ant") == 5
    assert tasks.having(2) == list(range(6)) and tasks.having(5) == [0, 1, 3, 4]
    assert tasks.describe()["up_to"] == {"cat": 4} and tasks.describe()["shots"] == [1, 2, 5]
    with pytest.raises(ValueError, match="class 'ant' of marked has 3 pictures"):
        ManyShots(marked(3), **SMALL, up_to={"ant": 0})
    with pytest.raises(ValueError, match="expected growing shots"):
        ManyShots(marked(9), shots=(5, 1))


def test_more_pictures_of_a_shape_leave_the_first_ten_as_they_are():
    many, more = (shapes("test", size=16, classes=2, pictures=count) for count in (30, 40))
    few = shapes("test", size=16)
    for k in range(2):
        first = [part[10 * k : 10 * k + 10] for part in few.pairs(torch.arange(20))]
        for longer in (many, more):
            found = longer.pairs(longer.pictures * k + torch.arange(30))
            assert all(torch.equal(part[:10], ten) for part, ten in zip(found, first, strict=True))
        for ours, theirs in zip(many.pairs(30 * k + torch.arange(30)), found, strict=True):
            assert torch.equal(ours, theirs)
    assert len({tuple(mask.flatten().tolist()) for mask in many.pairs(torch.arange(60))[1]}) == 60
    assert many.labeled(torch.tensor([29, 30]))[1].amax((-2, -1)).tolist() == [1, 2]
    assert len({few.content_hash, many.content_hash, more.content_hash}) == 3
    assert many.to("cpu") is shapes("test", size=16, classes=2, pictures=30)
    for wrong in ({"pictures": 25}, {"classes": 241}):
        with pytest.raises(ValueError, match="expected 1 to 240 classes of split 'test' and a multiple of 10 pictures"):
            shapes("test", **wrong)


def test_further_pictures_show_the_same_kind_of_thing():
    """The target's share of the picture and its color vary around those of its class, as in the first ten."""
    source = shapes("test", size=16, classes=6, pictures=60)
    pictures, masks = (part.double() / 255 for part in source.pairs(torch.arange(360).view(6, 60)))
    share = masks.mean((-2, -1))
    color = (pictures * masks[:, :, None]).sum((-2, -1)) / masks.sum((-2, -1))[..., None]
    for values, spread in ((share[..., None], 0.06), (color, 0.12)):
        first, further = values[:, :10].mean(1), values[:, 10:].mean(1)
        assert (first - further).abs().max() < spread
        assert (first[0] - first[1:]).abs().max() > spread  # classes differ by more
    assert _scenes()["pose"].shape[:2] == (1000, 10)


def test_shapes_of_many_shots_are_classes_that_are_not_trained_on():
    tasks = ManyShotsSpec(classes=3, size=16).load()
    assert tasks.source.classes == tuple(SPLITS["test"][:3]) and tasks.shots == SHOTS
    assert tasks.source.offsets.diff().tolist() == [420] * 3 and len(tasks) == 12 and not tasks.up_to
    batch = ManyShotsSpec(shots=[1, 12], query=2, classes=2, size=16).load().gather([0, 1], 12)
    assert batch.support.x.shape == (2, 12, 3, 16, 16) and batch.query.y.shape == (2, 2, 16, 16)
    with pytest.raises(ValueError, match="got 'shape'; did you mean 'shapes'"):
        ManyShotsSpec("shape").load()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLKIT_DATA", str(tmp_path))
    return tmp_path


def write_voc(root: Path, columns: list[list[int]], side: int = 40) -> None:
    """Write a picture for each list of labels, which its columns show one after the other."""
    for below in ("JPEGImages", "SegmentationClassAug"):
        (root / "voc" / below).mkdir(parents=True)
    for number, labels in enumerate(columns):
        row = np.repeat(np.array(labels, np.uint8), side // len(labels))
        Image.new("RGB", (side, side), (number * 20, 60, 90)).save(root / f"voc/JPEGImages/{number:03d}.jpg")
        Image.fromarray(np.tile(row, (side, 1))).save(root / f"voc/SegmentationClassAug/{number:03d}.png")


def write_fss(root: Path, names: list[str], count: int = 2) -> None:
    for name in names:
        folder = root / "fss1000" / "fewshot_data" / name
        folder.mkdir(parents=True)
        for number in range(1, count + 1):
            Image.new("RGB", (8, 8), (200, number, 0)).save(folder / f"{number}.jpg")
            Image.new("L", (8, 8), 255).save(folder / f"{number}.png")


def test_fp_k_unites_a_class_of_pascal_with_its_class_of_fss(root):
    aero, bus, motor, pot, tv = (VOC.index(name) + 1 for name in FP_K)
    dog, nothing, unsure = VOC.index("dog") + 1, [0] * 39, 255
    write_voc(root, [[aero, 0], [bus, tv], [*nothing, bus], [motor, unsure], [pot, dog], [dog, 0]])
    write_fss(root, [*FP_K.values(), "apple"])
    found = fp_k(size=8, root=root)
    assert found.names == tuple(FP_K) and found.offsets.diff().tolist() == [3, 4, 3, 3, 3] and found.stand_in
    assert len(found.pictures) == 5 + 10  # the dog's picture is none of them; one shows bus and tvmonitor
    share = {name: found.pairs(found.of(name))[1].double().mean((-2, -1)) / 255 for name in found.names}
    np.testing.assert_allclose(share["bus"], [0.5, 1 / 40, 1, 1], atol=0.003)  # however little of it is seen
    np.testing.assert_allclose(share["motorbike"], [0.5, 1, 1], atol=0.003)  # where no one was sure is background
    together = {name: found.shown[found.of(name)].tolist() for name in ("bus", "tvmonitor")}
    assert together["bus"][0] == together["tvmonitor"][0]
    red = found.pairs(found.of("bus"))[0][:, 0, 0, 0]
    assert (red[2:] > 190).all() and (red[:2] < 60).all()
    spec = ManyShotsSpec("fp_k", shots=(1, 2), query=1, repeats=1, size=8)
    assert spec.load().names == tuple(FP_K)
    with pytest.raises(ValueError, match="class 'aeroplane' of fp_k has 3 pictures, expected at least shots"):
        replace(spec, query=2).load()


def test_fp_k_says_what_is_missing(root):
    with pytest.raises(FileNotFoundError, match="voc"):
        fp_k(size=8, root=root)
    write_voc(root, [[1, 0]])
    with pytest.raises(ValueError, match=r"expected pictures of 'bus' in .*voc, found none"):
        fp_k(size=8, root=root)


def test_pascal_and_ones_own_folder(root):
    dog, cat = VOC.index("dog") + 1, VOC.index("cat") + 1
    write_voc(root, [[dog, cat], [dog, 0], [cat, 0], [dog, 0], [cat, 0]])
    spec = ManyShotsSpec("voc", shots=(1, 2), query=1, repeats=2, size=8, classes=2)
    tasks = spec.load()
    assert tasks.names == ("dog", "cat") and tasks.up_to == {} and len(tasks) == 4
    with pytest.raises(ValueError, match="class 'dog' of voc has 3 pictures, expected at least shots"):
        replace(spec, shots=(1, 3)).load()
    with pytest.raises(ValueError, match="expected a class of voc, got 'horse'"):
        replace(spec, classes=3).load()
    assert list(PASCAL)[:3] == ["dog", "cat", "horse"] and PASCAL["aeroplane"] == 100 and tasks.describe()["stand_in"]
    write_fss(root, ["owl"], count=4)
    own = ManyShotsSpec(str(root / "fss1000" / "fewshot_data"), shots=(1, 3), query=1, repeats=1, size=8).load()
    assert own.names == ("owl",) and own.describe()["stand_in"] is True


def test_what_is_left_of_pascal_shows_no_class_that_is_judged(root):
    number = {name: VOC.index(name) + 1 for name in VOC}
    shown = [
        ["bird"],
        ["bird", "dog"],
        ["sofa", "bus"],
        ["sofa"],
        ["boat", "sofa"],
        ["boat"],
        *([name] for name in PASCAL),
    ]
    write_voc(root, [[number[name] for name in names] for names in shown for _ in range(10)])
    for below in ("photos", "masks"):
        (root / "ccp" / below).mkdir(parents=True)
    (root / "ccp" / "labels.txt").write_text("null\ncoat")
    for photo in range(10):
        Image.new("RGB", (8, 8), (photo, 0, 0)).save(root / f"ccp/photos/{photo}.jpg")
        Image.new("L", (8, 8), 1).save(root / f"ccp/masks/{photo}.png")
    for name in ("pear01", "cow02", "horse03", "dog04", "car05", "cup06"):
        (root / "eth80" / name).mkdir(parents=True)
        for view in range(10):
            Image.new("RGB", (8, 8), (view, 9, 9)).save(root / f"eth80/{name}/{view}.jpg")
            Image.new("L", (8, 8), 255).save(root / f"eth80/{name}/{view}.png")
    train, val, test = (load("voc_rest", split, size=4) for split in ("train", "val", "test"))
    assert train.names == ("voc/bird", "voc/sofa", "ccp/coat", "eth80/pear01") and val.names == (
        "voc/boat",
        "eth80/cup06",
    )
    assert train.offsets.diff().tolist() == [10] * 4, "no bird beside a dog, no sofa in a bus or on a boat"
    assert test.names == tuple(
        f"voc/{name}" for name in ("dog", "cat", "horse", "car", "sheep", "cow", "aeroplane", "motorbike")
    )
    assert test.offsets.diff().tolist() == [20, *[10] * 7] and train.stand_in
    judged = ManyShotsSpec("voc", shots=(1, 2), query=1, repeats=1, size=4, classes=8).load()
    assert {f"voc/{name}" for name in judged.names} == set(test.names)


def test_what_is_left_of_fss1000_is_all_but_the_classes_of_fp_k():
    parts = split_classes("fss1000_rest")
    assert [len(parts[split]) for split in ("train", "val", "test")] == [796, 199, 5]
    assert parts["test"] == list(FP_K.values()) and len({name for part in parts.values() for name in part}) == 1000
    assert class_count("fss1000_rest", "train+val") == 995  # as paper 000 trains for FP-k
