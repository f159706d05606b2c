"""The drawing of LEO's inner loop, paper 004's figure 1."""

from __future__ import annotations

from mlkit.drawings import _arrow, _box, _svg, _text
from mlkit.theme import METHODS

LEO, STEP = METHODS["LEO"].color, METHODS["FOMAML"].color


def inner_loop() -> str:
    """Return the drawing: from a class's examples over its code to weights, the step in codes, and the query set."""
    parts = [
        _box(4, 60, 76, 44), _text(42, 79, "support"), _text(42, 96, "x_n_^k^"),
        _arrow([(80, 82), (100, 82)]),
        _box(100, 60, 84, 44, LEO), _text(142, 79, "encoder", LEO, weight=600), _text(142, 96, "φ_e_", LEO),
        _arrow([(184, 82), (204, 82)]),
        _box(204, 60, 60, 44), _text(234, 79, "code"), _text(234, 96, "z_n_", weight=600),
        _arrow([(264, 82), (284, 82)]),
        _box(284, 60, 84, 44, LEO), _text(326, 79, "decoder", LEO, weight=600), _text(326, 96, "φ_d_", LEO),
        _arrow([(368, 82), (388, 82)]),
        _box(388, 60, 84, 44), _text(430, 79, "classifier"), _text(430, 96, "w_n_", weight=600),
        _arrow([(430, 104), (430, 140)]),
        _box(388, 140, 84, 36), _text(430, 163, "L(support)"),
        _arrow([(388, 158), (234, 158), (234, 104)], STEP),
        _text(311, 150, "z_n_ ← z_n_ − α ∇L", STEP, weight=600),
        _text(311, 177, "inner loop, in the space of codes", STEP, size=12),
        _arrow([(42, 104), (42, 196), (430, 196), (430, 176)], dash="4 3"),
        _text(236, 212, "the same examples", size=12),
        _box(388, 4, 84, 32), _text(430, 25, "query x"), _arrow([(430, 36), (430, 60)]),
        _arrow([(472, 82), (500, 82)]), _box(500, 60, 84, 44), _text(542, 87, "L(query)", weight=600),
        _arrow([(542, 104), (542, 234), (142, 234), (142, 104)], LEO, width=2.4),
        _text(342, 252, "outer loop: learn to encode and to decode", LEO, weight=600),
    ]  # fmt: skip
    return _svg(590, 262, *parts)
