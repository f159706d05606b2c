"""Move the controls of a figure in Chromium, and read what it then draws."""

from __future__ import annotations

import json

import numpy as np

DRAWN = """chart => [...document.querySelectorAll('.js-plotly-plot')][chart]._fullData.filter(trace => trace.visible)
    .map(trace => ({name: trace.name, x: [...(trace.x ?? [])], y: [...(trace.y ?? [])]}))"""
MOVES = """async figure => {
    const slider = figure.querySelector('input[type=range]'), chart = figure.querySelector('.js-plotly-plot');
    for (let place = 0; place <= slider.max; place++) {
        const drawn = new Promise(resolve => chart.once('plotly_afterplot', resolve));
        slider.value = place;
        slider.dispatchEvent(new Event('input'));
        await drawn;
    }
    return Number(slider.max) + 1;
}"""
PATIENCE = 240_000  # milliseconds, on a busy machine


def close(drawn: list, expected) -> None:
    """Assert that what is drawn is what is expected, null being not a number."""
    drawn = np.array([np.nan if value is None else value for value in drawn], dtype=float)
    np.testing.assert_allclose(drawn, np.asarray(expected, dtype=float), rtol=1e-3)


def shown(tab, chart: int, name: str, count: int) -> dict:
    """Return a visible trace of a chart, by the beginning of its name, once it has so many points."""
    trace = f"({DRAWN})({chart}).find(trace => trace.name.startsWith({json.dumps(name)}))"
    tab.wait_for_function(f"{trace}?.y.length === {count}", timeout=PATIENCE)
    return tab.evaluate(trace)


def milliseconds(tab, figure) -> float:
    """Return the processor time that a move of a figure's slider takes; what else the machine does is not counted."""
    session = tab.context.new_cdp_session(tab)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def spent() -> float:
        metrics = session.send("Performance.getMetrics")["metrics"]
        return 1000 * next(each["value"] for each in metrics if each["name"] == "TaskDuration")

    before = spent()
    moves = figure.evaluate(MOVES)
    return (spent() - before) / moves
