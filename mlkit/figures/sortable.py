"""A table that its reader sorts: buttons in its head, for keys and screen readers too; no library, no kernel."""

from __future__ import annotations

import hashlib
import html
import json
from collections.abc import Sequence
from dataclasses import dataclass

STYLE = """
.linked .scroll { max-width: 100%; overflow-x: auto; }
.linked output { display: block; font-size: 0.95rem; min-height: 3.2em; margin: 0.4rem 0; }
.linked table { border-collapse: collapse; font-size: 0.88rem; font-variant-numeric: tabular-nums; margin: 0; }
.linked table :is(td, th) { min-width: 0; padding: 0.2rem 0.6rem; text-align: right; vertical-align: middle;
  white-space: nowrap; }
.linked table :is(th:first-child, td.words) { text-align: left; }
.linked th:first-child { background: var(--pst-color-background, var(--page, var(--jp-layout-color0, #fff)));
  left: 0; position: sticky; }
.linked button { background: none; border: 0; color: inherit; cursor: pointer; font: inherit; font-weight: 600;
  min-height: 2.2rem; padding: 0; text-align: inherit; text-decoration: underline dotted; white-space: normal; }
.linked button:focus-visible, .linked .scroll:focus-visible { outline: 3px solid currentColor; outline-offset: 2px; }
.linked th[aria-sort="ascending"] button::after { content: " \\25B2"; }
.linked th[aria-sort="descending"] button::after { content: " \\25BC"; }
.linked tr:has([aria-pressed="true"]) > * { border-block: 2px solid currentColor; font-weight: 600; }
@media print { .linked .scroll { overflow: visible; } .linked output { display: none; } }
"""
SCRIPT = """
(() => {
  const root = document.getElementById(NAME), table = root.querySelector("table"), said = root.querySelector("output");
  const rows = [...table.tBodies[0].rows], heads = [...table.tHead.rows[0].cells], told = said.textContent;
  const title = (head) => head.textContent.trim();
  let chart = null, chosen = null;

  const known = (cell) => cell.dataset.value !== undefined || cell.dataset.words !== undefined;
  function compare(a, b) { // what is missing comes last, whichever way is up
    if (known(a) !== known(b)) return known(a) ? -2 : 2;
    if (a.dataset.value === undefined) return a.textContent.localeCompare(b.textContent);
    return Math.sign(a.dataset.value - b.dataset.value);
  }
  heads.forEach((head, i) => head.querySelector("button").addEventListener("click", () => {
    const was = head.getAttribute("aria-sort"), opposite = { ascending: "descending", descending: "ascending" };
    const order = opposite[was] ?? head.dataset.first, sign = order === "ascending" ? 1 : -1;
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", order);
    const sorted = [...rows].sort((a, b) => {
      const way = compare(a.cells[i], b.cells[i]);
      return Math.abs(way) === 2 ? way : sign * way;
    });
    table.tBodies[0].append(...sorted);
  }));

  function choose(row) {
    chosen = row === chosen ? null : row;
    rows.forEach((each) => each.querySelector("button").setAttribute("aria-pressed", each === chosen));
    const says = (head, i) => `${title(head)}: ${chosen.cells[i].textContent}`;
    said.textContent = chosen ? heads.map(says).join("; ") : told;
    const points = chosen ? rows.map((each) => (each === chosen ? [0] : [])) : [null];
    if (chart && window.Plotly) window.Plotly.restyle(chart, { selectedpoints: points });
  }
  rows.forEach((row) => row.querySelector("button").addEventListener("click", () => choose(row)));

  function show() { // the rows of what the chart shows
    rows.forEach((row, k) => { row.hidden = chart.data[k]?.visible === false; });
    if (chosen?.hidden) choose(chosen);
  }
  let tries = 0;
  const wait = setInterval(() => {
    chart = [...document.querySelectorAll(".js-plotly-plot")].find((each) => each.layout?.meta === root.id && each.on);
    if (!chart && ++tries < 600) return;
    clearInterval(wait);
    if (!chart) return;
    chart.on("plotly_click", (event) => choose(rows[event.points[0].curveNumber]));
    for (const change of ["plotly_restyle", "plotly_update"]) chart.on(change, show);
    show();
  }, 100);
})();
"""


@dataclass(frozen=True)
class Column:
    """A column: its title, what it says, and whether the first press puts the largest first."""

    title: str
    says: str = ""
    descending: bool = False


@dataclass(frozen=True)
class Cell:
    """What a cell shows; `value` sorts it. `why` says why there is no number."""

    text: str
    value: float | None = None
    why: str = ""
    is_words: bool = False


def sortable(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], *, words: str) -> str:
    """Return a table whose head sorts it, as HTML that needs nothing else; row k belongs to trace k of a chart.

    The chart is the Plotly figure on the page whose `layout.meta` is `table_name(columns, rows)`: choosing a row or a
    point marks both, and rows of hidden traces are hidden.

    Args:
        columns: from left to right; the first names the row and stays in sight.
        rows: their cells.
        words: what the table says, for readers who cannot see it.

    Raises:
        ValueError: a row has not one cell a column, or there is none.
    """
    if not rows or any(len(row) != len(columns) for row in rows):
        raise ValueError(f"expected rows of {len(columns)} cells, got {[len(row) for row in rows] or 'no row'}")
    name = table_name(columns, rows)
    head = "".join(
        f'<th scope="col" data-first="{"descending" if column.descending else "ascending"}">'
        f'<button type="button" title="{html.escape(column.says)}">{html.escape(column.title)}</button></th>'
        for column in columns
    )
    body = "".join(f"<tr>{_named(row[0])}{''.join(map(_cell, row[1:]))}</tr>" for row in rows)
    label, script = html.escape(words), SCRIPT.replace("NAME", json.dumps(name))
    return (
        f'<div class="linked" id="{name}"><style>{STYLE}</style>'
        '<output aria-live="polite">Choose a point or a row; press the head of a column to sort by it.</output>'
        f'<div class="scroll" role="region" aria-label="{label}" tabindex="0"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div><script>{script}</script></div>"
    )


def table_name(columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> str:
    """Return what identifies a table on a page."""
    return f"table-{hashlib.sha256(repr((list(columns), [list(row) for row in rows])).encode()).hexdigest()[:12]}"


def _named(cell: Cell) -> str:
    return (
        f'<th scope="row" data-words><button type="button" aria-pressed="false">{html.escape(cell.text)}</button></th>'
    )


def _cell(cell: Cell) -> str:
    text = html.escape(cell.text, quote=False)
    if cell.why:
        return f'<td><abbr title="{html.escape(cell.why)}">{text}</abbr></td>'
    if cell.is_words:
        return f'<td class="words" data-words>{text}</td>'
    return f"<td>{text}</td>" if cell.value is None else f'<td data-value="{cell.value:.8g}">{text}</td>'
