"""What the book derives from records, papers and the catalogue: the head of a unit's page, pages and tables."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nbformat
import plotly
import timings

from mlkit import drawings, figures, papers, status, theme
from mlkit.catalogue import CATALOGUE
from mlkit.records import shipped

FIGURE = '<figure class="mlkit">'  # how mlkit.figures begins each of its figures


def header(root: Path, unit: str, preset: str) -> str:
    """Return the box below the title of a unit: its notebook, how to run it again, what its records took."""
    chosen = "" if preset == "quick" else f" PRESET={preset}"
    notebook = f"{{download}}`The notebook <../../notebooks/{unit}.ipynb>`"
    return "\n".join(
        [
            "```{admonition} Run this chapter again",
            ":class: run-again",
            f"{notebook}, shown at preset *{preset}*. {_took(root, unit)}",
            "",
            f"    make chapter UNIT={unit}{chosen}",
            f"    .venv/bin/mlkit run {unit} -p NAME VALUE",
            "```",
        ]
    )


def _took(root: Path, unit: str) -> str:
    """Say what the shipped records behind a unit's page took to compute; some of them other pages draw from too."""
    proofs = [record.evidence for record in shipped(unit, root)]
    if not proofs:
        return "Its results were computed when this page was built."
    seconds = sum(proof["seconds"] for proof in proofs)
    machines = {proof["hardware"]["gpu"] or f"{proof['hardware']['cores']} CPU cores" for proof in proofs}
    count = "Its record" if len(proofs) == 1 else f"Its {len(proofs)} records"
    return f"{count} took {_time(seconds)} on {' and '.join(sorted(machines))}."


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def generate(root: Path, units: list[str]) -> None:
    """Write book/reproduction.md and what lies under book/generated/."""
    book = root / "book"
    static = book / "generated" / "static"
    static.mkdir(parents=True, exist_ok=True)
    templates = {mode: theme.template(mode).to_plotly_json() for mode in theme.INK}
    texts = {
        book / "reproduction.md": status.reproduction_markdown(root),
        book / "generated" / "picture.md": _first_slider(book, units),
        book / "generated" / "progress.md": _progress(root),
        book / "generated" / "catalogue.md": _catalogue(),
        book / "generated" / "methods.md": _methods(),
        book / "generated" / "benchmarks.md": "\n\n".join(timings.page(book / "records" / "benchmarks")) + "\n",
        static / "templates.js": f"window.mlkitTemplates = {json.dumps(templates)};\n",
    }
    for path, text in texts.items():
        if not path.exists() or path.read_text() != text:  # an unchanged page is not rendered again
            path.write_text(text)
    library = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
    if not (static / library.name).exists() or (static / library.name).stat().st_size != library.stat().st_size:
        shutil.copyfile(library, static / library.name)


def _first_slider(book: Path, units: list[str]) -> str:
    """Return the first figure with a slider that a unit draws; where none has one, the picture of the two loops."""
    for unit in units:
        for cell in nbformat.read(book / "units" / f"{unit}.ipynb", 4).cells:
            for output in cell.get("outputs", []):
                html = output.get("data", {}).get("text/html", "")
                if FIGURE in html and '"sliders"' in html:
                    return f"{html}\n"
    alt = "From an initialization, an inner loop adapts to a task; the query loss moves the initialization."
    return (
        figures.as_html(drawings.two_loops(), alt=alt, caption="The two loops of gradient-based meta-learning.") + "\n"
    )


def _progress(root: Path) -> str:
    """Return the table of what is answered and what is still to come, one row a paper."""
    lines = ["| paper | rows and figures | answered | reproduced | still to come |", "|---|---:|---:|---:|---:|"]
    members: dict[str, list[Any]] = {}
    for row in status.rows(root):
        members.setdefault(row.row.source, []).append((row.answer or {}).get("verdict"))
    for source, verdicts in members.items():
        open_rows = verdicts.count(None)
        counts = (len(verdicts), len(verdicts) - open_rows, verdicts.count(papers.VERDICTS[0]), open_rows)
        lines.append(f"| {status.TITLES[source]} | {' | '.join(map(str, counts))} |")
    return "\n".join(lines) + "\n"


def _catalogue() -> str:
    """Return one section a data set: what it is, its license, where it comes from, how to get it."""
    parts = []
    for data in CATALOGUE:
        embedded = not (data.archives or data.steps)
        get = "nothing to do" if embedded else f"`mlkit data get {data.name}` ({data.size})"
        if data.steps:
            get = data.steps.format(layout=f"`{data.layout}`").replace("\n", "<br>")
        facts = {
            "classes, images": f"{data.classes:,} classes, {data.images:,} images",
            "license": data.license,
            "cite": data.citation,
            "source": f"<{data.source}>" if data.source.startswith("http") else data.source,
            "how to get it": get,
        }
        rows = [f"| {name} | {text} |" for name, text in facts.items()]
        names = ", ".join(f"`{name}`" for name in data.tasks)
        parts.append("\n".join([f"### {data.title}", "", f"| tasks | {names} |", "|---|---|", *rows, ""]))
    return "\n".join(parts)


def _methods() -> str:
    """Return the legend of the book: the line and marker of each method."""
    figure = figures.legend(list(theme.METHODS))
    alt = "One row a method: its line, dash and marker as they appear in every figure."
    return figures.as_html(figure, alt=alt, caption="How each method is drawn, in every figure of the book.") + "\n"
