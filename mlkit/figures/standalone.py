"""`export` writes figures into one file that needs nothing else: no kernel, no network, no other file."""

from __future__ import annotations

import html
import json
from pathlib import Path

import plotly

from mlkit import project
from mlkit.theme import GRID, INK, LINE, PAGE, template

STYLE = """
:root { color-scheme: light dark; --pst-color-primary: #1d5f91; --pst-color-surface: SURFACE_LIGHT;
  --pst-color-text-base: INK_LIGHT; --page: PAGE_LIGHT; --line: LINE_LIGHT }
html[data-theme="dark"] { --pst-color-primary: #7fb9e6; --pst-color-surface: SURFACE_DARK;
  --pst-color-text-base: INK_DARK; --page: PAGE_DARK; --line: LINE_DARK }
body { background: var(--page); color: var(--pst-color-text-base); font: 17px/1.6 system-ui, sans-serif;
  margin: 0 auto; max-width: 60rem; padding: 0.5rem 1rem 3rem }
figure { margin: 1.6rem 0 }
"""
THEME = """
const dark = matchMedia("(prefers-color-scheme: dark)");
const follow = () => { document.documentElement.dataset.theme = dark.matches ? "dark" : "light"; };
dark.addEventListener("change", follow);
follow();
"""


def export(path: Path | str, *parts: str, title: str) -> Path:
    """Write a page that stands alone, drawn and moved as the pages of the book are, in about 5 MB.

    Args:
        path: the file to write, whole or not at all.
        parts: what is on it from top to bottom, as `as_html` and `as_question` return it.
        title: its heading.

    Returns:
        The path of the file.

    Raises:
        ValueError: there is nothing to write.
        FileNotFoundError: the script of the book's pages is not there.

    Example:
        >>> export("search.html", as_html(figure, alt="...", caption="..."), title="A search")  # doctest: +SKIP
    """
    if not parts:
        raise ValueError("expected at least one figure to export, got none; pass what as_html returns")
    words = html.escape(title, quote=False)
    templates = json.dumps({mode: template(mode).to_plotly_json() for mode in INK})
    library = (Path(plotly.__file__).parent / "package_data" / "plotly.min.js").read_text(encoding="utf-8")
    scripts = [THEME, library, f"window.mlkitTemplates = {templates};", _asset("book.js")]
    page = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{words}</title>',
        f"<style>{_asset('book.css')}{_style()}</style></head>",
        f'<body><main class="bd-article"><h1>{words}</h1>',
        *parts,
        "</main>",
        *("<script>" + script.replace("</script", "<\\/script") + "</script>" for script in scripts),
        "</body></html>",
    ]
    project.write_whole(Path(path), "\n".join(page).encode())
    return Path(path)


def _style() -> str:
    """Return the style of a page without the book's theme around it."""
    style = STYLE
    for mode in INK:
        for name, colors in (("SURFACE", GRID), ("INK", INK), ("PAGE", PAGE), ("LINE", LINE)):
            style = style.replace(f"{name}_{mode.upper()}", colors[mode])
    return style


def _asset(name: str) -> str:
    path = project.root() / "book" / "_static" / name
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"expected the book's {name} at {path}, found none; name the project's folder in MLKIT_ROOT"
        ) from error
