"""Figures of the objective landscapes: what is drawn, what a chooser changes, what is refused."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import pytest

from mlkit import figures
from mlkit.figures import Cloud, History, Series

EPOCHS = np.arange(4)


def test_stacked_curves_draw_each_quantity_on_an_axis_of_its_own():
    accuracy, loss = np.array([20.0, 40.0, 50.0, 45.0]), np.array([1.0, 0.1, 0.01, 0.001])
    panels = {"accuracy": {"MAML": Series(accuracy, accuracy - 2, accuracy + 3)}, "loss": {"MAML": Series(loss)}}
    figure = figures.stacked_curves(panels, EPOCHS, log=["loss"])
    band, first, second = figure.data
    np.testing.assert_array_equal(band.y, [*accuracy + 3, *(accuracy - 2)[::-1]])
    np.testing.assert_array_equal(first.y, accuracy)
    np.testing.assert_array_equal(second.y, loss)
    assert (first.yaxis, second.yaxis, figure.layout.yaxis.type, figure.layout.yaxis2.type) == (
        "y", "y2", "linear", "log",
    )  # fmt: skip
    assert figure.layout.xaxis.matches == "x2", "both panels zoom together"
    assert [trace.showlegend for trace in (first, second)] == [True, False], "one entry a method"


def test_a_band_leaves_out_what_is_not_known():
    low, high = np.array([0.0, np.nan, 0.0, 0.0]), np.ones(4)
    band = figures.stacked_curves({"a": {"MAML": Series(high, low, high)}}, EPOCHS).data[0]
    assert list(band.x) == [0, 2, 3, 3, 2, 0]


def test_stacked_curves_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match="expected 4 points in series 'MAML', got 2; pass one value per x"):
        figures.stacked_curves({"a": {"MAML": Series([1, 2])}}, EPOCHS)
    with pytest.raises(ValueError, match=r"expected log to name panels out of \['a'\], got \['b'\]"):
        figures.stacked_curves({"a": {"MAML": Series(EPOCHS)}}, EPOCHS, log=["b"])


def test_a_cloud_names_its_points_and_says_its_correlation():
    cloud = Cloud([1.0, 2.0], [3.0, 5.0], ["k = 2", "k = 3"], "R = 1.00", named=True)
    (points,) = figures.correlation({"MAML": cloud}, x_title="x", y_title="y").data
    assert (list(points.x), list(points.y), list(points.text)) == ([1, 2], [3, 5], ["k = 2", "k = 3"])
    assert (points.name, points.mode) == ("MAML: R = 1.00", "markers+text")


def test_points_are_named_under_the_pointer_unless_asked_for():
    cloud = Cloud(np.arange(9), np.arange(9), [f"epoch {i}" for i in range(9)])
    (points,) = figures.correlation({"MAML": cloud}, x_title="x", y_title="y").data
    assert (points.mode, points.text[3], points.name) == ("markers", "epoch 3", "MAML")


def test_a_cloud_with_a_point_too_few_is_refused():
    with pytest.raises(ValueError, match=r"expected as many x as y and names in 'MAML', got \(2, 1, 2\)"):
        figures.correlation({"MAML": Cloud([1, 2], [1], ["a", "b"])}, x_title="x", y_title="y")


def test_a_pair_map_is_even_about_zero_and_leaves_the_diagonal_out():
    matrix = np.array([[1.0, -0.4, 0.1], [-0.4, 1.0, 0.2], [0.1, 0.2, 1.0]])
    figure = figures.pair_map(matrix, title="cosine", groups={"first": 2, "second": 1})
    (drawn,) = figure.data
    assert (drawn.zmin, drawn.zmax) == (-0.4, 0.4)
    assert np.isnan(np.diag(drawn.z)).all()
    np.testing.assert_array_equal(drawn.z[0, 1:], [-0.4, 0.1])
    np.testing.assert_array_equal(figure.layout.xaxis.tickvals, [0.5, 2.0])
    assert {shape.y0 for shape in figure.layout.shapes} >= {1.5}
    np.testing.assert_array_equal(np.diag(matrix), 1.0, "what was given is left as it was")


@pytest.mark.parametrize(("shape", "groups"), [((2, 3), None), ((2, 2), {"a": 3})])
def test_a_pair_map_refuses_what_does_not_add_up(shape, groups):
    with pytest.raises(ValueError, match="expected a square matrix and groups that add up to it"):
        figures.pair_map(np.ones(shape), title="cosine", groups=groups)


def test_a_surface_keeps_the_losses_and_its_points():
    losses = np.array([[1.0, 10.0, 100.0], [0.1, 1.0, 10.0]])
    figure = figures.loss_surface([0, 1, 2], [0, 1], losses, points={"solution": (0, 1)}, x_title="x", y_title="y")
    surface, point = figure.data
    np.testing.assert_allclose(surface.z, np.log10(losses))
    np.testing.assert_allclose(surface.customdata, losses)
    assert (point.x, point.y, point.text) == ((0,), (1,), ("solution",))
    with pytest.raises(ValueError, match=r"expected losses of shape \(3, 2\), rows by columns, got \(2, 3\)"):
        figures.loss_surface([0, 1], [0, 1, 2], losses, points={}, x_title="x", y_title="y")


def test_an_interval_may_be_uneven():
    (point,) = figures.score_bars([figures.Bar("MAML", 0.9, low=0.1, high=0.95)], x_title="R").data
    assert point.error_x.array == pytest.approx([0.05]) and point.error_x.arrayminus == pytest.approx([0.8])


def test_the_tail_of_the_smoothing_is_no_density():
    (line,) = figures.spectral_density({"MAML": ([0, 1, 2], [1e-9, 0.5, 0.1])}).data
    np.testing.assert_array_equal(line.y, [np.nan, 0.5, 0.1])


def history(label: str, setting: str, **metrics: object) -> History:
    notes = {"curvature": f"R = {len(label)}"}
    return History(label, setting, EPOCHS, EPOCHS * 10.0, metrics, notes)


@pytest.fixture
def linked() -> go.Figure:
    return figures.explorer(
        [
            history("MAML", "glyphs", curvature=[4, 3, 2, 1], cosine=[0, 1, 2, np.nan]),
            history("FOMAML", "sine", curvature=[8, 7, 6, 5]),
        ],
        y_title="accuracy",
    )


def chosen(figure: go.Figure, menu: str, label: str) -> list[dict[str, object]]:
    """Return the arguments of one choice."""
    (buttons,) = [each.buttons for each in figure.layout.updatemenus if each.name == menu]
    (args,) = [button.args for button in buttons if button.label == label]
    return args


def test_the_chooser_of_the_metric_moves_points_above_and_curves_below(linked):
    changes, titles = chosen(linked, "metric", "cosine")
    above, below = changes["x"][0], changes["y"][1]
    assert above == below == [0, 1, 2, None], "the same numbers in both pictures; what is no number is not drawn"
    assert changes["y"][0] == [0, 10, 20, 30] and changes["x"][1] == [0, 1, 2, 3]
    assert changes["x"][2] == [None] * 4, "a metric that this run has not"
    assert titles == {"xaxis.title.text": "cosine", "yaxis2.title.text": "cosine"}


def test_the_first_choices_are_what_is_drawn_at_first(linked):
    changes, _ = chosen(linked, "metric", "curvature")
    assert [list(trace.x) for trace in linked.data] == changes["x"]
    assert [list(trace.y) for trace in linked.data] == changes["y"]
    assert linked.data[0].name == changes["name"][0] == "MAML, glyphs<br>R = 4"
    (shown,) = chosen(linked, "setting", "glyphs")
    assert [trace.visible for trace in linked.data] == shown["visible"] == [True, True, False, False]


def test_the_choosers_do_not_undo_each_other(linked):
    changed = [set(button.args[0]) for menu in linked.layout.updatemenus for button in menu.buttons]
    changed += [set(step.args[0]) for step in linked.layout.sliders[0].steps]
    assert {frozenset(each) for each in changed} == {
        frozenset({"x", "y", "name"}), frozenset({"visible"}), frozenset({"selectedpoints"}),
    }  # fmt: skip


def test_the_slider_marks_one_epoch_of_every_run(linked):
    everything, *steps = linked.layout.sliders[0].steps
    assert [step.label for step in steps] == ["0", "1", "2", "3"]
    assert everything.args[0]["selectedpoints"] == [None]
    assert steps[2].args[0]["selectedpoints"] == [[2]] * 4


def test_hovering_names_the_run(linked):
    assert linked.data[0].text[2] == "MAML, glyphs<br>epoch 2: 20"


def test_the_linked_view_refuses_what_it_cannot_link():
    with pytest.raises(ValueError, match="at least one history with a metric, got 0"):
        figures.explorer([], y_title="accuracy")
    with pytest.raises(ValueError, match=r"one value for each of 4 epochs of 'MAML, glyphs', got \{'curvature': 2\}"):
        figures.explorer([history("MAML", "glyphs", curvature=[1, 2])], y_title="accuracy")
