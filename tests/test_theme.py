"""The look of the book: readable on both pages, distinct for every reader."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from mlkit.theme import GRID, INK, METHODS, NEUTRAL, PAGE, look, looks, template

# What a reader with deuteranopia or protanopia sees, in linear RGB (Machado, Oliveira and Fernandes 2009, severity 1).
DEUTERANOPIA = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
PROTANOPIA = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
TOGETHER = [  # methods that share a figure
    ("MAML", "FOMAML", "Reptile"),
    ("MAML", "FOMAML", "transfer", "ANIL", "Meta-SGD"),
    ("FOMAML*", "joint-trained", "from scratch"),
    ("MAML", "LSTM", "TURTLE", "transfer", "from scratch"),
    ("MAML", "FOMAML", "finetuning"),
    ("MAML", "FOMAML", "regularized MAML"),
    ("MAML", "LEO", "Meta-SGD"),
]


def linear(color: str) -> np.ndarray:
    """Return linear RGB of `#rrggbb`."""
    value = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def contrast(first: str, second: str) -> float:
    """Return the WCAG contrast ratio of two colors."""
    low, high = sorted(float(linear(color) @ [0.2126, 0.7152, 0.0722]) for color in (first, second))
    return (high + 0.05) / (low + 0.05)


def oklab(rgb: np.ndarray) -> np.ndarray:
    """Return Oklab coordinates, in which equal distances look equally far."""
    to_cones = [[0.41222, 0.53633, 0.05145], [0.21190, 0.68070, 0.10740], [0.08830, 0.28172, 0.62998]]
    to_lab = [[0.21045, 0.79362, -0.00407], [1.97800, -2.42859, 0.45059], [0.02590, 0.78277, -0.80868]]
    return np.array(to_lab) @ np.cbrt(np.array(to_cones) @ rgb.clip(0, 1))


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_every_line_and_word_stands_out_from_the_page(mode):
    assert contrast(INK[mode], PAGE[mode]) >= 7
    for color in (NEUTRAL, *(method.color for method in METHODS.values())):
        assert contrast(color, PAGE[mode]) >= 3, color


@pytest.mark.parametrize("sight", [np.eye(3), DEUTERANOPIA, PROTANOPIA], ids=["usual", "deuteranopia", "protanopia"])
def test_methods_of_one_figure_have_colors_that_everyone_tells_apart(sight):
    for group in TOGETHER:
        seen = {name: oklab(np.array(sight) @ linear(METHODS[name].color)) for name in group}
        for first, second in combinations(group, 2):
            assert np.linalg.norm(seen[first] - seen[second]) > 0.055, (first, second)


def test_color_is_never_the_only_sign():
    assert len({method.symbol for method in METHODS.values()}) == len(METHODS)
    assert len({method.color for method in METHODS.values()}) == len(METHODS)


def test_a_label_may_carry_a_remark():
    assert look("FOMAML* (5 shots)") == METHODS["FOMAML*"]
    assert look("MAML, T = 5") == METHODS["MAML"]


def test_an_unknown_method_gets_the_nearest_name():
    with pytest.raises(ValueError, match=r"got 'Reptil, T=1'; did you mean 'Reptile'\?"):
        look("Reptil, T=1")


def test_labels_of_one_method_differ_by_dash():
    pair = looks(["MAML, training", "MAML, test", "FOMAML"])
    assert pair["MAML, training"].color == pair["MAML, test"].color
    assert pair["MAML, training"].dash != pair["MAML, test"].dash


def test_templates_differ_in_ink_only_where_they_should():
    light, dark = template("light"), template("dark")
    assert light.layout.font.color != dark.layout.font.color
    assert light.layout.paper_bgcolor == dark.layout.paper_bgcolor == "rgba(0,0,0,0)"
    assert contrast(GRID["light"], PAGE["light"]) < 1.5, "a grid stays behind the lines"
    with pytest.raises(ValueError, match="expected 'light' or 'dark', got 'sepia'"):
        template("sepia")
