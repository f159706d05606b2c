"""Augmentation: pictures and masks change together, each task by its own seed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mlkit.augmentation import KINDS, Augmentation
from mlkit.seeding import seeded
from mlkit.tasks.base import Examples
from mlkit.vision import transforms

SIDE = 32


def examples(tasks: int = 4, n: int = 6, dtype: torch.dtype = torch.float64) -> Examples:
    generator = seeded("augmentation")
    x = torch.rand(tasks, n, 3, SIDE, SIDE, generator=generator, dtype=dtype)
    return Examples(x, (torch.rand(tasks, n, SIDE, SIDE, generator=generator, dtype=dtype) > 0.5).to(dtype))


def seeds(count: int = 4) -> Tensor:
    return torch.randint(2**62, (count,), generator=seeded("seeds"))


def only(kind: str, given: Examples, **options: bool) -> Examples:
    return Augmentation(1.0, (kind,), **options)(given, seeds(len(given.x)), 0)


def both_from_masks(tasks: int = 30) -> Examples:
    """Return pictures that are their own masks, so that the two can be compared after a change."""
    y = torch.zeros(tasks, 4, SIDE, SIDE, dtype=torch.float64)
    y[..., 8:20, 5:24] = 1
    return Examples(y[:, :, None].expand(-1, -1, 3, -1, -1), y)


def test_the_rate_is_the_share_of_changed_pictures():
    given = examples(100, 8)
    for rate in (0.0, 0.5, 1.0):
        changed = (Augmentation(rate)(given, seeds(100), 0).x != given.x).flatten(2).any(2)
        assert abs(changed.double().mean() - rate) < 0.05 * (rate == 0.5) + 1e-9
    before = examples(100, 8)
    assert torch.equal(given.x, before.x) and torch.equal(given.y, before.y)  # never in place


def test_a_task_is_changed_by_its_own_seed_however_tasks_are_batched():
    given, augment = examples(), Augmentation(0.8)
    whole = augment(given, seeds(), 3)
    for task in range(4):
        alone = augment(given.map(lambda t, k=task: t[k : k + 1]), seeds()[task : task + 1], 3)
        assert torch.equal(alone.x[0], whole.x[task]) and torch.equal(alone.y[0], whole.y[task])
    assert not torch.equal(augment(given, seeds(), 4).x, whole.x)
    state = torch.random.get_rng_state()
    single = augment(given.map(torch.Tensor.float), seeds(), 3)
    torch.testing.assert_close(single.x, whole.x.float(), atol=1e-4, rtol=0)
    assert torch.equal(state, torch.random.get_rng_state()) and torch.equal(single.y, whole.y.float())


def test_every_kind_comes_first_equally_often_and_one_to_six_are_applied():
    calls: dict[str, int] = dict.fromkeys(KINDS, 0)
    augment = Augmentation(1.0)
    original = augment._change

    def counted(name: str):
        def change(x: Tensor, y: Tensor, numbers: Tensor):
            calls[name] += len(x)
            return original(name)(x, y, numbers)

        return change

    object.__setattr__(augment, "_change", counted)
    augment(Examples(torch.zeros(50, 20, 3, 4, 4), torch.zeros(50, 20, 4, 4)), seeds(50), 0)
    assert all(abs(count / 1000 - 3.5 / 6) < 0.06 for count in calls.values())  # 1..6 of 6: 3.5 on average


@pytest.mark.parametrize("kind", ["flip", "translate", "rotate", "erase"])
def test_masks_go_where_their_pictures_go(kind):
    given = both_from_masks()
    changed = only(kind, given)
    assert not torch.equal(changed.y, given.y) and set(changed.y.unique().tolist()) == {0.0, 1.0}
    agree = ((changed.x.mean(2) > 0.5) == (changed.y > 0.5)).double().mean((-2, -1))
    if kind == "flip":
        assert torch.equal(changed.y, given.y.flip(-1)) and agree.min() == 1
    assert agree.median() > 0.97  # but for what is filled, and interpolation at the border


def test_a_mask_is_background_where_its_picture_is_painted_over():
    given = Examples(torch.full((40, 5, 3, SIDE, SIDE), 2.0), torch.ones(40, 5, SIDE, SIDE))  # no paint is 2
    for kind in ("erase", "translate"):
        changed = only(kind, given)
        painted = (changed.x != 2).all(2)
        assert torch.equal(painted, changed.y == 0) and painted.any()
    share = (only("erase", given).y == 0).double().mean((-2, -1))
    assert share.max() <= 0.10 and share.mean() > 0.02
    strip = (only("translate", given).y == 0).double().mean((-2, -1))
    assert 0 < strip.max() <= 3 / SIDE and 0.3 < (strip > 0).double().mean() < 0.7  # 23/224 of 32 pixels; half wrap


def test_a_shift_blanks_what_it_leaves_behind_or_as_in_the_code_a_strip_across():
    marks = torch.arange(1, SIDE + 1.0).expand(SIDE, -1) / 64  # columns differ, rows do not
    given = Examples(marks.expand(40, 4, 3, -1, -1).double(), torch.ones(40, 4, SIDE, SIDE, dtype=torch.float64))
    right, faithful = only("translate", given), only("translate", given, faithful_translate=True)
    for changed, across in ((right, False), (faithful, True)):
        rows_blank = (changed.y == 0).all(-1).any(-1)  # a horizontal strip
        columns_blank = (changed.y == 0).all(-2).any(-1)
        moved = (changed.x[:, :, 0].mean(-2) != marks[0]).any(-1) & ~rows_blank  # shifted left or right
        assert rows_blank.any() and columns_blank.any() and not (rows_blank & columns_blank).any()
        middle = changed.x[:, :, 0, SIDE // 2, 8:24] - marks[0, 8:24]  # 0 unless the columns moved
        sideways = middle.abs().amax(-1) > 0.01
        assert sideways[rows_blank].all() == across and sideways[columns_blank].all() != across
        assert moved.any()


def test_noise_and_exposure_change_light_alone():
    given = Examples(torch.full((50, 4, 3, SIDE, SIDE), 0.5, dtype=torch.float64), examples(50, 4).y)
    noisy, lit = only("noise", given), only("exposure", given)
    assert torch.equal(noisy.y, given.y) and torch.equal(lit.y, given.y)
    added = (noisy.x - 0.5) * 255
    assert abs(added.std((-3, -2, -1)).mean() - 5.1) < 0.2 and added.std((-3, -2, -1)).std() > 0.5
    assert added.mean().abs() < 0.02 and abs((added / added.std()).abs().mean() - 0.7979) < 0.02  # Gaussian
    shift = (lit.x - 0.5).flatten(2) * 255
    assert shift.std(2).max() < 1e-9 and 10 < shift[..., 0].std() < 16
    assert only("exposure", Examples(given.x * 0 + 1, given.y)).x.max() == 1


def test_a_rotation_is_that_of_torchvision():
    given = both_from_masks(40)
    y = only("rotate", given).y.flatten(0, 1)
    turned = [
        transforms.functional.rotate(given.y[0, :1], angle, interpolation=transforms.InterpolationMode.NEAREST)[0]
        for angle in range(-45, 46)
    ]
    apart = (y[:, None] != torch.stack(turned)).double().mean((-2, -1))  # (pictures, angles)
    assert apart.amin(1).quantile(0.8) < 0.01 and len(apart.argmin(1).unique()) > 40


def test_borders_of_a_rotation():
    inside = Examples(torch.full((60, 4, 3, SIDE, SIDE), 0.5), torch.ones(60, 4, SIDE, SIDE))
    changed = only("rotate", inside)
    cut = (changed.y == 0).flatten(2).any(2)
    assert 0.15 < cut.double().mean() < 0.35  # one border of four is constant
    assert ((changed.x - 0.5).abs().amax(2)[changed.y == 1] < 1e-5).all()


def test_labels_stay_integers():
    labels = examples().y.long() * 7
    changed = Augmentation(1.0)(Examples(examples().x, labels), seeds(), 0)
    assert changed.y.dtype == torch.int64 and set(changed.y.unique().tolist()) == {0, 7}


def test_it_says_what_it_does_and_refuses_what_it_cannot():
    kinds = ("translate", "flip", "noise", "exposure")
    assert Augmentation(1.0, kinds).describe() == {"rate": 1.0, "kinds": list(kinds)}
    assert Augmentation(faithful_translate=True).describe()["faithful_translate"] is True
    with pytest.raises(ValueError, match="kinds out of erase, translate, flip, noise, exposure, rotate"):
        Augmentation(kinds=("blur",))
    with pytest.raises(ValueError, match=r"a rate in \[0, 1\], got 1.5"):
        Augmentation(1.5)
