"""Drawings that teach an idea, as SVG text in the color of the page's own words (`currentColor`).

The curves, contours and arrows are computed, not sketched: `orders` runs gradient descent on a quadratic loss.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from mlkit.theme import METHODS

MAML, FOMAML, REPTILE = (METHODS[name].color for name in ("MAML", "FOMAML", "Reptile"))
INK = "currentColor"


def _svg(width: int, height: int, *parts: str) -> str:
    style = f"width:100%;max-width:{1.6 * width:g}px;height:auto;display:block;margin:auto"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" style="{style}"'
    return f'{head} font-family="system-ui, sans-serif" font-size="13" fill="none">{"".join(parts)}</svg>'


def _text(x: float, y: float, words: str, color: str = INK, *, anchor: str = "middle", weight: int = 400) -> str:
    """Return one line of text; `^x^` raises x, `_x_` lowers it."""
    for mark, shift in (("^", "-0.4em"), ("_", "0.25em")):
        back = shift[1:] if shift.startswith("-") else f"-{shift}"
        raised = f'<tspan dy="{shift}" font-size="10">{{}}</tspan><tspan dy="{back}" font-size="10">&#8203;</tspan>'
        pieces = words.split(mark)
        words = "".join(raised.format(piece) if i % 2 else piece for i, piece in enumerate(pieces))
    return f'<text x="{x:g}" y="{y:g}" fill="{color}" text-anchor="{anchor}" font-weight="{weight}">{words}</text>'


def _box(x: float, y: float, width: float, height: float, color: str = INK, *, dash: str = "none") -> str:
    size = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="8"'
    return f'<rect {size} stroke="{color}" stroke-opacity="0.75" stroke-width="1.4" stroke-dasharray="{dash}"/>'


def _path(points: np.ndarray, color: str = INK, *, width: float = 1.8, dash: str = "none", opacity: float = 1.0) -> str:
    """Return the polyline through `points` (n, 2)."""
    way = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    pen = f'stroke="{color}" stroke-width="{width:g}" stroke-dasharray="{dash}" stroke-opacity="{opacity:g}"'
    return f'<polyline points="{way}" {pen} stroke-linejoin="round"/>'


def _arrow(points: np.ndarray, color: str = INK, *, width: float = 1.8, dash: str = "none") -> str:
    """Return the polyline through `points` (n, 2) with an arrow head at its end."""
    points = np.asarray(points, dtype=float)
    along = points[-1] - points[-2]
    along = along / np.linalg.norm(along)
    across, base = np.array([-along[1], along[0]]), points[-1] - 9 * along
    head = " ".join(f"{x:.1f},{y:.1f}" for x, y in (points[-1], base + 4.5 * across, base - 4.5 * across))
    shaft = np.vstack([points[:-1], base])
    return _path(shaft, color, width=width, dash=dash) + f'<polygon points="{head}" fill="{color}"/>'


def _dot(x: float, y: float, color: str, *, filled: bool = True) -> str:
    fill = color if filled else "none"
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.2" stroke="{color}" stroke-width="1.8" fill="{fill}"/>'


def task() -> str:
    """Return the picture of a task: three sine tasks, each with its support and its query examples."""
    waves = [(1.0, 0.0), (0.45, 1.4), (0.8, 3.3)]  # amplitude, phase
    at = np.linspace(0, 1, 60)
    support, query = np.array([0.12, 0.31, 0.55, 0.74, 0.92]), np.array([0.05, 0.22, 0.43, 0.66, 0.84])
    parts = []
    for card, (amplitude, phase) in enumerate(waves):

        def place(
            share: np.ndarray, *, left: float = 12 + 137 * card, a: float = amplitude, b: float = phase
        ) -> np.ndarray:
            return np.stack([left + 10 + 102 * share, 84 - 34 * a * np.sin(6.5 * share + b)], axis=-1)

        parts += [_box(12 + 137 * card, 34, 122, 100), _text(73 + 137 * card, 24, f"task {card + 1}", weight=600)]
        parts += [_path(place(at), opacity=0.45, dash="3 3", width=1.4)]
        parts += [_dot(x, y, MAML) for x, y in place(support)]
        parts += [_dot(x, y, FOMAML, filled=False) for x, y in place(query)]
    parts += [_dot(62, 158, MAML), _text(72, 162, "support: adapt to these", anchor="start")]
    parts += [_dot(240, 158, FOMAML, filled=False), _text(250, 162, "query: be judged on these", anchor="start")]
    return _svg(420, 176, *parts)


def two_loops() -> str:
    """Return the picture of the two loops: adapting to each task inside, moving the initialization outside."""
    turn = np.linspace(-2.4, 2.9, 40)
    loop = np.stack([221 + 24 * np.cos(turn), 78 + 24 * np.sin(turn)], axis=-1)
    parts = [
        _box(10, 58, 92, 64), _text(56, 84, "θ", weight=600), _text(56, 106, "initialization"),
        _arrow([(102, 90), (142, 90)]),
        _box(142, 14, 158, 152, MAML, dash="6 4"), _text(221, 34, "inner loop, each task i", MAML, weight=600),
        _arrow(loop, MAML), _text(221, 83, "T steps", MAML),
        _text(221, 126, "φ_i_ ← φ_i_ − α ∇L(support)"), _text(221, 150, "starts at φ_i_ = θ"),
        _arrow([(300, 90), (334, 90)]),
        _box(334, 58, 78, 64), _text(373, 84, "L(query)", weight=600), _text(373, 106, "at φ_i_"),
        _arrow([(373, 122), (373, 194), (56, 194), (56, 122)], FOMAML, width=2.2),
        _text(214, 186, "outer loop, a meta-batch of tasks", FOMAML, weight=600),
        _text(214, 212, "θ ← θ − β ∇_θ_ mean_i_ L(query; φ_i_)"),
    ]  # fmt: skip
    return _svg(422, 222, *parts)


def orders(*, inner_lr: float = 0.32, steps: int = 3) -> str:
    """Return the picture of first and second order on the loss ½ (φ - c)ᵀ A (φ - c), with its exact gradients.

    First order takes the gradient g at the adapted weights as it is; second order returns (I - αA)^T g, since each of
    the T inner steps shrinks the directions in which the loss curves most.
    """
    curvature, center = np.array([[0.55, 0.35], [0.35, 2.2]]), np.array([3.1, 0.35])
    step = np.eye(2) - inner_lr * curvature
    path = [np.array([0.35, 1.25])]
    for _ in range(steps):
        path.append(center + step @ (path[-1] - center))
    first = curvature @ (path[-1] - center)
    second = np.linalg.matrix_power(step, steps).T @ first

    def place(points: np.ndarray) -> np.ndarray:
        return np.asarray(points) * [95, -95] + [40, 176]

    values, vectors = np.linalg.eigh(curvature)
    turn = np.linspace(0, 2 * np.pi, 80)
    circle = np.stack([np.cos(turn), np.sin(turn)])
    rings = [place(center + r * (vectors @ (circle / np.sqrt(values)[:, None])).T) for r in (0.35, 0.8, 1.25, 1.7)]
    start, end = path[0], path[-1]
    parts = [_path(ring, opacity=0.28, width=1.2) for ring in rings]
    parts += [_arrow(place(np.array(pair)), MAML) for pair in pairwise(path)]
    parts += [_arrow(place(np.array([end, end - first])), FOMAML, width=2.2)]
    parts += [_arrow(place(np.array([start, start - first])), FOMAML, width=2.2, dash="5 4")]
    parts += [_arrow(place(np.array([start, start - second])), REPTILE, width=2.6)]
    parts += [_dot(*place(point), INK) for point in (start, end)]
    (x, y), (u, v) = place(start), place(end)
    parts += [_text(x - 12, y - 10, "θ", weight=600), _text(u + 6, v + 22, "φ", weight=600)]
    return _svg(420, 300, *parts)
