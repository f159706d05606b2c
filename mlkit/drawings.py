"""Drawings that teach an idea, as SVG text in the color of the page's own words (`currentColor`).

The curves, contours and arrows are computed, not sketched: `orders` runs gradient descent on a quadratic loss.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from mlkit.theme import METHODS

MAML, FOMAML, LSTM = (METHODS[name].color for name in ("MAML", "FOMAML", "LSTM"))
INK = "currentColor"


def _svg(width: int, height: int, *parts: str) -> str:
    style = f"width:100%;max-width:{1.6 * width:g}px;height:auto;display:block;margin:auto"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" style="{style}"'
    return f'{head} font-family="system-ui, sans-serif" font-size="13" fill="none">{"".join(parts)}</svg>'


def _text(
    x: float, y: float, words: str, color: str = INK, *, anchor: str = "middle", weight: int = 400, size: int = 13
) -> str:
    """Return one line of text; `^x^` raises x, `_x_` lowers it."""
    for mark, shift in (("^", "-0.4em"), ("_", "0.25em")):
        back = shift[1:] if shift.startswith("-") else f"-{shift}"
        raised = f'<tspan dy="{shift}" font-size="10">{{}}</tspan><tspan dy="{back}" font-size="10">&#8203;</tspan>'
        pieces = words.split(mark)
        words = "".join(raised.format(piece) if i % 2 else piece for i, piece in enumerate(pieces))
    font = f'font-size="{size}" font-weight="{weight}"'
    return f'<text x="{x:g}" y="{y:g}" fill="{color}" text-anchor="{anchor}" {font}>{words}</text>'


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
        left = 6 + 137 * card
        curve, adapt, judge = (
            np.stack([left + 11 + 108 * share, 86 - 36 * amplitude * np.sin(6.5 * share + phase)], axis=-1)
            for share in (at, support, query)
        )
        parts += [_box(left, 32, 130, 108), _text(left + 65, 22, f"task {card + 1}", weight=600)]
        parts += [_path(curve, opacity=0.5, dash="3 3", width=1.4)]
        parts += [_dot(x, y, MAML) for x, y in adapt] + [_dot(x, y, MAML, filled=False) for x, y in judge]
    parts += [_dot(14, 164, MAML), _text(24, 168, "support: adapt to these", anchor="start")]
    parts += [_dot(222, 164, MAML, filled=False), _text(232, 168, "query: judged on these", anchor="start")]
    return _svg(420, 180, *parts)


def two_loops() -> str:
    """Return the picture of the two loops: adapting to each task inside, moving the initialization outside."""
    turn = np.linspace(-2.4, 2.9, 40)
    loop = np.stack([212 + 26 * np.cos(turn), 74 + 26 * np.sin(turn)], axis=-1)
    parts = [
        _box(4, 56, 92, 64), _text(50, 83, "θ", weight=600), _text(50, 105, "initialization", size=12),
        _arrow([(96, 88), (120, 88)]),
        _box(120, 6, 184, 158, dash="6 4"), _text(212, 28, "inner loop: task i", weight=600),
        _arrow(loop), _text(212, 78, "T steps", size=11), _text(212, 126, "θ_i_ ← θ_i_ − α ∇L(support)"),
        _text(212, 150, "from θ_i_ = θ", size=12), _arrow([(304, 88), (328, 88)]),
        _box(328, 56, 88, 64), _text(372, 83, "L(query)", weight=600), _text(372, 105, "at θ_i_", size=12),
        _arrow([(372, 120), (372, 214), (50, 214), (50, 120)], MAML, width=2.4),
        _text(212, 184, "outer loop: a meta-batch of tasks", MAML, weight=600),
        _text(212, 205, "θ ← θ − β ∇_θ_ mean_i_ L(query; θ_i_)"),
    ]  # fmt: skip
    return _svg(420, 222, *parts)


def orders(*, inner_lr: float = 0.3, steps: int = 3) -> str:
    """Return the picture of first and second order, computed on two quadratic losses.

    T steps on the support loss ½ (θ - c)ᵀ A (θ - c) lead from θ to θ_T. There the query loss has the gradient g. First
    order uses g as it is; second order uses dθ_T/dθ g = (I - αA)^T g, which is short in the directions in which the
    inner loop moves far by itself, since the support loss is steep there.

    Args:
        inner_lr: α.
        steps: T.
    """
    support, support_minimum = np.array([[0.5, 0.25], [0.25, 1.9]]), np.array([2.3, 0.55])
    query, query_minimum = np.array([[0.6, 0.0], [0.0, 0.9]]), np.array([3.0, 1.25])
    jacobian = np.eye(2) - inner_lr * support
    path = [np.array([0.45, 1.55])]
    for _ in range(steps):
        path.append(support_minimum + jacobian @ (path[-1] - support_minimum))
    start, end = path[0], path[-1]
    first = -query @ (end - query_minimum)
    second = np.linalg.matrix_power(jacobian, steps).T @ first
    rings = [_place(ring) for ring in _rings(support, support_minimum, (0.3, 0.75, 1.2, 1.65))]
    parts = [_path(ring, opacity=0.28, width=1.2) for ring in rings]
    parts += [_arrow(_place(np.array(pair))) for pair in pairwise(path)]
    parts += [_arrow(_place(np.array([at, at + first])), FOMAML, width=2.4) for at in (start, end)]
    parts += [_arrow(_place(np.array([start, start + second])), MAML, width=2.4)]
    marks = {
        "θ": (start, -14, -8),
        "θ_T_": (end, -4, 22),
        "support": (support_minimum, 0, 18),
        "query": (query_minimum, 0, 18),
    }
    for words, (point, right, down) in marks.items():
        x, y = _place(point)
        parts += [_dot(x, y, INK, filled="θ" in words), _text(x + right, y + down, words, weight=600, size=12)]
    tips = {"first order: g": (start + first, FOMAML, -6), "second order: (I − αA)^T^ g": (start + second, MAML, 16)}
    for words, (tip, color, down) in tips.items():
        x, y = _place(tip)
        parts += [_text(x + 6, y + down, words, color, anchor="start")]
    return _svg(420, 250, *parts)


def meta_lstm_workflow() -> str:
    """Return the picture of the meta-learner LSTM (paper 002, figure 3.1), two of its T inner steps and the query set.

    Subscripts count inner steps. An arrow leads from the network M to the LSTM with gradient and loss, and back with
    the new weights, which are the cell state; dashed are the arrows that the first-order assumption cuts.
    """
    parts = []
    for step, left in enumerate((4, 124)):
        middle, right = left + 48, left + 96
        parts += [
            _box(left, 6, 96, 34), _text(middle, 28, f"(X_{step}_, Y_{step}_)"),
            _arrow([(middle, 40), (middle, 72)]),
            _box(left, 72, 96, 44), _text(middle, 99, f"M, θ_{step}_", weight=600),
            _arrow([(middle, 116), (middle, 160)], FOMAML, dash="4 3"),
            _text(middle + 6, 142, f"∇_{step}_, L_{step}_", FOMAML, anchor="start", size=12),
            _box(left, 160, 96, 44, LSTM), _text(middle, 187, "LSTM φ", LSTM, weight=600),
            _arrow([(right, 172), (right + 12, 172), (right + 12, 94), (right + 24, 94)], LSTM),
            _arrow([(right, 192), (right + 24, 192)], LSTM),
        ]  # fmt: skip
    parts += [
        _text(262, 99, "· · ·"), _text(262, 197, "· · ·"), _arrow([(280, 94), (312, 94)], LSTM),
        _box(312, 6, 100, 34), _text(362, 28, "query (X, Y)"), _arrow([(362, 40), (362, 72)]),
        _box(312, 72, 100, 44), _text(362, 99, "M, θ_T_", weight=600), _arrow([(362, 116), (362, 160)]),
        _box(312, 160, 100, 44), _text(362, 187, "L(query)", weight=600),
        _arrow([(362, 204), (362, 244), (52, 244), (52, 204)], MAML, width=2.4),
        _text(207, 235, "outer loop: learn θ_0_ and φ", MAML, weight=600),
        _text(207, 268, "dashed: constants under the first-order assumption", FOMAML, size=12),
    ]  # fmt: skip
    return _svg(420, 278, *parts)


def landscape_metrics(*, inner_lr: float = 0.22, steps: int = 4) -> str:
    """Return the picture of the three metrics of paper 003, computed on quadratic support losses of two tasks.

    (1) curvature: the parabola that the loss is at the adapted solution, along the steepest eigenvector of its Hessian;
    (2) coherence of trajectories: the angle between the displacements, from the initialization to the two solutions;
    (3) coherence of gradients: the two gradients at the initialization, and their inner product.

    Args:
        inner_lr: α.
        steps: T.
    """
    losses = [
        (np.array([[1.6, 0.5], [0.5, 0.7]]), np.array([1.55, 0.62])),
        (np.array([[0.6, -0.3], [-0.3, 1.8]]), np.array([1.2, 1.68])),
    ]
    paths = []
    for hessian, minimum in losses:
        path = [np.array([0.18, 0.3])]
        for _ in range(steps):
            path.append(path[-1] - inner_lr * hessian @ (path[-1] - minimum))
        paths.append(np.array(path))
    gradients = [hessian @ (minimum - paths[0][0]) for hessian, minimum in losses]
    panels = (_curvature(*losses[0], paths[0]), _angle(paths), _inner_product(paths[0][0], gradients))
    titles = ("1 curvature", "2 trajectories", "3 gradients")
    parts = [_text(70 + 140 * i, 16, title, weight=600) for i, title in enumerate(titles)]
    for i, panel in enumerate(panels):
        parts.append(f'<g transform="translate({140 * i} 0)">{"".join(panel)}</g>')
    return _svg(420, 216, *parts)


def _small(points: np.ndarray) -> np.ndarray:
    """Return where points (..., 2) of the plane lie in a panel of `landscape_metrics`."""
    return np.asarray(points) * [66, -66] + [10, 160]


def _mark(point: np.ndarray, words: str, color: str, right: float, down: float) -> list[str]:
    x, y = _small(point)
    return [_dot(x, y, color), _text(x + right, y + down, words, color, weight=600, size=12)]


def _curvature(hessian: np.ndarray, minimum: np.ndarray, path: np.ndarray) -> list[str]:
    """Return the first panel: descent into a bowl, and the parabola across it at the solution."""
    parts = [_path(_small(ring), opacity=0.3, width=1.1) for ring in _rings(hessian, minimum, (0.18, 0.36, 0.54))]
    parts += [_arrow(_small(path), width=1.5)]
    values, vectors = np.linalg.eigh(hessian)
    along, steep = np.linspace(-0.5, 0.5, 30)[:, None], vectors[:, -1] * np.sign(vectors[0, -1])
    flat = np.array([-steep[1], steep[0]])
    parabola = path[-1] + along * steep + 0.9 * values[-1] * along**2 * flat
    parts += [_path(_small(parabola), FOMAML, width=2.4)]
    parts += _mark(path[0], "θ", INK, -1, 20) + _mark(path[-1], "θ̃_i_", FOMAML, 14, 14)
    return [*parts, _text(70, 206, "‖H(θ̃_i_)‖ = |λ|_max_", FOMAML, size=12)]


def _angle(paths: list[np.ndarray]) -> list[str]:
    """Return the second panel: two trajectories, the straight displacements, and the angle between them."""
    parts, bearings = [], []
    for path, name, down in zip(paths, ("θ̃_i_", "θ̃_j_"), (16, -10), strict=True):
        parts += [_path(_small(path), width=1.4, opacity=0.7), _arrow(_small(path[[0, -1]]), MAML, dash="4 3")]
        parts += _mark(path[-1], name, INK, 8, down)
        bearings.append(np.arctan2(*(path[-1] - path[0])[::-1]))
    turn = np.linspace(*bearings, 20)
    parts += [_path(_small(paths[0][0] + 0.5 * np.stack([np.cos(turn), np.sin(turn)], -1)), MAML, width=2.4)]
    parts += _mark(paths[0][0], "θ", INK, -1, 20)
    return [*parts, _text(70, 206, "cos of the angle", MAML, size=12)]


def _inner_product(start: np.ndarray, gradients: list[np.ndarray]) -> list[str]:
    """Return the third panel: the two gradients at the initialization, one projected on the other."""
    first, second = (0.55 * gradient for gradient in gradients)
    foot = start + first * (first @ second) / (first @ first)
    parts = [_path(_small(np.array([start + second, foot])), width=1.2, dash="2 3")]
    parts += [_arrow(_small(np.array([start, start + gradient])), MAML, width=2.4) for gradient in (first, second)]
    for gradient, name, right, down in ((first, "g_i_", 8, 14), (second, "g_j_", 2, -8)):
        x, y = _small(start + gradient)
        parts += [_text(x + right, y + down, name, MAML, weight=600, size=12)]
    parts += _mark(start, "θ", INK, -1, 20)
    return [*parts, _text(70, 206, "g_i_ · g_j_ = |g_i_| |g_j_| cos", MAML, size=12)]


def _place(points: np.ndarray) -> np.ndarray:
    """Return where points (..., 2) of the plane lie in the drawing."""
    return np.asarray(points) * [112, -112] + [16, 236]


def _rings(matrix: np.ndarray, center: np.ndarray, radii: tuple[float, ...]) -> list[np.ndarray]:
    """Return contours (80, 2) of the quadratic loss with this Hessian and minimum."""
    values, vectors = np.linalg.eigh(matrix)
    turn = np.linspace(0, 2 * np.pi, 80)
    unit = vectors @ (np.stack([np.cos(turn), np.sin(turn)]) / np.sqrt(values)[:, None])
    return [center + radius * unit.T for radius in radii]
