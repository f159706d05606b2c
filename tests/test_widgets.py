"""The explorer in a notebook: every position of every control draws what the search holds, and no other."""

from __future__ import annotations

import json
import re

import comm
import numpy as np
import pytest
from bs4 import BeautifulSoup

from mlkit.chapters.searches import as_search
from mlkit.controls import Control, Live
from mlkit.drawn import library
from mlkit.figures.searches import TRACES, search_curves
from mlkit.uho import Range, Space, tune, tuned
from mlkit.widgets import UHOExplorer
from tests.studies import POINTS, STEPS, TRIALS, study
from tests.uho.cases import LEARNER, RATES, waves

LABELS = ["FOMAML*, 1-shot", "FOMAML*, 5-shot", "joint-trained, 5-shot"]
STUDIES = {label: study(seed) for seed, label in enumerate(LABELS)}
SEARCHES = [as_search(found, label) for label, found in STUDIES.items()]
TITLES = {"x_title": "learning rate", "y_title": "IoU", "words": "initialization, shots"}


def explorer(**changes) -> UHOExplorer:
    return UHOExplorer(STUDIES, **TITLES | changes)


def evaluating(space: Space = RATES, **changes) -> UHOExplorer:
    """Return the explorer of a search with a learner small enough to be adapted."""
    return UHOExplorer({"MAML, waves": STUDIES[LABELS[0]]}, objectives={"MAML, waves": waves(**changes)}, space=space)


def close(drawn, expected) -> None:
    drawn = np.array([np.nan if value is None else value for value in drawn], dtype=float)
    np.testing.assert_allclose(drawn, np.asarray(expected, dtype=float), rtol=1e-3)


def put(control: Control, text: str) -> None:
    """Do what a reader does who chooses `text`."""
    control.chosen = control.choices.index(text)


def shown(live: Live, label: str, of_each: int) -> list:
    """Return the traces of a search, after making sure that those of the others are hidden."""
    number = LABELS.index(label)
    visible = [trace for trace in live.drawn.data[: of_each * len(LABELS)] if trace.visible is not False]
    mine = list(live.drawn.data[of_each * number : of_each * (number + 1)])
    assert visible == mine
    return mine


def test_a_figure_goes_to_the_page_whole(monkeypatch):
    """A page that is slow to load Plotly's script draws what it was sent first."""
    sent, create = [], comm.create_comm
    monkeypatch.setattr(comm, "create_comm", lambda **asked: sent.append(asked["data"]["state"]) or create(**asked))
    library.cache_clear()
    figure = search_curves(SEARCHES, **TITLES)
    live, _ = Live(figure), Live(figure)
    whole, _ = [state for state in sent if "_widget_data" in state]
    assert [trace["name"] for trace in whole["_widget_data"]] == [trace.name for trace in figure.data]
    assert whole["_widget_data"][0]["x"] and whole["_widget_layout"]["yaxis"]["title"]["text"] == "IoU"
    assert whole["_config"]["responsive"] is True and live.drawn.comm is not None
    (script,) = [state for state in sent if "text" in state]
    assert max(len(state.get("_esm", "")) for state in sent) < 5000 < len(script["text"]), (
        "small ones load the large one"
    )


@pytest.mark.parametrize("label", LABELS)
def test_every_position_of_the_slider_over_trials_draws_what_was_known_then(label):
    found = explorer()
    controls, search = found.curves.controls, SEARCHES[LABELS.index(label)]
    assert list(controls) == ["initialization", "shots", "trials"]
    for name, part in zip(("initialization", "shots"), label.split(", "), strict=True):
        put(controls[name], part)
    assert found.label == label and controls["trials"].choices == [str(n + 1) for n in range(TRIALS)]
    for trials in (*range(TRIALS, 0, -1), TRIALS):
        put(controls["trials"], str(trials))
        band, mean, tried, best, gain, _ = shown(found.curves, label, TRACES)
        close(mean.y, search.mean[trials - 1])
        close(gain.y, search.improvement[trials - 1])
        assert len(band.y) == (0 if trials == 1 else 2 * POINTS)
        close(tried.x, search.values[:trials])
        close(tried.y, search.scores[:trials])
        close(tried.marker.color, search.steps[:trials])
        close(best.y, [np.nanmax(search.scores[:trials])])


@pytest.mark.parametrize("label", LABELS)
def test_every_position_of_the_slider_over_steps_draws_the_scores_after_so_many(label):
    found = explorer()
    search = SEARCHES[LABELS.index(label)]
    for name, part in zip(("initialization", "shots"), label.split(", "), strict=True):
        put(found.map.controls[name], part)
    order = np.argsort(search.values)
    for steps in (*range(1, STEPS + 1), 1):
        put(found.map.controls["inner steps"], str(steps))
        table, curve = shown(found.map, label, 2)
        close(curve.y, search.curves[order, steps])
        close(curve.x, search.values[order])
    np.testing.assert_allclose(np.array(table.z, dtype=float), search.curves[order, 1:].T)


def test_one_chooser_moves_both_figures_and_finds_the_nearest_search_where_a_pair_is_missing():
    found = explorer()
    put(found.curves.controls["initialization"], "joint-trained")  # there is none with 1 shot
    for live in (found.curves, found.map):
        assert [live.controls[name].text for name in ("initialization", "shots")] == ["joint-trained", "5-shot"]
    put(found.map.controls["initialization"], "FOMAML*")
    assert found.label == "FOMAML*, 5-shot" and shown(found.curves, found.label, TRACES)
    put(found.map.controls["shots"], "1-shot")
    assert found.label == "FOMAML*, 1-shot" and shown(found.map, found.label, 2)


def test_a_widget_draws_what_the_page_draws():
    figure = search_curves(SEARCHES, **TITLES)
    live = Live(figure)
    for ours, theirs in zip(live.drawn.data, figure.data, strict=True):
        for name in ("type", "name", "mode", "visible", "xaxis", "yaxis", "line", "fill"):
            assert ours[name] == theirs[name]
        close(ours.x, theirs.x)
        close(ours.y, theirs.y)
    assert not live.drawn.layout.sliders and not live.drawn.layout.updatemenus, "no second set of controls"
    assert live.drawn.layout.yaxis.range == figure.layout.yaxis.range


def test_a_figure_with_other_controls_is_refused():
    live = Live(search_curves(SEARCHES, **TITLES))
    with pytest.raises(ValueError, match=r"expected a figure with the controls \['initialization, shots', 'trials'\]"):
        live.show(search_curves(SEARCHES[:1], **TITLES))


def test_what_is_evaluated_here_is_adapted_and_drawn_in_both_figures():
    found = evaluating()
    control = found.chosen["inner_lr"]
    assert control.words == "learning rate" and len(control.choices) == 60
    best = STUDIES[LABELS[0]].best.values["inner_lr"]
    assert float(control.text) == pytest.approx(best, rel=0.1), "it stands at the best trial"
    put(found.curves.controls["trials"], "3")
    control.chosen = 40
    found.button.chosen += 1  # a click
    rate = float(control.choices[40])
    (worth,) = waves().worth([{"inner_lr": rate}])
    (point,) = found.searches["MAML, waves"].points
    assert (point.value, point.score, point.steps) == (rate, worth.score, worth.steps)
    (drawn,) = [trace for trace in found.curves.drawn.data if trace.name == "evaluated here"]
    close(drawn.x, [rate])
    close(drawn.y, [worth.score])
    assert found.curves.controls["trials"].text == "3" and len(found.curves.drawn.data[2].x) == 3, "it stays there"
    table, curve = found.map.drawn.data
    at = int(np.abs(np.array(curve.x, dtype=float) - rate).argmin())
    close([curve.x[at]], [rate])
    close(np.array(table.z, dtype=float)[:, at], worth.curve[1 : STEPS + 1])
    assert len(curve.x) == TRIALS + 1
    assert f"{worth.score:.4g} after {worth.steps} inner steps" in found.status.value and not found.button.disabled


def test_every_position_of_the_chooser_of_a_hyperparameter_is_within_the_space():
    space = Space(
        {"inner_lr": Range(1e-3, 1.0, log=True), "batch_size": Range(1, 10, log=True), "dropout": Range(0.2, 0.2)}
    )
    found = UHOExplorer({"MAML": STUDIES[LABELS[0]]}, objectives={"MAML": waves()}, space=space)
    assert found.chosen["batch_size"].choices == [str(n) for n in range(1, 11)]
    for name, control in found.chosen.items():
        for position in range(len(control.choices)):
            control.chosen = position
            low, high = space.ranges[name].low, space.ranges[name].high
            assert low <= found.values[name] <= high and found.values["dropout"] == 0.2
    assert isinstance(found.values["batch_size"], int)


def test_a_setting_that_diverges_says_so_and_draws_no_point():
    found = evaluating(Space({"inner_lr": Range(1e29, 1e30, log=True)}))
    found.button.chosen += 1
    assert "diverged" in found.status.value
    (drawn,) = [trace for trace in found.curves.drawn.data if trace.name == "evaluated here"]
    assert list(drawn.y) == [None]


def test_what_cannot_be_evaluated_is_said_where_the_reader_looks():
    found = evaluating(Space({"inner_lr": Range(1e-3, 1.0), "dropout": Range(0.1, 0.5)}))
    found.button.chosen += 1
    assert "expected a model with dropout" in found.status.value and not found.button.disabled
    assert explorer().button.disabled
    with pytest.raises(ValueError, match=r"expected an objective of 'FOMAML\*, 1-shot', got those of none"):
        explorer().evaluate({"inner_lr": 0.1})
    with pytest.raises(ValueError, match="expected a space to choose from beside objectives"):
        explorer(objectives={LABELS[0]: waves()})
    assert tuned(LEARNER, {"inner_lr": 0.1}).inner_lr == 0.1


def test_a_search_that_goes_on_is_followed():
    found = UHOExplorer({"MAML": study(0, trials=1)})
    slider, drawn = found.curves.controls["trials"], found.curves.drawn
    for trials in range(2, TRIALS + 1):
        found.update("MAML", study(0, trials=trials))
        assert slider.text == str(trials) and len(found.curves.drawn.data[2].x) == trials
        assert len(found.map.drawn.data[1].x) == trials
    search = as_search(study(0), "MAML")
    for trace, y in ((1, search.mean[-1]), (2, search.scores), (4, search.improvement[-1])):
        close(drawn.data[trace].y, y)
    assert found.curves.drawn is drawn and drawn.layout.yaxis.range[1] > np.nanmax(search.scores)
    put(slider, "2")
    found.update("MAML", study(0))
    assert slider.text == "2" and len(found.curves.drawn.data[2].x) == 2, "a reader who looks back is left there"
    with pytest.raises(ValueError, match=r"expected a label out of \['MAML'\], got 'Reptile'"):
        found.update("Reptile", study(0))


def test_a_search_can_be_shorter_than_the_others_and_grow_live():
    found = explorer()
    slider = found.curves.controls["trials"]
    found.update(LABELS[0], study(0, trials=2))
    assert slider.text == str(TRIALS) and len(found.curves.drawn.data[2].x) == 2
    live = tune(waves(max_steps=STEPS), RATES, {"inner_lr": 0.01}, trials=3, progress=False,
                on_trial=lambda now: found.update(LABELS[0], now))  # fmt: skip
    close(found.curves.drawn.data[2].y, [trial.score for trial in live.trials])


def test_what_was_evaluated_stays_when_the_search_goes_on():
    found = evaluating()
    found.button.chosen += 1
    kept = found.searches["MAML, waves"].points
    found.update("MAML, waves", study(0, trials=3))
    assert found.searches["MAML, waves"].points == kept and len(kept) == 1


def test_the_exported_file_holds_both_figures_and_asks_for_no_other(tmp_path):
    found = evaluating()
    found.button.chosen += 1
    path = found.export(tmp_path / "uho.html", evidence="Made-up numbers.")
    page = BeautifulSoup(path.read_text(), "html.parser")
    figures = [json.loads(script.string) for script in page.select("figure.mlkit .chart script")]
    assert [len(figure["data"]) for figure in figures] == [TRACES + 2, 2]
    assert figures[0]["data"][-1]["name"] == "evaluated here"
    assert all("Made-up numbers." in caption.get_text() for caption in page.select("figcaption"))
    assert not page.select("[src], link") and not re.search(r"@import|url\(\s*['\"]?http", str(page.select("style")))
    assert path.stat().st_size < 6e6
