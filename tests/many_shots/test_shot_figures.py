"""Figures over the number of shots draw what they were given, on a logarithmic axis."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mlkit.figures.curves import Series
from mlkit.figures.shots import shots_curves, shots_gains
from mlkit.many_shots import gains
from mlkit.tasks.many_shots import SHOTS


def test_panels_share_a_logarithmic_axis_with_the_measured_numbers_as_ticks():
    value = np.linspace(30, 60, len(SHOTS))
    series = {"FOMAML*": Series(value, value - 2, value + 2), "joint-trained": Series(value - 5)}
    figure = shots_curves({"left": series, "right": series}, SHOTS)
    for axis in (figure.layout.xaxis, figure.layout.xaxis2):
        assert axis.type == "log" and tuple(axis.tickvals) == SHOTS
        assert 10 ** axis.range[0] < 1 and 10 ** axis.range[1] > 400
    assert figure.layout.xaxis2.title.text == "labeled pictures" and figure.layout.xaxis.title.text is None
    lines = [trace for trace in figure.data if trace.mode == "lines+markers"]
    assert len(lines) == 4 and all(np.array_equal(trace.x, SHOTS) for trace in lines)
    assert np.array_equal(lines[0].y, value) and sum(trace.showlegend is not False for trace in lines) == 2


def test_gains_show_intervals_and_where_others_match():
    fall = np.linspace(0.3, -0.1, len(SHOTS)) + 0.02 * np.random.default_rng(0).normal(size=(5, 4, len(SHOTS)))
    zero = np.zeros_like(fall)
    found = {"joint-trained": gains(fall, zero, SHOTS), "transfer (encoder alone)": gains(fall + 1, zero, SHOTS)}
    figure = shots_gains(found, y_title="gain in IoU")
    assert figure.layout.xaxis.type == "log" and figure.layout.yaxis.title.text == "gain in IoU"
    line, bar, _, beyond = figure.data
    one = found["joint-trained"]
    np.testing.assert_allclose(line.y, one.value)
    np.testing.assert_allclose(line.y + line.error_y.array, one.high)
    np.testing.assert_allclose(line.y - line.error_y.arrayminus, one.low)
    assert bar.x[0] == one.matched.value and bar.y[0] == 0.01 and str(one) in bar.hovertext
    assert bar.x[0] + bar.error_x.array[0] == pytest.approx(one.matched.high)
    assert math.isinf(found["transfer (encoder alone)"].matched.value)
    assert beyond.x[0] == pytest.approx(10 ** figure.layout.xaxis.range[1]) and beyond.error_x.array[0] == 0
    assert "more than 400" in beyond.hovertext
    other = gains(fall[:, :, :3], zero[:, :, :3], SHOTS[:3])
    for wrong in ({}, found | {"from scratch": other}):
        with pytest.raises(ValueError, match="expected gains at the same numbers of shots"):
            shots_gains(wrong, y_title="gain")
