"""Diagrams of networks, drawn from what a pass through the network itself recorded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import plotly.graph_objects as go
from IPython.display import Markdown

from mlkit.figures.parts import styled
from mlkit.models.tracing import Cost, Operation
from mlkit.theme import METHODS, NEUTRAL

ROW, BOX, WIDE, NARROW = 72, 48, 150, 84  # pixels from row to row, height of a box, and widths: alone, or beside others
HEADING, LANE = 0.3, 1.7  # rows for the name of a section; where long arrows run, left and right of the boxes
WORDS = {"concat": "concatenate", "add": "+", "mean": "pixel mean", "resize": "bilinear resize"}
TINTS = tuple(METHODS[name].color for name in ("FOMAML*", "MAML", "Reptile"))  # of the decoder's parts and the head
Place = tuple[float, float]  # column and row


def network(steps: Sequence[Operation], *, size: int) -> go.Figure:
    """Draw a network from top to bottom: a box is an operation with the shape of its output, an arrow is a tensor.

    Args:
        steps: what ran, as `mlkit.models.tracing.operations` (or `stages`, for fewer boxes) returns it.
        size: height and width of the image in pixels.

    Raises:
        ValueError: there is nothing to draw.
    """
    if not steps:
        raise ValueError("expected the operations of a network, got none; pass what `operations` returned")
    steps = [Operation("image", "image", (), (3, size, size)), *steps]
    inputs = [[position + 1 for position in dict.fromkeys(step.inputs)] for step in steps]  # the image was -1
    sections = [_section(step.block) for step in steps]
    tints = dict(
        zip([name for name in dict.fromkeys(sections) if name not in ("image", "encoder")], TINTS, strict=False)
    )
    places = _places(inputs, sections)
    last = max(row for _, row in places)
    figure = styled(height=round(ROW * (last + 1.2)) + 16, showlegend=False, margin={"l": 4, "r": 4, "t": 8, "b": 8})
    for name in list(dict.fromkeys(sections))[1:]:
        rows = [row for (_, row), own in zip(places, sections, strict=True) if own == name]
        _frame(figure, name, min(rows), max(rows), tints.get(name, NEUTRAL))
    for target, sources in enumerate(inputs):
        for source in sources:
            skips = sections[source] == "encoder" and sections[target] != sections[source + 1]
            _arrow(figure, places, source, target, lane=-LANE if skips else LANE)
    beside = Counter(row for _, row in places)
    for step, place, name in zip(steps, places, sections, strict=True):
        _box(figure, step, place, tints.get(name, NEUTRAL), WIDE if beside[place[1]] == 1 and not place[0] else NARROW)
    figure.update_xaxes(visible=False, range=[-1.85, 1.85], fixedrange=True)
    return figure.update_yaxes(visible=False, range=[last + 0.6, -0.6], fixedrange=True)


def cost_table(rows: Sequence[Cost]) -> Markdown:
    """Show what each block costs, and all of them."""
    whole = sum(row.multiply_adds for row in rows)
    lines = ["| block | output | weights | running statistics | multiply-adds | share |", "|---|---|--:|--:|--:|--:|"]
    lines += [
        f"| {row.block} | {_shape(row.shape)} | {row.parameters:,} | {row.statistics:,} | "
        f"{row.multiply_adds / 1e6:.1f} M | {100 * row.multiply_adds / whole:.1f} % |"
        for row in rows
    ]
    weights, statistics = sum(row.parameters for row in rows), sum(row.statistics for row in rows)
    return Markdown(
        "\n".join([*lines, f"| **all** | | **{weights:,}** | {statistics:,} | {whole / 1e6:.1f} M | 100 % |"])
    )


def _places(inputs: Sequence[Sequence[int]], sections: Sequence[str]) -> list[Place]:
    """Return where boxes go: above all that follow from them, as low as that allows; sections have a heading."""
    followers: list[list[int]] = [[] for _ in inputs]
    for target, sources in enumerate(inputs):
        for source in sources:
            followers[source].append(target)
    below = [0] * len(inputs)
    for index in reversed(range(len(inputs))):
        below[index] = max((below[target] + 1 for target in followers[index]), default=0)
    columns = [0.0] * len(inputs)
    for height in sorted(set(below)):
        row = [index for index, own in enumerate(below) if own == height]
        for order, index in enumerate(row):
            columns[index] = order - (len(row) - 1) / 2
        if len(row) == 1 and [inputs[target] for target in followers[row[0]]] == [row]:
            columns[row[0]] = columns[followers[row[0]][0]]  # in line with the only one that it feeds
    levels = [max(below) - height for height in below]
    starts = [min(level for level, own in zip(levels, sections, strict=True) if own == name) for name in set(sections)]
    rows = [level + HEADING * sum(start <= level for start in starts) for level in levels]
    return [(column, row - HEADING) for column, row in zip(columns, rows, strict=True)]


def _arrow(figure: go.Figure, places: Sequence[Place], source: int, target: int, *, lane: float) -> None:
    """Draw an arrow from below one box to above another, past the boxes between them."""
    (x, y), (to_x, to_y) = places[source], places[target]
    between = [column for column, row in places if y < row < to_y]
    free = [way for way in (to_x, x) if all(abs(way - column) > 0.9 for column in between)] or [lane]
    edge = BOX / 2 / ROW
    turn = 0.43 if between else (to_y - y) / 2  # long arrows keep apart from those that cross the same gap
    xs = [x, x, free[0], free[0], to_x, to_x]
    ys = [y + edge, y + turn, y + turn, to_y - turn, to_y - turn, to_y - edge]
    marks = {"symbol": "arrow", "size": [0] * 5 + [9], "angleref": "previous", "color": NEUTRAL}
    line = {"color": NEUTRAL, "width": 1.6}
    figure.add_scatter(x=xs, y=ys, mode="lines+markers", line=line, marker=marks, hoverinfo="skip")


def _box(figure: go.Figure, step: Operation, place: Place, color: str, width: int) -> None:
    title = WORDS.get(step.title, step.title.replace("convolution", "conv")).replace(", ", "<br>")
    times = f"{step.repeats} × " if step.repeats > 1 else ""
    figure.add_annotation(
        x=place[0], y=place[1], text=f"{times}{title}<br>{_shape(step.shape)}", showarrow=False, width=width,
        height=BOX - 6, bordercolor=color, borderwidth=1.6, borderpad=2, font={"size": 11}, hovertext=step.block,
    )  # fmt: skip


def _frame(figure: go.Figure, name: str, first: float, last: float, color: str) -> None:
    top = first - 0.44 - HEADING
    ends = {"x0": -1.82, "x1": 1.82, "y0": top, "y1": last + 0.43}
    figure.add_shape(type="rect", **ends, line={"width": 0}, fillcolor=color, opacity=0.09, layer="below")
    corner = {"x": -1.6, "y": top, "xanchor": "left", "yanchor": "top"}
    figure.add_annotation(**corner, text=f"<b>{name}</b>", showarrow=False, font={"size": 12})


def _section(block: str) -> str:
    return "encoder" if block == "stem" or block.startswith("MBConv") else block


def _shape(shape: Sequence[int]) -> str:
    channels, height, width = shape
    return f"{channels} × {height} × {width}"
