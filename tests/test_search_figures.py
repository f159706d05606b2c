"""Every position of a slider over a search shows what the search held then, and nothing else."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from mlkit.figures.searches import TRACES, Point, Search, search_curves, search_map

TRIALS, LENGTH, POINTS = 4, 3, 5


def made_up(label: str, seed: int, **changes) -> Search:
    rng = np.random.default_rng(seed)
    believed = rng.uniform(size=(TRIALS, POINTS))
    believed[:1] = np.nan  # no belief before the second trial
    scores = rng.uniform(0.2, 0.8, TRIALS)
    scores[2] = np.nan  # diverged
    kept = {
        "label": label,
        "values": rng.permutation([1e-3, 1e-2, 1e-1, 1.0]),
        "scores": scores,
        "steps": np.arange(1, TRIALS + 1),
        "curves": rng.uniform(size=(TRIALS, LENGTH)),
        "grid": np.geomspace(1e-3, 1.0, POINTS),
        "mean": believed,
        "deviation": 0.1 * believed,
        "improvement": 0.01 * believed,
        "training": (0.05, 0.5),
    }
    return Search(**kept | changes)


SEARCHES = [made_up("FOMAML*, 1-shot", 0), made_up("joint-trained, 5-shot", 1)]
TITLES = {"x_title": "learning rate", "y_title": "IoU (%)"}


def close(drawn, expected) -> None:
    drawn = np.array([np.nan if value is None else value for value in drawn], dtype=float)
    np.testing.assert_allclose(drawn, np.asarray(expected, dtype=float), rtol=1e-3)


@pytest.mark.parametrize("trials", range(1, TRIALS + 1))
def test_the_slider_over_trials_shows_what_was_known_then(trials):
    figure = search_curves(SEARCHES, **TITLES)
    step = figure.layout.sliders[0].steps[trials - 1]
    change, traces = step.args
    assert step.label == str(trials) and list(traces) == list(range(TRACES * len(SEARCHES)))
    for number, search in enumerate(SEARCHES):
        band, mean, tried, best, improvement, lost = range(TRACES * number, TRACES * (number + 1))
        close(change["y"][mean], search.mean[trials - 1])
        close(change["y"][improvement], search.improvement[trials - 1])
        close(change["x"][tried], search.values[:trials])
        close(change["y"][tried], search.scores[:trials])
        close(change["marker.color"][tried], search.steps[:trials])
        close(change["y"][best], [np.nanmax(search.scores[:trials])])
        close(change["x"][best], [search.values[np.nanargmax(search.scores[:trials])]])
        diverged = ~np.isfinite(search.scores[:trials])
        close(change["x"][lost], search.values[:trials][diverged])
        close(change["y"][lost], [figure.layout.yaxis.range[0]] * diverged.sum())
        if trials == 1:
            assert list(change["y"][band]) == []
        else:
            half = 1.96 * search.deviation[trials - 1]
            close(change["y"][band], [*(search.mean[trials - 1] + half), *(search.mean[trials - 1] - half)[::-1]])


def test_at_first_the_whole_first_search_is_shown():
    figure = search_curves(SEARCHES, **TITLES)
    count = len(SEARCHES)
    assert [trace.visible for trace in figure.data] == [True] * TRACES + [False] * TRACES + [True, False]
    assert figure.layout.sliders[0].active == TRIALS - 1
    close(figure.data[2].y, SEARCHES[0].scores)
    assert [(trace.x[0], trace.y[0]) for trace in figure.data[-count:]] == [(0.05, 0.5)] * count
    low, high = figure.layout.yaxis.range
    shown = np.concatenate([search.scores for search in SEARCHES])
    assert low < np.nanmin(shown) and high > np.nanmax(shown)
    json.loads(figure.to_json())


def test_the_slider_may_begin_where_nothing_is_given_away():
    figure = search_curves(SEARCHES, **TITLES, start=1)
    assert figure.layout.sliders[0].active == 0
    close(figure.data[2].y, SEARCHES[0].scores[:1])


def test_labels_have_a_part_for_each_chooser_or_are_refused():
    (menu,) = search_map(SEARCHES, **TITLES, words="initialization, shots").layout.updatemenus
    assert menu.name == "initialization, shots"
    with pytest.raises(
        ValueError, match="expected a label with a part for each of 'initialization, shots', got 'MAML'"
    ):
        search_map([*SEARCHES, made_up("MAML", 2)], **TITLES, words="initialization, shots")


def test_what_a_reader_tried_is_drawn_beside_the_trials():
    point = Point(0.02, 0.9, 2, np.array([0.1, 0.2, 0.9]))
    tried = dataclasses.replace(SEARCHES[1], points=(point,))
    figure = search_curves([SEARCHES[0], tried], **TITLES)
    assert (figure.data[-1].name, figure.data[-1].x, figure.data[-1].y) == ("evaluated here", (0.02,), (0.9,))
    shown = [button.args[0]["visible"][-1] for button in figure.layout.updatemenus[0].buttons]
    assert shown == [False, True] and figure.data[-1].visible is False
    assert figure.layout.yaxis.range[1] > 0.9
    table, curve = search_map([tried], **TITLES).data
    at = list(curve.x).index(0.02)
    close(np.array(table.z, dtype=float)[:, at], point.curve[1:])


def test_an_error_that_explodes_leaves_the_rest_in_sight():
    curves = np.full((TRIALS, LENGTH), 0.5)
    curves[1, 1:] = [1e9, np.inf]
    search = made_up("MAML", 0, curves=curves, higher_is_better=False)
    figure = search_map([search], **TITLES)
    assert figure.layout.yaxis2.range[1] < 2 and figure.data[0].zmax < 2


def test_the_chooser_shows_one_search_alone():
    for figure, of_each in ((search_curves(SEARCHES, **TITLES), TRACES), (search_map(SEARCHES, **TITLES), 2)):
        (menu,) = figure.layout.updatemenus
        assert [button.label for button in menu.buttons] == [search.label for search in SEARCHES]
        for number, button in enumerate(menu.buttons):
            visible = button.args[0]["visible"]
            assert len(visible) == len(figure.data)
            assert [visible[of_each * k] for k in range(2)] == [number == k for k in range(2)]
            assert sum(visible) == len(figure.data) // 2
    assert not search_curves(SEARCHES[:1], **TITLES).layout.updatemenus


@pytest.mark.parametrize("steps", range(1, LENGTH))
def test_the_slider_over_steps_shows_the_scores_after_so_many(steps):
    figure = search_map(SEARCHES, **TITLES)
    position = figure.layout.sliders[0].steps[steps - 1]
    change, traces = position.args
    assert position.label == str(steps) and list(traces) == [1, 3]
    for curve, search in zip(change["y"], SEARCHES, strict=True):
        close(curve, search.curves[np.argsort(search.values), steps])


def test_the_map_holds_every_trial_and_step():
    figure, search = search_map(SEARCHES, **TITLES), SEARCHES[0]
    order = np.argsort(search.values)
    close(figure.data[0].x, search.values[order])
    np.testing.assert_allclose(np.array(figure.data[0].z, dtype=float), search.curves[order, 1:].T)
    assert list(figure.data[0].y) == list(range(1, LENGTH))


def test_lower_may_be_better():
    search = made_up("MAML, sine", 3, higher_is_better=False)
    change, _ = search_curves([search], **TITLES).layout.sliders[0].steps[-1].args
    close(change["y"][3], [np.nanmin(search.scores)])
    assert change["y"][5][0] > np.nanmax(search.scores), "what diverged lies at the worst end"


def test_what_diverged_is_in_the_legend_where_something_did():
    sound = dataclasses.replace(SEARCHES[0], scores=np.linspace(0.2, 0.5, TRIALS))
    shown = [search_curves([search], **TITLES).data[5].showlegend for search in (SEARCHES[0], sound)]
    assert shown == [True, False]


def test_a_search_of_fewer_trials_stays_as_it_ended():
    arrays = ("values", "scores", "steps", "curves", "mean", "deviation", "improvement")
    short = dataclasses.replace(SEARCHES[1], **{name: getattr(SEARCHES[1], name)[:2] for name in arrays})
    steps = search_curves([SEARCHES[0], short], **TITLES).layout.sliders[0].steps
    assert len(steps) == TRIALS
    for number in (2, TRIALS):
        change, _ = steps[number - 1].args
        close(change["y"][TRACES + 2], short.scores)
        close(change["y"][TRACES + 1], short.mean[1])
        close(change["y"][2], SEARCHES[0].scores[:number])


def test_a_search_in_which_all_diverged_has_no_best():
    search = made_up("MAML, sine", 3, scores=np.full(TRIALS, np.nan))
    assert search.best(TRIALS) is None
    change, _ = search_curves([search], **TITLES).layout.sliders[0].steps[-1].args
    assert list(change["y"][3]) == []


def test_searches_share_their_sliders_or_are_refused():
    with pytest.raises(ValueError, match="expected a search to draw, got none"):
        search_curves([], **TITLES)
    longer = made_up("MAML", 0, curves=np.zeros((TRIALS, LENGTH + 1)))
    with pytest.raises(ValueError, match=r"one largest number of steps, got \[3, 4\]"):
        search_map([SEARCHES[0], longer], **TITLES)
