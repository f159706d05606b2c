"""The built book is whole: pages, figures with words, links that lead somewhere, and nothing from another server."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup

from tests.conftest import ROOT

pytestmark = pytest.mark.book
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text())
PAGES = [TOC["root"], *(chapter["file"] for part in TOC["parts"] for chapter in part["chapters"])]
UNITS = [page for page in PAGES if page.startswith("units/")]
CHARTS = ["index", "notation", *UNITS]  # pages that must have figures


@cache
def parsed(path: Path) -> BeautifulSoup:
    """Return a built page."""
    return BeautifulSoup(path.read_text(), "html.parser")


def test_published_units_are_the_units_in_the_contents():
    published = yaml.safe_load((ROOT / "book" / "published.yaml").read_text())
    assert [f"units/{unit}" for unit in published] == UNITS
    for unit, preset in published.items():
        assert (ROOT / "notebooks" / f"{unit}.ipynb").exists()
        assert preset == "quick" or (ROOT / "notebooks" / "presets" / preset / f"{unit}.yaml").exists()


@pytest.mark.parametrize("page", PAGES)
def test_every_page_is_built_and_listed_beside_every_other(site, page):
    html = parsed(site / f"{page}.html")
    assert html.h1.get_text().strip()
    listed = {Path(unquote(a["href"])).name for a in html.select("nav.bd-links a[href]")}
    assert {Path(other).name + ".html" for other in PAGES if other not in (page, TOC["root"])} <= listed


@pytest.mark.parametrize("page", CHARTS)
def test_every_figure_has_data_words_and_a_caption(site, page):
    found = parsed(site / f"{page}.html").select("figure.mlkit")
    assert found
    for figure in found:
        assert len(figure.select_one('[role="img"]')["aria-label"]) > 20
        assert len(figure.figcaption.get_text()) > 20
        chart = figure.select_one(".chart script")
        assert figure.svg if chart is None else json.loads(chart.string)["data"]


@pytest.mark.parametrize("page", UNITS)
def test_every_figure_of_a_notebook_is_on_its_page(site, page):
    cells = nbformat.read(ROOT / "book" / f"{page}.ipynb", 4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    drawn = [output for output in outputs if "<figure" in output.get("data", {}).get("text/html", "")]
    assert 0 < len(drawn) == len(parsed(site / f"{page}.html").select("figure.mlkit"))
    assert not [output for output in outputs if output.output_type == "error"]


@pytest.mark.parametrize("page", UNITS)
def test_a_unit_offers_its_notebook_and_says_how_to_run_it(site, page):
    html, unit = parsed(site / f"{page}.html"), Path(page).name
    (link,) = html.select(f'a.download[href$="/{unit}.ipynb"]')
    offered = (site / page).parent / link["href"]
    assert offered.read_bytes() == (ROOT / "notebooks" / f"{unit}.ipynb").read_bytes()
    assert f"make chapter UNIT={unit}" in html.get_text()


def test_the_hours_of_the_paper_follow_from_the_measured_rate(site):
    record = json.loads((ROOT / "book" / "records" / "benchmarks" / "segmentation.json").read_text())
    seconds = next(row["seconds"]["mlkit"] for row in record["rows"] if "224 px" in row["case"])
    said = re.search(r"50,000 outer steps .* take ([\d,]+) hours", parsed(site / "benchmarks.html").get_text())
    assert int(said[1].replace(",", "")) == round(50_000 * seconds / 3600)


def test_nothing_is_asked_from_another_server(site):
    asked = []
    for path in site.rglob("*.html"):
        html = parsed(path)
        asked += [(path.name, tag["src"]) for tag in html.select("[src]") if is_external(tag["src"])]
        asked += [(path.name, tag["href"]) for tag in html.select("link[href]") if is_external(tag["href"])]
        styles = [tag.string or "" for tag in html.select("style")] + [tag["style"] for tag in html.select("[style]")]
        asked += [(path.name, url) for url in external_in_css("\n".join(styles))]
    for path in site.rglob("*.css"):
        asked += [(path.name, url) for url in external_in_css(path.read_text())]
    assert not asked


def is_external(address: str) -> bool:
    """Say whether an address leads out of the book."""
    return bool(urlsplit(address).netloc)


def external_in_css(text: str) -> list[str]:
    """Return what a style sheet fetches from elsewhere."""
    return re.findall(r"(?:url\(|@import\s+)['\"]?((?:https?:)?//[^'\")\s]+)", text)


@pytest.mark.parametrize("page", PAGES)
def test_every_internal_link_leads_somewhere(site, page):
    origin = site / f"{page}.html"
    broken = []
    for link in parsed(origin).select("a[href]"):
        address = urlsplit(link["href"])
        if address.scheme or address.netloc:
            continue
        target = (origin.parent / unquote(address.path)).resolve() if address.path else origin
        named = unquote(address.fragment)
        if not target.exists() or (named and target.suffix == ".html" and not parsed(target).find(id=named)):
            broken.append(link["href"])
    assert not broken
