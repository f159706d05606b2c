"""`show` puts a figure on the page with its words."""

from __future__ import annotations

import html
import json
import os

import plotly.graph_objects as go
from IPython.display import HTML, display

from mlkit.theme import PAGE


def show(figure: go.Figure | str, *, alt: str, caption: str) -> None:
    """Display a Plotly figure, or a drawing given as SVG text, with its caption.

    While the book is built (environment variable `MLKIT_BOOK=1`) the figure becomes data inside an HTML `<figure>`,
    which the page draws in the reader's light or dark theme; elsewhere it is the live Plotly figure.

    Args:
        figure: what a function of this module or of `mlkit.drawings` returned.
        alt: what a reader who cannot see the figure needs to know; one or two sentences.
        caption: what is drawn, and its evidence: data, tasks, seeds, kind of interval, hardware.

    Raises:
        ValueError: `alt` or `caption` is empty.
    """
    page = as_html(figure, alt=alt, caption=caption)
    if os.environ.get("MLKIT_BOOK") == "1" or isinstance(figure, str):
        display(HTML(page))
    else:
        words = f"<p>{html.escape(caption, quote=False)}</p>"
        display(go.Figure(figure).update_layout(paper_bgcolor=PAGE["light"]), HTML(words))


def as_html(figure: go.Figure | str, *, alt: str, caption: str) -> str:
    """Return the HTML `<figure>` that `show` puts on a page of the book; arguments and errors are those of `show`."""
    for name, words in (("alt", alt), ("caption", caption)):
        if not words.strip():
            raise ValueError(f"expected {name} to say what the figure shows, got an empty string; write a sentence")
    body = figure if isinstance(figure, str) else _data(figure)
    label, words = html.escape(" ".join(alt.split())), html.escape(" ".join(caption.split()), quote=False)
    picture = f'<div role="img" aria-label="{label}">{body}</div>'
    return f'<figure class="mlkit">{picture}<figcaption>{words}</figcaption></figure>'


def _data(figure: go.Figure) -> str:
    """Return the figure as JSON that book.js draws; the page supplies the template."""
    data = json.loads(figure.to_json())
    data["layout"].pop("template", None)
    text = json.dumps(data, separators=(",", ":")).replace("</", "<\\/")
    height = figure.layout.height
    return f'<div class="chart" style="height:{height:g}px"><script type="application/json">{text}</script></div>'
