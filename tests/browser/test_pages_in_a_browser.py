"""Chromium opens every page from disk without a network: all is drawn, nothing is wider than the screen, no errors."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.book.test_built_book import CHARTS, PAGES, UNITS
from tests.conftest import ROOT

MAC = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", MAC)
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
FLAGS += ["--disable-background-networking", "--disable-component-update"]
# The theme says this once when a reader comes for the first time.
GREETING = "Got invalid theme mode"

DRAWN = """[...document.querySelectorAll('figure.mlkit')].map(figure => {
    const box = figure.querySelector('svg').getBoundingClientRect();
    return {width: box.width, height: box.height, right: box.right}})"""

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium or Chrome: apt install chromium"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator:
    """Start Chromium once; it is gone before tests that need an event loop of their own."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


class Visit:
    """One page, opened as a reader does for the first time; `errors` and `requests` are what the browser reports."""

    def __init__(self, browser, site: Path, page: str, *, width: int = 1400, theme: str = "light"):
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=theme, reduced_motion="reduce", offline=True
        )
        self.tab = self.context.new_page()
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.tab.on("console", lambda message: message.type == "error" and self.errors.append(message.text))
        self.tab.on("pageerror", lambda error: self.errors.append(str(error)))
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.goto((site / f"{page}.html").as_uri())
        self.tab.wait_for_selector("html[data-charts]", state="attached", timeout=60_000)

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *_: object) -> None:
        if folder := os.environ.get("MLKIT_SCREENSHOTS"):
            name = f"{self.tab.url.rsplit('/', 1)[-1]}-{self.tab.viewport_size['width']}"
            self.tab.screenshot(path=Path(folder) / f"{name}.png", full_page=True)
        self.context.close()


@pytest.mark.parametrize("width", [360, 1400])
@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_drawn_whole_and_asks_for_nothing_else(browser, site, page, width):
    with Visit(browser, site, page, width=width) as visit:
        for theme in ("light", "dark"):
            visit.tab.emulate_media(color_scheme=theme)
            visit.tab.wait_for_function(f"document.documentElement.dataset.theme === '{theme}'")
            charts = visit.tab.evaluate(DRAWN)
            assert bool(charts) >= (page in CHARTS)
            assert [box for box in charts if box["width"] < 200 or box["height"] < 50 or box["right"] > width] == []
            assert visit.tab.evaluate("document.querySelectorAll('.chart:not(:has(svg.main-svg))').length") == 0
            assert visit.tab.evaluate("document.documentElement.scrollWidth") <= width
        assert sum(GREETING in error for error in visit.errors) <= 1
        assert [error for error in visit.errors if GREETING not in error] == []
        assert [url for url in visit.requests if not url.startswith((site.as_uri(), "data:", "blob:"))] == []


def test_figures_follow_the_switch_between_light_and_dark(browser, site):
    with Visit(browser, site, UNITS[0], theme="light") as visit:
        ink = "getComputedStyle(document.querySelector('.chart .xtick text')).fill"
        light = visit.tab.evaluate(ink)
        for _ in range(3):  # the button goes through light, dark, and what the system says
            visit.tab.locator("button.theme-switch-button:visible").first.click()
            if visit.tab.evaluate("document.documentElement.dataset.theme") == "dark":
                break
        visit.tab.wait_for_function(f"{ink} !== '{light}'")
        brightness = sum(int(part) for part in visit.tab.evaluate(ink).strip("rgb()").split(","))
        assert brightness > 3 * 180


@pytest.mark.parametrize("width", [360, 1400])
def test_the_slider_moves_the_curves(browser, site, width):
    with Visit(browser, site, "index", width=width) as visit:
        lines = "[...document.querySelectorAll('.chart .scatterlayer .js-line')].map(line => line.getAttribute('d'))"
        values = "document.querySelector('.chart')._fullData.map(trace => [...trace.y])"
        before, drawn = visit.tab.evaluate(values), visit.tab.evaluate(lines)
        slider = visit.tab.get_by_role("slider", name="inner steps")
        slider.focus()
        slider.press("End")
        visit.tab.wait_for_selector("text=inner steps: 10")
        after = visit.tab.evaluate(values)
        moved = [new != old for new, old in zip(after, before, strict=True)]
        assert moved == [False, *[True] * (len(moved) - 2), False], "the true curve and the support examples stay"
        visit.tab.wait_for_function(f"old => {lines}.slice(1).every((path, i) => path !== old[i + 1])", arg=drawn)


def test_a_narrower_window_makes_figures_narrower(browser, site):
    with Visit(browser, site, UNITS[0]) as visit:
        width = "document.querySelector('.chart svg.main-svg').getBoundingClientRect().width"
        wide = visit.tab.evaluate(width)
        visit.tab.set_viewport_size({"width": 500, "height": 900})
        visit.tab.wait_for_function(f"{width} < {wide} - 100")
        assert visit.tab.evaluate("document.documentElement.scrollWidth") <= 500


def test_print_shows_figures_and_no_navigation(browser, site):
    with Visit(browser, site, UNITS[0]) as visit:
        visit.tab.emulate_media(media="print")
        assert visit.tab.locator(".bd-sidebar-primary").is_hidden()
        assert visit.tab.locator("figure.mlkit").first.is_visible()


def test_the_first_page_is_where_the_build_says():
    assert (ROOT / "_toc.yml").read_text().startswith("format: jb-book\nroot: index\n")
