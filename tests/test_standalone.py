"""A question to the reader, and a file that holds figures and needs nothing else."""

from __future__ import annotations

import plotly.graph_objects as go
import pytest
from bs4 import BeautifulSoup

from mlkit.figures import Question, as_html, as_question, ask, export

QUESTION = Question("Is 1 < 2?", ["Yes", "No & never"], "Yes", "One is <less>.")
FIGURE = as_html(go.Figure(layout={"height": 300}), alt="nothing </script> at all", caption="An empty figure.")


def test_a_question_names_its_choices_and_hides_its_answer():
    page = BeautifulSoup(as_question(QUESTION), "html.parser")
    assert page.legend.get_text() == "Is 1 < 2?"
    assert [label.get_text().strip() for label in page.select("label:has(input[type=radio])")] == ["Yes", "No & never"]
    (group,) = {choice["name"] for choice in page.select("input")}
    assert group not in as_question(Question("Another?", ["a", "b"], "b", "Because.")), "questions of a page are apart"
    assert not page.details.has_attr("open")
    assert page.details.summary.get_text() == "Show the answer"
    assert page.details.p.get_text() == "Yes. One is <less>."


def test_a_question_is_displayed(monkeypatch):
    said = []
    monkeypatch.setattr("mlkit.figures.questions.display", said.append)
    ask(QUESTION)
    assert said[0].data == as_question(QUESTION)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"choices": ["Yes"]}, "two different choices or more"),
        ({"choices": ["Yes", "Yes"]}, "two different choices or more"),
        ({"answer": "Perhaps"}, "an answer out of"),
        ({"why": " "}, "words that ask and explain"),
    ],
)
def test_half_a_question_is_refused(changes, message):
    kept = {"words": "Is it?", "choices": ["Yes", "No"], "answer": "Yes", "why": "So."}
    with pytest.raises(ValueError, match=message):
        Question(**kept | changes)


def test_the_page_carries_its_scripts_and_styles(tmp_path):
    path = export(tmp_path / "folder" / "one.html", as_question(QUESTION), FIGURE, title="A <small> page")
    page = BeautifulSoup(path.read_text(), "html.parser")
    assert page.title.get_text() == page.h1.get_text() == "A <small> page"
    assert not page.select("[src], link")
    assert (
        len(page.select("body > script")) == 4 and page.select_one("main figure.mlkit") and page.select_one(".predict")
    )
    assert "SURFACE_" not in str(page.style) and "INK_" not in str(page.style)


def test_nothing_to_export_and_a_missing_project_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="expected at least one figure to export"):
        export(tmp_path / "none.html", title="Nothing")
    monkeypatch.setenv("MLKIT_ROOT", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"expected the book's book.js at .*name the project's folder"):
        export(tmp_path / "none.html", FIGURE, title="Nothing")
    assert not list(tmp_path.glob("*.html"))
