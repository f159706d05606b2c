"""The papers' rows, what may be called a reproduction, and the table of both."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from mlkit import papers, status
from mlkit.cli import main
from mlkit.papers import AnswerError, judged, verdict
from mlkit.records import Result, Unit
from mlkit.stored import write

OMNIGLOT = "003/text/Omniglot-20-way-1-shot/MAML-second-order/target_accuracy"
KEYS = "source, item, setting, method, dataset, stand_in, metric, paper, ours, ci95, tasks, seeds, verdict, record"


@pytest.fixture
def top(tmp_path, monkeypatch):
    monkeypatch.setenv("MLKIT_ROOT", str(tmp_path))
    monkeypatch.delenv("MLKIT_RECORDS", raising=False)
    return tmp_path


def answer(unit: Unit, name: str, *, stand_in: bool = False, **answered) -> None:
    result = Result(scores={}, data={"data": "x", "stand_in": stand_in}, answers=[answered])
    unit.record(name, {}, lambda work: result)


def test_every_row_of_the_papers_is_there():
    rows = papers.rows()
    counts = Counter((row.source, row.item.split(" ")[0], row.item.split(" ")[-1]) for row in rows.values())
    tables = {
        "000": {"1": 4, "2a": 7, "2b": 10, "3": 9, "4": 8, "5": 5, "6": 5, "text": 12},
        "002": {"3.1": 36, "3.2": 24, "3.3": 12, "3.4": 36, "3.5": 24, "text": 3},
        "003": {"text": 4},
        "004": {"1": 28, "2": 4},
    }
    for source, items in tables.items():
        for item, count in items.items():
            assert counts[(source, "text" if item == "text" else "Table", item)] == count, (source, item)
    figures = {
        (row.source, re.match(r"Figure (\d+(\.\d)?)", row.item)[1])
        for row in rows.values()
        if row.item.startswith("Fig")
    }
    expected = {"000": [f"{n}" for n in range(1, 8)], "002": ["3.1", "3.2", "3.3", "3.4"], "004": ["1", "2"]}
    expected["003"] = [f"{n}" for n in range(1, 16)]
    assert figures == {(source, figure) for source, numbers in expected.items() for figure in numbers}


def test_rows_hold_what_the_papers_print():
    row = papers.row("002/T3.1/miniImageNet/5-way-1-shot/TURTLE")
    assert (row.unit, row.ci95, row.better) == ("fraction", 0.01, "higher")
    assert papers.row("004/T1/miniImageNet/5-way-1-shot/MAML-Finn-et-al.-2017").value == 48.70
    assert papers.row("000/T6/aeroplane").value == "airliner"
    assert papers.row("003/F12a").value is None
    assert papers.row("000/T4/1-shot/FOMAML*/learning-rate").rounding == pytest.approx(0.5e-6)
    assert papers.row("002/F3.3").better == "lower"
    with pytest.raises(AnswerError, match="did you mean '003/F12a'"):
        papers.row("003/F12aa")


def test_ids_are_readable_and_tell_their_paper():
    for identity, row in papers.rows().items():
        assert re.fullmatch(r"00[0234]/(T[\w.]+|F[\w.-]+|text)(/[\w.*+-]+)*", identity), identity
        assert identity.startswith(f"{row.source}/")


@pytest.mark.parametrize(
    ("expected", "paper", "ours", "given"),
    [
        ("reproduced", 0.50, 0.49, {"ci95": 0.01}),
        ("reproduced", 0.50, 0.487, {"ci95": 0.01, "paper_ci95": 0.01}),  # sqrt(2) * 0.01 > 0.013
        ("not reached", 0.50, 0.48, {"ci95": 0.01, "paper_ci95": 0.01}),
        ("reproduced", 0.50, 0.496, {"rounding": 0.005}),
        ("not reached", 0.50, 0.496, {}),
        ("reproduced", 0.50, 0.9, {}),
        ("not reached", 0.50, 0.9, {"better": "lower"}),
        ("reproduced", 0.50, 0.1, {"better": "lower"}),
        ("not reached", 5, 6, {"better": "equal"}),
        ("same direction", 0.50, 0.3, {"same_direction": True}),
        ("reproduced", 0.50, 0.9, {"same_direction": True}),
        ("other data", 0.50, 0.9, {"stand_in": True, "same_direction": True}),
        ("same direction", None, 0.9, {"same_direction": True}),
        ("not reached", None, 0.9, {}),
        ("not reached", 0.5, None, {}),
    ],
)
def test_verdicts(expected, paper, ours, given):
    assert verdict(paper, ours, **given) == expected


def test_a_stand_in_is_never_called_a_reproduction():
    with pytest.raises(AnswerError, match="expected the verdict 'other data' for a stand-in, got 'reproduced'"):
        judged({"id": OMNIGLOT, "value": 99.0, "verdict": "reproduced"}, data={"stand_in": True})
    assert judged({"id": OMNIGLOT, "value": 99.0}, data={"stand_in": True})["verdict"] == "other data"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"id": OMNIGLOT, "value": 101.0}, r"expected a percent in \[0, 100\], got 101"),
        ({"id": "002/T3.1/CUB/5-way-1-shot/MAML", "value": 53.0}, r"expected a fraction in \[0, 1\], got 53"),
        ({"id": OMNIGLOT}, "expected an answer with id and value"),
        ({"id": OMNIGLOT, "value": 94.0, "ci": 0.1}, "unknown key 'ci'.*did you mean 'ci95'"),
        ({"id": OMNIGLOT, "value": 94.0, "verdict": "reproducd"}, "did you mean 'reproduced'"),
        ({"id": "003/F12a", "value": None}, "prints no number: expected a verdict"),
    ],
)
def test_wrong_answers_stop(wrong, message):
    with pytest.raises(AnswerError, match=message):
        judged(wrong, data={"stand_in": False})


def test_without_records_every_row_is_empty(top):
    rows = status.rows()
    assert len(rows) == len(papers.rows())
    for row in rows:
        assert ", ".join(row.as_dict()) == KEYS
        assert row.as_dict()["verdict"] is row.as_dict()["ours"] is row.as_dict()["record"] is None


def test_the_best_answer_counts(top):
    unit = Unit("images")
    answer(unit, "stand-in", stand_in=True, id=OMNIGLOT, value=99.0, seeds=9, tasks=9000)
    answer(unit, "small", id=OMNIGLOT, value=90.0, ci95=0.5, seeds=2, tasks=100)
    answer(unit, "large", id=OMNIGLOT, value=94.0, ci95=0.2, seeds=5, tasks=600)
    (row,) = (row for row in status.rows() if row.row.id == OMNIGLOT)
    found = row.as_dict()
    assert (found["ours"], found["ci95"], found["seeds"], found["tasks"]) == (94.0, 0.2, 5, 600)
    assert (found["paper"], found["verdict"], found["stand_in"]) == (94.05, "reproduced", False)
    assert (top / found["record"]).is_file()
    small = next(record for record in unit.used if record.name == "small")
    write(small.body, {}, top / "book/records/images" / small.path.name)  # what ships is what the book shows
    (row,) = (row for row in status.rows() if row.row.id == OMNIGLOT)
    assert row.as_dict()["ours"] == 90.0
    assert row.as_dict()["record"].startswith("book/records/images/small-")


def test_an_answer_to_no_row_names_record_and_nearest_id(top):
    unit = Unit("images")
    answer(unit, "real", id=OMNIGLOT, value=94.0)
    record = unit.used[0]
    body = {**record.body, "answers": [record.answers[0] | {"id": OMNIGLOT.replace("MAML", "MAM")}]}
    write(body, {}, record.path)
    with pytest.raises(AnswerError, match=rf"runs/images/{record.path.name}: unknown row .*did you mean '{OMNIGLOT}'"):
        status.rows()


@pytest.mark.parametrize("columns", [80, 120, 200])
def test_the_table_fits_the_terminal(top, capsys, monkeypatch, columns):
    answer(Unit("images"), "real", id=OMNIGLOT, value=93.9, ci95=0.41, seeds=5, tasks=600)
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["status"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= columns
    (line,) = (line for line in lines if "reproduced" in line and "93.9 ± 0.41" in line)
    assert "94.05" in line
    assert "1 reproduced" in lines[-1] + lines[-2]


def test_json_has_one_object_a_row(top, capsys):
    assert main(["status", "--json"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert found == [row.as_dict() for row in status.rows()]


def test_the_page_has_every_row_and_says_verdicts_in_words(top):
    unit = Unit("images")
    answer(unit, "real", id=OMNIGLOT, value=93.9, ci95=0.41, seeds=5, tasks=600, note="5 trials")
    answer(unit, "stand-in", stand_in=True, id="003/F12b", value=None)
    page = status.reproduction_markdown()
    lines = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith(("| what", "| ---"))]
    assert len(lines) == len(papers.rows())
    assert {line.replace("\\|", "").count("|") for line in lines} == {8}
    (line,) = (line for line in lines if "93.9 ± 0.41 %" in line)
    assert "94.05 %" in line
    assert "600 × 5 | reproduced: 5 trials | `runs/images/real-" in line
    (line,) = (line for line in lines if "Figure 12b" in line)
    assert "(ours: x)" in line
    assert "| other data |" in line


def test_the_papers_numbers_keep_to_the_papers():
    folder = Path(__file__).resolve().parents[1] / "book/paper"
    for path in folder.glob("*.csv"):
        assert not re.search(r"colour|isation|paper text|(?<!\w)/[a-z]+/", path.read_text(encoding="utf-8"))
