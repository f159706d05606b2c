"""Chromium moves the explorers of the published page through every position, and compares each with the records."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest

from mlkit.chapters.searches import as_search
from mlkit.figures import Search
from mlkit.records import shipped
from tests.browser.moving import PATIENCE, close, milliseconds, shown
from tests.browser.test_pages_in_a_browser import CHROMIUM, Visit, browser  # noqa: F401
from tests.conftest import ROOT

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium or Chrome: apt install chromium"),
]
PAGE = "units/update_hyperparameters"
AT = """([chart, label, first]) => Math.abs([...document.querySelectorAll('.js-plotly-plot')][chart]._fullData
    .find(trace => trace.visible && trace.name === label)?.y[0] - first) <= 1e-3 * Math.abs(first)"""
CHOSEN = "chooser => chooser.selectedOptions[0].text"
LARGEST = 1_500_000  # bytes of the page, beyond the Plotly file that all pages share


@pytest.fixture(scope="module")
def visit(browser, site):  # noqa: F811
    with Visit(browser, site, PAGE) as visit:
        visit.tab.set_default_timeout(PATIENCE)
        yield visit


def explorers(tab, words: str) -> list[tuple[str, int]]:
    """Return setting and number among all charts of those whose description has these words."""
    said = tab.evaluate(
        "[...document.querySelectorAll('.js-plotly-plot')].map(chart => chart.closest('figure.mlkit')"
        ".querySelector('[role=img]').getAttribute('aria-label'))"
    )
    found = [(alt.partition(":")[0], number) for number, alt in enumerate(said) if words in alt]
    assert found, f"expected a figure described by {words!r}"
    return found


def figure_of(tab, chart: int):
    """Return the figure around a chart."""
    return tab.locator("figure.mlkit").filter(has=tab.locator(".js-plotly-plot")).nth(chart)


def searched(setting: str, method: str, shots: str) -> Search:
    """Return a search from the records that ship; the setting reads "shapes, 64 px"."""
    words = f"search {method} {setting.removesuffix(' px')} {shots}"
    stem = re.sub("[^a-z0-9]+", "-", words.lower().replace("*", " star"))
    (record,) = [record for record in shipped("update_hyperparameters", ROOT) if record.name == stem]
    return as_search(record, f"{method}, {shots}", scale=100)


def every(figure) -> Iterator[tuple[str, str]]:
    """Choose each search of an explorer in turn: initialization and shots."""
    choosers = [figure.get_by_role("combobox", name=name) for name in ("initialization", "shots")]
    options = [chooser.locator("option").all_text_contents() for chooser in choosers]
    for chosen in product(*options):
        for chooser, option in zip(choosers, chosen, strict=True):
            chooser.select_option(label=option)
        if chosen == tuple(chooser.evaluate(CHOSEN) for chooser in choosers):  # not all were searched
            yield chosen


def test_every_position_of_every_slider_shows_the_records(visit):
    for setting, chart in explorers(visit.tab, "a slider goes from trial to trial"):
        figure = figure_of(visit.tab, chart)
        slider, seen = figure.get_by_role("slider", name="trials"), set()
        for method, shots in every(figure):
            search = searched(setting, method, shots)
            seen.add((method, shots))
            slider.press("End")
            for count in range(len(search.scores), 0, -1):
                drawn = shown(visit.tab, chart, "trials", count)
                close(drawn["x"], search.values[:count])
                close(drawn["y"], search.scores[:count])
                close(shown(visit.tab, chart, "Gaussian process", len(search.grid))["y"], search.mean[count - 1])
                gain = shown(visit.tab, chart, "expected improvement", len(search.grid))
                close(gain["y"], search.improvement[count - 1])
                slider.press("ArrowLeft")
        assert len({method for method, _ in seen}) == 3 and {shots for _, shots in seen} == {"1-shot", "5-shot"}


def test_the_slider_over_steps_shows_the_records(visit):
    for setting, chart in explorers(visit.tab, "heat map"):
        figure = figure_of(visit.tab, chart)
        slider, chosen = figure.get_by_role("slider", name="inner steps"), list(every(figure))
        assert len(chosen) > 3
        for method, shots in every(figure):
            search = searched(setting, method, shots)
            order, label = np.argsort(search.values), search.label
            slider.press("Home")
            for steps in range(1, search.curves.shape[1]):
                expected = search.curves[order, steps]
                visit.tab.wait_for_function(AT, arg=[chart, label, float(expected[0])])
                close(shown(visit.tab, chart, label, len(order))["y"], expected)
                slider.press("ArrowRight")


def test_a_move_answers_at_once(visit):
    for words in ("a slider goes from trial to trial", "heat map"):
        for _, chart in explorers(visit.tab, words):
            assert milliseconds(visit.tab, figure_of(visit.tab, chart)) < 100


def test_the_page_is_small(site):
    assert (site / f"{PAGE}.html").stat().st_size < LARGEST
