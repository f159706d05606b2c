"""Chromium moves the explorer of searches in a running JupyterLab, and its exported file without a network."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import nbformat
import numpy as np
import pytest

from mlkit.chapters.searches import as_search, prediction
from mlkit.figures import as_html, as_question, export, search_curves, search_map
from tests.browser.moving import DRAWN, PATIENCE, close, milliseconds, shown
from tests.browser.test_pages_in_a_browser import CHROMIUM, GREETING, browser  # noqa: F401
from tests.conftest import ROOT
from tests.studies import STEPS, TRIALS, study

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium or Chrome: apt install chromium"),
]
LABELS = ["FOMAML*, 1-shot", "FOMAML*, 5-shot", "joint-trained, 5-shot"]
SEARCHES = {label: as_search(study(seed), label) for seed, label in enumerate(LABELS)}
TITLES = {"x_title": "learning rate", "y_title": "IoU", "words": "initialization, shots"}
IMPORTS = """
from mlkit.widgets import UHOExplorer
from tests.studies import study
from tests.uho.cases import RATES, waves
"""
CELL = f"""{IMPORTS}
labels = {LABELS}
explorer = UHOExplorer(
    {{label: study(seed) for seed, label in enumerate(labels)}},
    objectives={{labels[2]: waves()}},
    space=RATES,
    words="initialization, shots",
)
explorer
"""
BARE = {  # not needed to run a notebook; they take time to start
    f"@jupyterlab/{name}-extension": True
    for name in ("csvviewer", "debugger", "extensionmanager", "fileeditor", "help", "htmlviewer", "hub", "inspector",
                 "launcher", "logconsole", "lsp", "markdownviewer", "mermaid", "pluginmanager", "running",
                 "settingeditor", "terminal", "tooltip", "vega5")
}  # fmt: skip
READY = "window.jupyterapp?.shell.currentWidget?.sessionContext?.isReady"
RUN = """() => {
    window.ran = false;
    jupyterapp.commands.execute('notebook:run-all-cells').then(() => { window.ran = true });
}"""
CHARTS = "[...document.querySelectorAll('.js-plotly-plot')].filter(chart => chart._fullData?.length).length === 2"


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Iterator[str]:
    """Start JupyterLab with one notebook and its kernel, and return the address that opens it."""
    folder = tmp_path_factory.mktemp("lab")
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)], metadata=kernel)
    nbformat.write(notebook, folder / "explorer.ipynb")
    places = {f"JUPYTER_{name}_DIR": str(folder / f".{name.lower()}") for name in ("CONFIG", "RUNTIME", "DATA")}
    places |= {"IPYTHONDIR": str(folder / ".ipython"), "PYTHONPATH": str(ROOT), "MLKIT_ROOT": str(ROOT)}
    write(folder / ".config/labconfig/page_config.json", json.dumps({"disabledExtensions": BARE}))
    write(folder / ".ipython/profile_default/startup/imports.py", IMPORTS)  # while the page loads
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--ServerApp.port={port}"]
    command += ["--ServerApp.ip=127.0.0.1", "--IdentityProvider.token=known", f"--ServerApp.root_dir={folder}"]
    command += ["--LabApp.expose_app_in_browser=True"]
    with (folder / "log.txt").open("w") as log:
        server = subprocess.Popen(command, cwd=folder, env={**os.environ, **places}, stdout=log, stderr=log)
        try:
            wait_for(port, server)
            begin_session(port)
            yield f"http://127.0.0.1:{port}/doc/tree/explorer.ipynb?token=known"
        finally:
            server.terminate()
            server.wait(60)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(text)


def wait_for(port: int, server: subprocess.Popen) -> None:
    """Return once the server listens."""
    until = time.monotonic() + PATIENCE / 1000
    while server.poll() is None and time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError(f"JupyterLab did not start, exit status {server.poll()}")


def begin_session(port: int) -> None:
    """Start the kernel of the notebook, which its page then finds."""
    session = {"path": "explorer.ipynb", "name": "", "type": "notebook", "kernel": {"name": "python3"}}
    asked = Request(f"http://127.0.0.1:{port}/api/sessions", json.dumps(session).encode(), method="POST")
    asked.add_header("Authorization", "token known")
    with urlopen(asked, timeout=PATIENCE / 1000) as answer:
        assert answer.status == 201


def run_until_drawn(tab) -> None:
    """Run the notebook; again where a busy machine did not begin a widget within the two seconds that it has."""
    late: list[str] = []
    tab.on("pageerror", lambda error: late.append(str(error)))
    tab.wait_for_function(READY)
    for _ in range(4):
        late.clear()
        tab.evaluate(RUN)
        tab.wait_for_function("window.ran")
        tab.wait_for_function(CHARTS)
        if not any("Failed to initialize" in error for error in late):
            return
    raise AssertionError(f"expected widgets that begin in time, got {late}")


def test_the_explorer_is_moved_by_keys_in_jupyterlab(browser, lab):  # noqa: F811
    context = browser.new_context(viewport={"width": 1200, "height": 2200}, reduced_motion="reduce")
    asked: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    tab = context.new_page()
    tab.set_default_timeout(PATIENCE)
    tab.goto(lab)
    run_until_drawn(tab)
    trials, search = tab.get_by_role("slider", name="trials"), SEARCHES[LABELS[0]]
    close(shown(tab, 0, "trials", TRIALS)["y"], search.scores)
    trials.focus()
    for count in range(TRIALS - 1, 0, -1):
        trials.press("ArrowLeft")
        close(shown(tab, 0, "trials", count)["y"], search.scores[:count])
        assert trials.get_attribute("aria-valuetext") == str(count)
    steps = tab.get_by_role("slider", name="inner steps")
    steps.focus()
    steps.press("End")
    order = np.argsort(search.values)
    last = search.curves[order, STEPS]
    tab.wait_for_function(f"Math.abs(({DRAWN})(1)[1].y[0] - {last[0]}) < 1e-3")
    close(shown(tab, 1, LABELS[0], TRIALS)["y"], last)

    tab.get_by_role("combobox", name="initialization").first.select_option("joint-trained")
    tab.wait_for_function(f"({DRAWN})(1).some(trace => trace.name === {json.dumps(LABELS[2])})")
    assert tab.get_by_role("combobox", name="shots").first.input_value() == "1", "there is no 1-shot one"
    close(
        shown(tab, 1, LABELS[2], TRIALS)["y"], SEARCHES[LABELS[2]].curves[np.argsort(SEARCHES[LABELS[2]].values), STEPS]
    )

    rate = tab.get_by_role("slider", name="learning rate")
    rate.focus()
    rate.press("Home")
    rate.press("ArrowRight")
    chosen = float(rate.get_attribute("aria-valuetext"))
    button = tab.get_by_role("button", name="evaluate here")
    button.focus()
    button.press("Enter")
    point = shown(tab, 0, "evaluated here", 1)
    close(point["x"], [chosen])
    tab.get_by_role("status").filter(has_text=f"{point['y'][0]:.3g}"[:4]).wait_for()
    assert len(shown(tab, 1, LABELS[2], TRIALS + 1)["x"]) == TRIALS + 1
    assert trials.get_attribute("aria-valuetext") == "1", "the slider stays where it was"
    box = tab.locator(".js-plotly-plot .main-svg").first.bounding_box()
    assert box["width"] > 400 and box["x"] + box["width"] <= 1200
    assert [url for url in asked if not url.startswith((lab[: lab.index("/doc")], "data:", "blob:", "ws:"))] == []
    if folder := os.environ.get("MLKIT_SCREENSHOTS"):
        tab.screenshot(path=Path(folder) / "jupyterlab.png")
    context.close()


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """Write the page that stands alone."""
    searches = list(SEARCHES.values())
    figures = [search_curves(searches, **TITLES), search_map(searches, **TITLES)]
    parts = [as_html(figure, alt="A search, made up.", caption="Made up.") for figure in figures]
    path = tmp_path_factory.mktemp("exported") / "searches.html"
    return export(path, as_question(prediction(searches[0])), *parts, title="Searches")


@pytest.mark.parametrize("width", [360, 1400])
def test_the_exported_file_is_moved_by_keys_without_a_network(browser, exported, width):  # noqa: F811
    context = browser.new_context(viewport={"width": width, "height": 900}, offline=True, reduced_motion="reduce")
    tab, errors, asked = context.new_page(), [], []
    tab.set_default_timeout(PATIENCE)
    tab.on("console", lambda message: message.type == "error" and errors.append(message.text))
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(exported.as_uri())
    tab.wait_for_selector("html[data-charts='2']", state="attached")
    answer, summary = tab.locator(".predict p"), tab.get_by_text("Show the answer")
    assert not summary.is_visible(), "first the reader commits to a choice"
    tab.get_by_role("radio", name="Near it").check()
    assert summary.is_visible() and not answer.is_visible()
    summary.press("Enter")
    assert prediction(SEARCHES[LABELS[0]]).why in answer.inner_text()

    trials = tab.get_by_role("slider", name="trials")
    for label in (LABELS[1], LABELS[2]):
        name, shots = label.split(", ")
        tab.get_by_role("combobox", name="initialization").first.select_option(name)
        tab.get_by_role("combobox", name="shots").first.select_option(shots)
        search = SEARCHES[label]
        trials.focus()
        trials.press("End")
        for count in range(TRIALS - 1, 0, -1):
            trials.press("ArrowLeft")
            close(shown(tab, 0, "trials", count)["y"], search.scores[:count])
    steps = tab.get_by_role("slider", name="inner steps")
    steps.press("End")
    close(
        shown(tab, 1, LABELS[0], TRIALS)["y"], SEARCHES[LABELS[0]].curves[np.argsort(SEARCHES[LABELS[0]].values), STEPS]
    )
    assert milliseconds(tab, tab.locator("figure.mlkit").first) < 100
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert [error for error in errors if GREETING not in error] == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    if folder := os.environ.get("MLKIT_SCREENSHOTS"):
        tab.screenshot(path=Path(folder) / f"exported-{width}.png", full_page=True)
    context.close()
