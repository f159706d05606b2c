"""Pictures with masks and quantities of blocks: what is drawn, what a chooser changes, what is refused."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from mlkit import figures
from mlkit.figures import Segmented, Series, Tile

GRAY = np.full((16, 20, 3), 100, dtype=np.uint8)


def box() -> np.ndarray:
    mask = np.zeros((16, 20))
    mask[4:12, 5:15] = 1
    return mask


def decoded(source: str) -> np.ndarray:
    head, _, data = source.partition(",")
    assert head == "data:image/jpeg;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_a_mask_is_red_with_an_edge_and_the_rest_is_darker():
    drawn = figures.overlaid(Tile(GRAY, box()))
    np.testing.assert_array_equal(drawn[0, 0], [80, 80, 80])
    np.testing.assert_array_equal(drawn[4, 5], [225, 25, 40])
    np.testing.assert_array_equal(drawn[8, 9], [162, 62, 70])  # half of each, rounded half to even
    assert (GRAY == 100).all(), "the picture is left as it was"
    np.testing.assert_array_equal(figures.overlaid(Tile(GRAY)), GRAY)


def test_a_mask_that_leaves_the_picture_has_no_edge_there():
    drawn = figures.overlaid(Tile(GRAY, np.ones((16, 20))))
    assert (drawn == drawn[0, 0]).all()


@pytest.mark.parametrize(
    ("tile", "message"),
    [
        (Tile(GRAY / 255.0), r"expected a picture \(height, width, 3\) of dtype uint8, got \(16, 20, 3\) of float64"),
        (Tile(GRAY[..., 0]), r"expected a picture \(height, width, 3\) of dtype uint8, got \(16, 20\)"),
        (Tile(GRAY, np.ones((20, 16))), r"expected a mask as large as its picture, \(16, 20\), got \(20, 16\)"),
    ],
)
def test_what_is_no_picture_with_a_mask_is_refused(tile, message):
    with pytest.raises(ValueError, match=message):
        figures.overlaid(tile)


def test_a_gallery_lays_tiles_out_in_rows_under_titles():
    tiles = [Tile(GRAY, box(), f"{i} %", f"class {i}") for i in range(5)]
    figure = figures.mask_gallery({"random": tiles, "failures": tiles[:1]}, columns=4)
    lefts, tops = ([round(getattr(image, axis), 2) for image in figure.data] for axis in ("x0", "y0"))
    assert lefts[:4] == sorted(set(lefts)) and lefts[4] == lefts[5] == lefts[0]
    assert tops[0] == tops[3] < tops[4] < tops[5]
    assert [image.hovertemplate for image in figure.data][1] == "class 1<extra></extra>"
    words = [annotation.text for annotation in figure.layout.annotations]
    assert words == ["random", *[f"{i} %" for i in range(5)], "failures", "0 %"]
    drawn = decoded(figure.data[0].source)
    assert drawn.shape == (16, 20, 3)
    assert np.abs(drawn.astype(int) - figures.overlaid(tiles[0])).mean() < 8, "as JPEG knows it"
    assert figure.layout.yaxis.scaleanchor == "x", "pictures keep their proportions on any page"
    with pytest.raises(ValueError, match="expected at least one tile, got 1 sections without"):
        figures.mask_gallery({"random": []})


def choice(name: str, shade: int, *, shots: int = 2, methods: tuple[str, ...] = ("FOMAML*", "Reptile")) -> Segmented:
    picture = np.full_like(GRAY, shade)
    panels = {"picture": Tile(picture), **{method: Tile(picture, box(), f"{shade} %") for method in methods}}
    return Segmented(name, [Tile(picture, box())] * shots, panels)


def test_a_chooser_changes_every_panel_and_every_title():
    figure = figures.mask_chooser([choice("first", 40), choice("second", 200)])
    (menu,) = figure.layout.updatemenus
    assert (menu.name, [button.label for button in menu.buttons]) == ("picture", ["first", "second"])
    shown, other = ([decoded(source) for source in button.args[0]["source"]] for button in menu.buttons)
    assert [decoded(image.source).mean() for image in figure.data] == [picture.mean() for picture in shown]
    assert len(shown) == len(other) == len(figure.data) == 4
    assert [round(pictures[1].mean()) for pictures in (shown, other)] == [40, 200]
    assert shown[0].shape == (16, 41, 3), "two support pictures with a gap"
    titles = [annotation.text for annotation in figure.layout.annotations]
    assert titles == ["labeled", "picture", "FOMAML*<br>40 %", "Reptile<br>40 %"]
    changed = {key: text for key, text in menu.buttons[1].args[1].items() if "200" in text}
    assert changed == {"annotations[2].text": "FOMAML*<br>200 %", "annotations[3].text": "Reptile<br>200 %"}


def test_choices_that_do_not_fit_each_other_are_refused():
    with pytest.raises(
        ValueError, match=r"choices of one number of support pictures and panels, got \[\(2, 3\), \(3, 3\)\]"
    ):
        figures.mask_chooser([choice("a", 1), choice("b", 1, shots=3)])
    with pytest.raises(ValueError, match=r"choices of one number of support pictures and panels, got \[\]"):
        figures.mask_chooser([])


def test_bars_of_blocks_carry_their_intervals():
    series = Series([1.0, 4.0], [0.5, 3.0], [2.0, 4.5])
    panels = {"d1": {"FOMAML*": series, "joint-trained": Series([2.0, 8.0])}, "d2": {"FOMAML*": series}}
    figure = figures.block_bars(panels, ["stem", "head"])
    first, bare, below = figure.data
    assert (first.type, list(first.x), list(first.y)) == ("bar", ["stem", "head"], [1, 4])
    np.testing.assert_allclose([first.error_y.array, first.error_y.arrayminus], [[1, 0.5], [0.5, 1]])
    assert bare.error_y.array is None
    assert [trace.showlegend for trace in figure.data] == [True, True, False]
    assert (first.yaxis, below.yaxis) == ("y", "y2")


def test_on_a_logarithmic_scale_points_stand_for_bars():
    (points,) = figures.block_bars({"d1": {"FOMAML*": Series([1.0, 100.0])}}, ["stem", "head"], log=True).data
    assert (points.type, points.mode, list(points.y)) == ("scatter", "markers", [1, 100])
    with pytest.raises(ValueError, match="expected 2 blocks in 'FOMAML\\*', got 1"):
        figures.block_bars({"d1": {"FOMAML*": Series([1.0])}}, ["stem", "head"])
