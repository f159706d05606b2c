"""Maps of codes: what is drawn, what the slider moves, what the colors tell."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import pytest

from mlkit.figures import code_maps

NAMES = ["a", "b", "a", "c"]
PLACES = {name: scale * np.arange(24.0).reshape(3, 4, 2) for name, scale in (("t-SNE", 1.0), ("PCA", 10.0))}


def moved_to(figure: go.Figure, args: list) -> go.Figure:
    """Apply what a control does."""
    figure = go.Figure(figure)
    change, *traces = args
    figure.plotly_restyle(change, *traces)
    return figure


def drawn(figure: go.Figure) -> dict[tuple[str, str], list[list[float]]]:
    """Return the visible codes by side and class."""
    return {
        (trace.legendgroup, trace.name): [list(trace.x), list(trace.y)] for trace in figure.data[2:] if trace.visible
    }


def test_every_map_is_drawn_in_its_own_frame():
    figure = code_maps(PLACES, NAMES)
    menu = figure.layout.updatemenus[0]
    assert [trace.name for trace in figure.data[:2]] == ["encoder's codes", "adapted codes"]
    for (name, places), button in zip(PLACES.items(), menu.buttons, strict=True):
        shown, frame = button.args
        found = drawn(moved_to(figure, [shown]))
        assert button.label == name and len(found) == 6
        for side, stage in (("encoder's codes", 0), ("adapted codes", 2)):
            assert found[side, "a"] == places[stage][[0, 2]].T.tolist()
        for axis, index in (("x", 0), ("y", 1)):
            low, high = frame[f"{axis}axis.range"]
            assert low < places[..., index].min() and places[..., index].max() < high
    assert drawn(figure) == drawn(moved_to(figure, [menu.buttons[0].args[0]])), "the first is shown at first"
    assert list(figure.layout.xaxis.range) == menu.buttons[0].args[1]["xaxis.range"]


def test_the_slider_moves_adapted_codes_alone():
    figure = code_maps(PLACES, NAMES)
    (slider,) = figure.layout.sliders
    assert slider.active == 2 and [step.label for step in slider.steps] == ["0", "1", "2"]
    for stage, step in enumerate(slider.steps):
        found = moved_to(figure, step.args)
        for number, places in enumerate(PLACES.values()):
            for k, name in enumerate("abc"):
                still, moving = (found.data[2 + 6 * number + side + k] for side in (0, 3))
                here = [index for index, each in enumerate(NAMES) if each == name]
                assert (still.legendgroup, still.name) == ("encoder's codes", name)
                assert [list(still.x), list(still.y)] == places[0][here].T.tolist()
                assert [list(moving.x), list(moving.y)] == places[stage][here].T.tolist()
    assert code_maps({"PCA": PLACES["PCA"][[0, 2]]}, NAMES).layout.sliders == ()


def test_colors_tell_the_stage_all_classes_or_one():
    figure = code_maps(PLACES, NAMES)
    stage, classes, *single = figure.layout.updatemenus[1].buttons
    assert [button.label for button in single] == ["a", "b", "c"]

    def colors(button) -> dict[tuple[str, str], tuple[str, float]]:
        traces = moved_to(figure, button.args).data[2:]
        return {(trace.legendgroup, trace.name): (trace.marker.color, trace.marker.opacity) for trace in traces}

    def told(found, **which) -> set[str]:
        return {color for (side, name), (color, _) in found.items() if (side, name)[which["by"]] == which["value"]}

    by_stage, by_class = colors(stage), colors(classes)
    sides = [told(by_stage, by=0, value=side) for side in ("encoder's codes", "adapted codes")]
    kinds = [told(by_class, by=1, value=name) for name in "abc"]
    assert all(len(each) == 1 for each in sides + kinds)
    assert len(set.union(*sides)) == 2 and len(set.union(*kinds)) == 3
    only = colors(single[1])
    faint = {opacity for (_, name), (_, opacity) in only.items() if name != "b"}
    assert max(faint) < 0.2 and [only[side, "b"] for side in ("encoder's codes", "adapted codes")] == [
        (*side, 1.0) for side in sides
    ]


def test_maps_that_do_not_fit_their_codes_are_refused():
    message = r"expected maps of one shape \(stages, 3 codes, 2\) with at least 2 stages, got .*'PCA': \(3, 4, 2\)"
    with pytest.raises(ValueError, match=message):
        code_maps(PLACES, NAMES[:3])
    with pytest.raises(ValueError, match="at least 2 stages"):
        code_maps({"PCA": PLACES["PCA"][:1]}, NAMES)
