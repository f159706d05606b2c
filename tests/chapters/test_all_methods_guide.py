"""All methods side by side, from records made up: the table, its chart, and the guide that records write."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mlkit import figures
from mlkit.chapters import all_methods_guide, all_methods_table
from mlkit.chapters.all_methods_settings import DESCENT, MEASURES, Setting
from mlkit.chapters.pairs import Gain
from mlkit.evaluation import Summary
from mlkit.stored import write

GLYPHS = Setting("glyphs", 1, "small", 0.05, 4, 2, 2)
PHOTOS = replace(GLYPHS, data="cifar_fs", shots=5)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_count = itertools.count()


def made_up(folder, setting: Setting, method: str, scores: np.ndarray, *, features: float = 0.0, **changed: Any):
    """Store a record that never ran: test scores (tasks,), one second a step, validation rising 0.2, 0.4, 0.6."""
    learns = method != "from scratch"
    kept = {
        "mean": float(scores.mean()), "ci95": 0.01, "feature_seconds": features, "tasks_hash": "a",
        "iteration_seconds": 1.0 if learns else None, "iteration_bytes": 2**20 if learns else None,
        "adapt_seconds": 0.002, "trajectory_cosine": {"value": float(scores.mean()) ** 2, "low": 0.1, "high": 0.3},
    }  # fmt: skip
    body = {
        "unit": "all_methods", "name": "made-up", "key": f"{next(_count):064d}", "scores": kept | changed, "data": {},
        "settings": {"method": method, "outer": {"iterations": 20 if learns else 0, "meta_batch": 4}, "seeds": [0]},
        "evidence": {"seconds": 60.0, "hardware": {"gpu": None, "cores": 2, "cpu": "a core"}},
    }  # fmt: skip
    history = {"history_iteration": np.array([0, 10, 20]), "history_validation": np.array([[0.2], [0.4], [0.6]])}
    arrays = {"test_scores": scores[None]} | (history if learns else {})
    return write(body, arrays, folder / f"made-up-{body['key'][-8:]}.json")


BASE = np.random.default_rng(0).uniform(0.4, 0.6, 50)
NOISE = np.random.default_rng(1).normal(0, 0.1, 50)
EVEN = BASE + NOISE - NOISE.mean()


def test_the_table_holds_what_the_records_say(tmp_path):
    given = {"MAML": {}, "LEO": {"features": 15.0}, "from scratch": {}, "FOMAML": {"iteration_seconds": 0.5}}
    records = {(GLYPHS, method): made_up(tmp_path, GLYPHS, method, BASE, **more) for method, more in given.items()}

    def value(method: str, name: str) -> float | None:
        return all_methods_table.number(records, GLYPHS, method, name).value

    assert [value(method, "training") for method in given] == [20, 35, 0, 10]
    assert all_methods_table.equal_time(records, GLYPHS) == 10
    assert value("FOMAML", "at_equal_time") == pytest.approx(60) and value("MAML", "at_equal_time") == pytest.approx(40)
    assert value("LEO", "at_equal_time") is None and value("from scratch", "memory") is None
    cell = all_methods_table.number(records, GLYPHS, "MAML", "accuracy").cell
    assert cell.text == f"{100 * BASE.mean():.1f} ± 1" and cell.value == pytest.approx(100 * BASE.mean())
    assert all_methods_table.number(records, GLYPHS, "MAML", "iteration").cell.text == "1,000 (4)"
    assert "no common point" in all_methods_table.number(records, GLYPHS, "LEO", "gradient_cosine").cell.why
    assert "too few methods" in all_methods_table.relations(records).data
    assert "4 trainings" in all_methods_table.cost(records).data
    view = all_methods_table.view(records)
    assert len(view.figure.data) == 4 == view.table.count("<tr>") - 1
    assert all(measure.title in view.table for measure in MEASURES.values())
    wide = {(GLYPHS, m): made_up(tmp_path, GLYPHS, m, BASE + 0.05 * k) for k, m in enumerate(DESCENT)}
    assert "R = 1.00" in all_methods_table.relations(wide).data, "the cosine was made from accuracy"


def advice(records, question) -> str:
    return all_methods_guide.choose(records, question).take


def test_more_settings_ask_for_more():
    found = Gain(Summary(1.0, 0.9, 100), Summary(1.0, float("nan"), 1))
    assert [found.is_there_among(settings) for settings in (1, 4)] == [True, None]
    seeds = Gain(Summary(1.0, 0.1, 100), Summary(1.0, 0.9, 3))  # 4.30 instead of 1.96 for three
    assert seeds.is_there_among(1) is None


def test_the_guide_says_what_the_records_say_and_turns_with_them(tmp_path):
    question = all_methods_guide.Question("Which?", "MAML", "FOMAML")

    def records(one: np.ndarray, five: np.ndarray, **more: Any):
        made = {(GLYPHS, "MAML"): one, (PHOTOS, "MAML"): five, (GLYPHS, "FOMAML"): BASE, (PHOTOS, "FOMAML"): BASE}
        return {
            (s, m): made_up(tmp_path, s, m, scores, **(more if m == "FOMAML" else {}))
            for (s, m), scores in made.items()
        }

    assert advice(records(BASE + 0.1, BASE + 0.2), question) == f"MAML for {GLYPHS}; {PHOTOS}"
    assert advice(records(BASE + 0.1, EVEN), question) == f"MAML for {GLYPHS}"
    assert advice(records(EVEN, BASE - 0.1), question) == f"FOMAML for {PHOTOS}"
    assert advice(records(BASE + 0.1, BASE - 0.1), question) == f"MAML for {GLYPHS}. FOMAML for {PHOTOS}"
    cheap = records(EVEN, EVEN, iteration_seconds=0.5)
    assert advice(cheap, question) == "not told apart: FOMAML, which costs less"
    assert "2 × the training time" in all_methods_guide.choose(cheap, question).because
    assert advice(records(EVEN, EVEN, iteration_seconds=2.0), question) == "not told apart: MAML, which costs less"
    assert all_methods_guide.choose(cheap, question._replace(more="LEO")) is None
    assert all_methods_guide.guide(cheap).data.count("\n") == 2, "one question is about these two"
    found = list(all_methods_guide.needs(records(BASE + 0.1, EVEN, iteration_bytes=1), GLYPHS))
    assert [each.take for each in found if each.asks in ("accuracy alone", "memory in training")] == ["MAML", "MAML"]
    near = records(EVEN, EVEN, iteration_bytes=1)
    assert {each.take for each in all_methods_guide.needs(near, GLYPHS) if "memory" in each.asks} == {"FOMAML"}


def choices() -> list[figures.Choice]:
    words = {"is_words": True}
    rows = [
        ("MAML", "first", 60, 3),
        ("FOMAML", "first", 55, None),
        ("ANIL", "first", 50, 2),
        ("MAML", "second", 70, 1),
    ]
    found = []
    for method, group, score, cost in rows:
        time = figures.Cell("–", why="no time") if cost is None else figures.Cell(str(cost), cost)
        cells = [figures.Cell(method, **words), figures.Cell(group, **words), figures.Cell(str(score), score), time]
        found.append(figures.Choice(method, group, score, 1.0, cells, {"seconds": cost, "accuracy": score}))
    return found


COLUMNS = [
    figures.Column("method"),
    figures.Column("setting"),
    figures.Column("score", descending=True),
    figures.Column("seconds"),
]


def test_a_linked_view_is_a_chart_and_its_table(monkeypatch):
    view = figures.linked(choices(), COLUMNS, y_title="accuracy", log=["seconds"])
    figure = view.figure
    assert [trace.visible for trace in figure.data] == [True, True, True, False]
    assert [list(trace.x) for trace in figure.data] == [[3.0], [None], [2.0], [1.0]]
    assert figure.layout.xaxis.type == "log" and f'id="{figure.layout.meta}"' in view.table
    quantity, group = figure.layout.updatemenus
    assert [button.label for button in quantity.buttons] == ["seconds", "accuracy"]
    assert quantity.buttons[1].args[1]["xaxis.type"] == "linear" and group.buttons[1].args[0]["visible"][-1]
    every = {"visible": [True] * 4, "showlegend": [True, True, True, False]}
    assert group.buttons[2].label == "all settings" and dict(group.buttons[2].args[0]) == every
    page = figures.as_linked_html(view, alt="What is drawn", caption="Where it is from")
    order = [page.index(each) for each in ('role="img"', "<table>", "<figcaption>")]
    assert order == sorted(order) and page.count("<figure") == 1
    assert '<abbr title="no time">–</abbr>' in view.table and "http" not in view.table
    with pytest.raises(ValueError, match="expected rows of 4 cells, got no row"):
        figures.sortable(COLUMNS, [], words="nothing")
    with pytest.raises(ValueError, match="expected choices with the same quantities"):
        figures.linked([*choices(), replace(choices()[0], quantities={})], COLUMNS, y_title="accuracy")


def test_curves_have_times_of_their_own():
    curves = {"MAML": ([0, 1, 2], [20, 30, 40]), "FOMAML": ([0, 5], [20, 50])}
    figure = figures.clock_curves(curves, x_title="seconds", y_title="%", mark=2.0)
    assert [list(trace.x) for trace in figure.data] == [[1, 2], [5]], "time 0 has no place on the axis"
    assert figure.layout.shapes[0].x0 == 2.0


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium or Chrome: apt install chromium")
def test_keys_sort_the_table_and_a_row_marks_its_point(tmp_path, monkeypatch):
    from playwright.sync_api import sync_playwright

    view = figures.linked(choices(), COLUMNS, y_title="accuracy", log=["seconds"])
    page = figures.as_linked_html(view, alt="What is drawn", caption="Where it is from")
    monkeypatch.delenv("MLKIT_ROOT", raising=False)
    file = figures.export(tmp_path / "page.html", page, title="All methods")
    rows = "[...document.querySelectorAll('tbody tr:not([hidden]) th')].map(cell => cell.textContent)"
    marked = "document.querySelector('.chart').data.map(trace => trace.selectedpoints ?? null)"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page(viewport={"width": 360, "height": 900})
        errors: list[str] = []
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.goto(file.as_uri())
        tab.wait_for_function(f"{rows}.length === 3")
        tab.get_by_role("button", name="score").press("Enter")
        assert tab.evaluate(rows) == ["MAML", "FOMAML", "ANIL"]
        tab.get_by_role("button", name="seconds").press("Enter")
        assert tab.evaluate(rows) == ["ANIL", "MAML", "FOMAML"], "what is missing comes last"
        tab.get_by_role("button", name="seconds").press("Enter")
        assert tab.evaluate(rows) == ["MAML", "ANIL", "FOMAML"]
        tab.get_by_role("button", name="ANIL").press("Enter")
        tab.wait_for_function(f"JSON.stringify({marked}) === '[[],[],[0],[]]'")
        assert "method: ANIL; setting: first; score: 50" in tab.locator("output").text_content()
        tab.get_by_role("combobox", name="setting").select_option(label="second")
        tab.wait_for_function(f"{rows}.join() === 'MAML'")
        tab.get_by_role("combobox", name="setting").select_option(label="all settings")
        tab.wait_for_function(f"{rows}.length === 4")
        assert tab.evaluate("document.documentElement.scrollWidth") <= 360 and errors == []
        browser.close()
