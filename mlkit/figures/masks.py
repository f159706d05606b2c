"""Pictures with masks: who is shown what, what the network makes of it, and where it fails."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from PIL import Image
from plotly.subplots import make_subplots

from mlkit.figures.parts import styled

RED = np.array([225.0, 25.0, 40.0])
GAP, TITLE, NOTE = 0.06, 0.3, 0.22  # of a gallery, in widths of a tile
ACROSS, WIDE, BETWEEN = 3, 680, 70  # panels of a chooser side by side; its width and the gap of its rows in pixels
BARE = {"visible": False, "showgrid": False, "constrain": "domain"}


@dataclass(frozen=True)
class Tile:
    """A picture (height, width, 3), uint8, with a mask (height, width) in [0, 1] to be drawn over it, or none.

    note: what stands below it, such as a score; name: what the pointer tells.
    """

    picture: np.ndarray
    mask: np.ndarray | None = None
    note: str = ""
    name: str = ""


@dataclass(frozen=True)
class Segmented:
    """One query picture, told from a few labeled ones: `panels` by title, the same number for every choice."""

    name: str
    support: Sequence[Tile]
    panels: Mapping[str, Tile]


def overlaid(tile: Tile) -> np.ndarray:
    """Return the picture (height, width, 3), uint8, half red where the mask is, with a red edge, darker elsewhere.

    Raises:
        ValueError: the picture is not RGB in bytes, or the mask has another size.
    """
    picture = np.asarray(tile.picture)
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise ValueError(
            f"expected a picture (height, width, 3) of dtype uint8, got {picture.shape} of {picture.dtype}"
        )
    if tile.mask is None:
        return picture
    mask = np.asarray(tile.mask, dtype=float)
    if mask.shape != picture.shape[:2]:
        raise ValueError(f"expected a mask as large as its picture, {picture.shape[:2]}, got {mask.shape}")
    inside = mask > 0.5
    strength = np.where(_edge(inside), 1.0, 0.5 * mask)[..., None]
    return ((1 - strength) * picture * np.where(inside, 1.0, 0.8)[..., None] + strength * RED).round().astype(np.uint8)


def _edge(inside: np.ndarray) -> np.ndarray:
    """Mark the pixels of a mask that have a neighbor outside it; the border of the picture is no edge."""
    padded = np.pad(inside, 1, mode="edge")
    around = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inside & ~around


def mask_gallery(sections: Mapping[str, Sequence[Tile]], *, columns: int = 4) -> go.Figure:
    """Draw tiles in rows of `columns`, each section under its title.

    Photographs of a downloaded data set belong to others: never publish them with this.

    Args:
        sections: title of a section -> tiles.
        columns: tiles side by side; four can be told apart on a telephone.

    Raises:
        ValueError: there is no tile.
    """
    tiles = [tile for section in sections.values() for tile in section]
    if not tiles:
        raise ValueError(f"expected at least one tile, got {len(sections)} sections without")
    figure, top = styled(margin={"l": 4, "r": 4, "t": 10, "b": 4}), 0.0
    for title, section in sections.items():
        figure.add_annotation(**_words(title, 0, top + TITLE, xanchor="left", size=14))
        top += TITLE
        for start in range(0, len(section), columns):
            row = section[start : start + columns]
            for column, tile in enumerate(row):
                _add_tile(figure, tile, column * (1 + GAP), top)
            top += 1 + (NOTE if any(tile.note for tile in row) else GAP)
    width = columns * (1 + GAP) - GAP
    figure.update_layout(height=14 + round(690 * top / width))
    figure.update_xaxes(range=[0, width], **BARE)
    return figure.update_yaxes(range=[top, 0], scaleanchor="x", **BARE)


def _add_tile(figure: go.Figure, tile: Tile, left: float, top: float) -> None:
    height, width = tile.picture.shape[:2]
    step = 1 / max(height, width)
    hover = {"hovertemplate": f"{tile.name}<extra></extra>"} if tile.name else {"hoverinfo": "skip"}
    figure.add_image(source=_source([tile]), x0=left + step / 2, y0=top + step / 2, dx=step, dy=step, **hover)
    if tile.note:
        figure.add_annotation(**_words(tile.note, left + 0.5, top + 1, yanchor="top", size=12))


def _words(
    text: str, x: float, y: float, *, size: int, xanchor: str = "center", yanchor: str = "bottom"
) -> dict[str, Any]:
    where = {"x": x, "y": y, "xref": "x", "yref": "y", "xanchor": xanchor, "yanchor": yanchor}
    return {"text": text, **where, "showarrow": False, "font": {"size": size}, "borderpad": 0}


def mask_chooser(choices: Sequence[Segmented], *, words: str = "picture") -> go.Figure:
    """Draw what was shown above and what was answered below; a chooser goes through the pictures.

    The support pictures stand in one row with their masks; below are the panels, three in a row.

    Args:
        choices: what can be chosen; the first is shown at first.
        words: what the chooser is called.

    Raises:
        ValueError: there is no choice, or they differ in the number of support pictures or of panels.
    """
    sizes = {(len(choice.support), len(choice.panels)) for choice in choices}
    if len(sizes) != 1:
        raise ValueError(f"expected choices of one number of support pictures and panels, got {sorted(sizes)}")
    ((shots, panels),) = sizes
    rows = -(-panels // ACROSS)
    heights = [min(1.0, ACROSS / shots), *[1.0] * rows]
    inner = WIDE / ACROSS * sum(heights) + BETWEEN * rows
    figure = make_subplots(
        rows=1 + rows, cols=ACROSS, specs=[[{"colspan": ACROSS}, None, None], *[[{}] * ACROSS] * rows],
        subplot_titles=_titles(choices[0], rows), row_heights=heights, horizontal_spacing=0.02,
        vertical_spacing=BETWEEN / inner,
    )  # fmt: skip
    for index, source in enumerate(_sources(choices[0])):
        row, column = (1, 1) if index == 0 else (2 + (index - 1) // ACROSS, 1 + (index - 1) % ACROSS)
        figure.add_image(source=source, hoverinfo="skip", row=row, col=column)
    for axis in range(1, 2 + rows * ACROSS):
        figure.update_layout({f"xaxis{axis}": BARE, f"yaxis{axis}": {**BARE, "autorange": "reversed"}})
        figure.update_layout({f"yaxis{axis}_scaleanchor": f"x{axis}" if axis > 1 else "x"})
    figure.update_annotations(font={"size": 13})
    menus = [_chooser(choices, rows, words)]
    return styled(figure, height=round(inner) + 120, margin={"l": 4, "r": 4, "t": 100, "b": 20}, updatemenus=menus)


def _titles(choice: Segmented, rows: int) -> list[str]:
    """Return one title a panel: its name, and its note; empty panels fill the last row."""
    said = ["<br>".join(filter(None, [title, tile.note])) for title, tile in choice.panels.items()]
    return ["labeled", *said, *[""] * (rows * ACROSS - len(said))]


def _chooser(choices: Sequence[Segmented], rows: int, words: str) -> dict[str, Any]:
    buttons = []
    for choice in choices:
        titles = {f"annotations[{i}].text": title for i, title in enumerate(_titles(choice, rows)) if title}
        args = [{"source": _sources(choice)}, titles]
        buttons.append({"label": choice.name, "method": "update", "args": args})
    return {"name": words, "buttons": buttons, "x": 0, "xanchor": "left", "y": 1.2, "showactive": True}


def _sources(choice: Segmented) -> list[str]:
    return [_source(choice.support), *(_source([tile]) for tile in choice.panels.values())]


def _source(tiles: Sequence[Tile]) -> str:
    """Return tiles side by side as the address of a JPEG that the page carries in itself."""
    pictures = [overlaid(tile) for tile in tiles]
    gap = np.full((len(pictures[0]), max(1, len(pictures[0]) // 20), 3), 128, dtype=np.uint8)
    strip = [part for picture in pictures for part in (picture, gap)][:-1]
    file = io.BytesIO()
    Image.fromarray(np.concatenate(strip, 1)).save(file, "JPEG", quality=88, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
