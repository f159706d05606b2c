"""Figures: pure functions from data to Plotly, and `show`, which puts one on the page with its words."""

from mlkit.figures.curves import Series, learning_curves, sine_adaptation, stacked_curves
from mlkit.figures.explorer import History, explorer
from mlkit.figures.gallery import legend, task_gallery
from mlkit.figures.page import as_html, show
from mlkit.figures.relations import Cloud, correlation, pair_map
from mlkit.figures.scores import Bar, Cost, cost_curves, score_bars, score_distribution
from mlkit.figures.surfaces import loss_surface, spectral_density

__all__ = [
    "Bar",
    "Cloud",
    "Cost",
    "History",
    "Series",
    "as_html",
    "correlation",
    "cost_curves",
    "explorer",
    "learning_curves",
    "legend",
    "loss_surface",
    "pair_map",
    "score_bars",
    "score_distribution",
    "show",
    "sine_adaptation",
    "spectral_density",
    "stacked_curves",
    "task_gallery",
]
