"""Figures: what they draw is what they were given, and none goes out without words."""

from __future__ import annotations

import json
import re

import numpy as np
import plotly.graph_objects as go
import pytest

from mlkit import drawings, figures

X = np.linspace(-5, 5, 21)


def shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, figure: go.Figure | str) -> str:
    """Return the HTML that `show` puts on a page."""
    pages: list[str] = []
    monkeypatch.setenv("MLKIT_BOOK", "1")
    monkeypatch.setattr(figures.page, "display", lambda *parts: pages.extend(part.data for part in parts))
    figures.show(figure, alt='two "curves"', caption="MSE < 1 over 2 runs")
    return "".join(pages)


def test_a_shown_figure_carries_its_data_and_its_words(capsys, monkeypatch):
    figure = figures.learning_curves({"MAML": np.array([[3.0, 1.0], [5.0, 2.0]])}, [0, 10], y_title="</script>")
    page = shown(capsys, monkeypatch, figure)
    data = json.loads(re.search(r'<script type="application/json">(.*?)</script>', page).group(1))
    assert data["layout"]["yaxis"]["title"]["text"] == "</script>"
    assert "template" not in data["layout"], "the page supplies the template"
    assert 'aria-label="two &quot;curves&quot;"' in page
    assert "<figcaption>MSE &lt; 1 over 2 runs</figcaption>" in page


@pytest.mark.parametrize("missing", ["alt", "caption"])
def test_a_figure_without_words_is_refused(missing):
    words = {"alt": "a line", "caption": "2 runs"} | {missing: " "}
    with pytest.raises(ValueError, match=f"expected {missing} to say"):
        figures.show(go.Figure(), **words)


def test_learning_curves_draw_mean_and_range_over_runs():
    figure = figures.learning_curves({"MAML": np.array([[3.0, 1.0], [5.0, 2.0]])}, [0, 10], y_title="MSE")
    band, line = figure.data
    np.testing.assert_allclose(line.y, [4.0, 1.5])
    np.testing.assert_allclose(band.y, [5.0, 2.0, 1.0, 3.0])


def test_learning_curves_draw_the_interval_over_runs():
    runs = np.array([[3.0], [5.0]])
    band = figures.learning_curves({"MAML": runs}, [0], y_title="MSE", band="ci95").data[0]
    half = 1.96 * runs.std(ddof=1) / np.sqrt(2)
    np.testing.assert_allclose(band.y, [4 + half, 4 - half])


def test_learning_curves_refuse_a_curve_of_another_length():
    with pytest.raises(ValueError, match="expected 3 points in curve 'MAML', got 2"):
        figures.learning_curves({"MAML": np.ones((1, 2))}, [0, 1, 2], y_title="MSE")


def test_the_slider_moves_every_method_to_the_same_step():
    predictions = {"MAML": np.outer([0.0, 1.0, 2.0], X), "Reptile": np.outer([3.0, 4.0, 5.0], X)}
    figure = figures.sine_adaptation(X, np.sin(X), support=(X[:5], np.sin(X[:5])), predictions=predictions)
    (slider,) = figure.layout.sliders
    assert [step.label for step in slider.steps] == ["0", "1", "2"]
    update, traces = slider.steps[2].args
    assert [figure.data[trace].name for trace in traces] == ["MAML", "Reptile"]
    np.testing.assert_allclose(update["y"], [2 * X, 5 * X])


def test_the_slider_needs_equally_many_steps():
    with pytest.raises(ValueError, match=r"equally many steps for every method, got \{'MAML': 1, 'Reptile': 2\}"):
        predictions = {"MAML": np.ones((1, 21)), "Reptile": np.ones((2, 21))}
        figures.sine_adaptation(X, X, support=(X, X), predictions=predictions)


def test_score_bars_draw_ours_and_the_papers():
    bars = [figures.Bar("MAML, T = 1", 0.67, 0.02, paper=0.7, paper_ci95=0.01), figures.Bar("Reptile", 1.1)]
    ours, other, paper = figures.score_bars(bars, x_title="MSE").data
    assert (ours.x, ours.y, ours.error_x.array) == ((0.67,), ("MAML, T = 1",), (0.02,))
    assert (other.x, other.y) == ((1.1,), ("Reptile",))
    assert (paper.x, paper.y, paper.error_x.array) == ((0.7,), ("MAML, T = 1",), (0.01,))


def test_the_distribution_passes_one_half_at_the_median():
    scores = np.random.default_rng(0).exponential(size=500)
    (line,) = figures.score_distribution({"MAML": scores}, x_title="MSE").data
    assert np.interp(np.median(scores), line.x, line.y) == pytest.approx(0.5)


def test_costs_are_seconds_and_mebibytes():
    cost = figures.Cost([1, 4], [2.0, 1.0], [2**20, 2**22])
    seconds, memory = figures.cost_curves({"MAML": cost}).data
    assert (list(seconds.y), list(memory.y), list(memory.x)) == ([2.0, 1.0], [1.0, 4.0], [1, 4])


def test_the_gallery_keeps_every_pixel_in_its_place():
    rng = np.random.default_rng(0)
    support, query = rng.random((3, 2, 8, 8)).round(2), rng.random((3, 4, 8, 8)).round(2)
    (mosaic,) = figures.task_gallery(support, query).data
    assert mosaic.z.shape == (3 * 12, 7 * 12)
    np.testing.assert_allclose(mosaic.z[12 + 2 : 24 - 2, 12 + 2 : 24 - 2], support[1, 1])
    np.testing.assert_allclose(mosaic.z[24 + 2 : 36 - 2, 3 * 12 + 2 : 4 * 12 - 2], query[2, 0])


@pytest.mark.parametrize("drawing", [drawings.task, drawings.two_loops, drawings.orders, drawings.landscape_metrics])
def test_drawings_take_the_color_of_the_text(drawing, capsys, monkeypatch):
    svg = drawing()
    assert svg.startswith("<svg") and "currentColor" in svg
    assert "black" not in svg and "http" not in svg.replace("http://www.w3.org/2000/svg", "")
    assert svg in shown(capsys, monkeypatch, svg)
