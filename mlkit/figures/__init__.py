"""Figures: pure functions from data to Plotly, and `show`, which puts one on the page with its words."""

from mlkit.figures.blocks import block_bars
from mlkit.figures.codes import code_maps
from mlkit.figures.curves import Series, learning_curves, sine_adaptation, stacked_curves
from mlkit.figures.explorer import History, explorer
from mlkit.figures.gallery import legend, task_gallery
from mlkit.figures.linked import Choice, Linked, as_linked_html, clock_curves, linked, show_linked
from mlkit.figures.masks import Segmented, Tile, mask_chooser, mask_gallery, overlaid
from mlkit.figures.page import as_html, show
from mlkit.figures.questions import Question, as_question, ask
from mlkit.figures.relations import Cloud, correlation, pair_map
from mlkit.figures.rules import Wave, update_rules, wave_chooser
from mlkit.figures.scores import Bar, Cost, cost_curves, score_bars, score_distribution
from mlkit.figures.searches import Point, Search, search_curves, search_map
from mlkit.figures.shots import shots_curves, shots_gains
from mlkit.figures.sortable import Cell, Column, sortable
from mlkit.figures.standalone import export
from mlkit.figures.surfaces import loss_surface, spectral_density
from mlkit.figures.times import Timed, time_scores

__all__ = [
    "Bar",
    "Cell",
    "Choice",
    "Cloud",
    "Column",
    "Cost",
    "History",
    "Linked",
    "Point",
    "Question",
    "Search",
    "Segmented",
    "Series",
    "Tile",
    "Timed",
    "Wave",
    "as_html",
    "as_linked_html",
    "as_question",
    "ask",
    "block_bars",
    "clock_curves",
    "code_maps",
    "correlation",
    "cost_curves",
    "explorer",
    "export",
    "learning_curves",
    "legend",
    "linked",
    "loss_surface",
    "mask_chooser",
    "mask_gallery",
    "overlaid",
    "pair_map",
    "score_bars",
    "score_distribution",
    "search_curves",
    "search_map",
    "shots_curves",
    "shots_gains",
    "show",
    "show_linked",
    "sine_adaptation",
    "sortable",
    "spectral_density",
    "stacked_curves",
    "task_gallery",
    "time_scores",
    "update_rules",
    "wave_chooser",
]
