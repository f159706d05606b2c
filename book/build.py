"""Build the book: run every unit, derive pages from records, render, and check that nothing is missing.

    python book/build.py            draw the published records; compute what is missing
    python book/build.py --fresh    compute everything again at the quick preset, on data that needs no download

A unit whose notebook, preset, records and library are as they were is not run again.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import papermill
import yaml
from pages import FIGURE, generate, header

from mlkit.records import shipped

ROOT = Path(__file__).resolve().parents[1]
BOOK = ROOT / "book"
HTML = BOOK / "_build" / "html"


def main() -> None:
    """Build the book and print the path of its first page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fresh", action="store_true", help="compute every unit again at its quick preset")
    fresh = parser.parse_args().fresh
    os.environ["MLKIT_BOOK"] = "1"
    if fresh:
        os.environ["MLKIT_RECORDS"] = "fresh"
    units = yaml.safe_load((BOOK / "published.yaml").read_text())
    for unit, preset in units.items():
        run(unit, "quick" if fresh else preset, again=fresh)
    generate(ROOT, list(units))
    render()
    pages, figures = gate(list(units))
    print(f"{pages} pages, {figures} figures: {HTML / 'index.html'}")


def run(unit: str, preset: str, *, again: bool) -> None:
    """Execute one unit into book/units/, unless it lies there already and nothing it depends on has changed."""
    target, key = BOOK / "units" / f"{unit}.ipynb", state(unit, preset)
    if not again and target.exists() and nbformat.read(target, 4).metadata.get("mlkit_state") == key:
        print(f"{unit}: as it was")
        return
    values = preset_file(unit, preset)
    parameters = yaml.safe_load(values.read_text()) if values else {}
    target.parent.mkdir(exist_ok=True)
    part, start = target.with_suffix(".part.ipynb"), time.perf_counter()
    papermill.execute_notebook(
        ROOT / "notebooks" / f"{unit}.ipynb", part, parameters, kernel_name="python3", cwd=ROOT, progress_bar=False
    )
    notebook = nbformat.read(part, 4)
    cell = notebook.cells[0]
    title, _, rest = cell.source.partition("\n")
    cell.source = f"{title}\n\n{header(ROOT, unit, preset)}\n\n{rest.strip()}"
    notebook.metadata["mlkit_state"] = key
    nbformat.write(notebook, part)
    os.replace(part, target)
    print(f"{unit}: preset {preset}, {time.perf_counter() - start:.0f} s")


def preset_file(unit: str, preset: str) -> Path | None:
    """Return the file of a preset; quick has none: it is the parameters cell as it stands."""
    return None if preset == "quick" else ROOT / "notebooks" / "presets" / preset / f"{unit}.yaml"


def state(unit: str, preset: str) -> str:
    """Return a hash over all that the executed unit depends on: its notebook, preset, records and the code."""
    digest = hashlib.sha256(preset.encode())
    for path in sorted(sources(unit, preset)):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def sources(unit: str, preset: str) -> Iterator[Path]:
    """Yield the files whose content decides what the executed unit looks like."""
    yield ROOT / "notebooks" / f"{unit}.ipynb"
    yield from filter(None, [preset_file(unit, preset)])
    for record in shipped(unit, ROOT):
        yield from (path for path in (record.path, record.path.with_suffix(".npz")) if path.exists())
    yield from (path for path in (ROOT / "mlkit").rglob("*") if path.suffix in {".py", ".json", ".yaml"})
    yield from BOOK.glob("*.py")


def render() -> None:
    """Call Jupyter Book; a warning is an error. New contents are listed on every page, so all are written again."""
    command = [Path(sys.executable).with_name("jupyter-book"), "build", BOOK, "--path-output", BOOK]
    command += ["--config", ROOT / "_config.yml", "--toc", ROOT / "_toc.yml", "-W", "-n", "--keep-going", "-q"]
    index = HTML / "index.html"
    if index.exists() and index.stat().st_mtime < (ROOT / "_toc.yml").stat().st_mtime:
        command.append("--all")
    if subprocess.run(command, check=False).returncode:
        sys.exit("the book was not built: see the warnings above")


def gate(units: list[str]) -> tuple[int, int]:
    """Count pages and figures of the built book; stop where one is missing."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    pages = [toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])]
    missing = [page for page in pages if not (HTML / f"{page}.html").exists()]
    unlisted = sorted({f"units/{unit}" for unit in units} ^ {page for page in pages if page.startswith("units/")})
    if missing or unlisted:
        sys.exit(f"pages not built: {missing}; units in only one of _toc.yml and book/published.yaml: {unlisted}")
    built = {page: (HTML / f"{page}.html").read_text().count(FIGURE) for page in pages}
    for unit in units:
        drawn = sum(FIGURE in html for html in outputs(BOOK / "units" / f"{unit}.ipynb"))
        if drawn == 0 or drawn != built[f"units/{unit}"]:
            sys.exit(f"{unit}: expected the {drawn} figures of the notebook on its page, got {built[f'units/{unit}']}")
    if not built[toc["root"]]:
        sys.exit(f"expected a figure on the first page, got none: {HTML / toc['root']}.html")
    return len(pages), sum(built.values())


def outputs(path: Path) -> Iterator[str]:
    """Yield the HTML of every output of an executed notebook."""
    for cell in nbformat.read(path, 4).cells:
        for output in cell.get("outputs", []):
            yield output.get("data", {}).get("text/html", "")


if __name__ == "__main__":
    main()
