"""Gradient-based meta-learning: learners, landscape metrics, update-hyperparameter optimization, and their evidence."""

from mlkit.parameters import parameters
from mlkit.records import Record, Result, Unit
from mlkit.segment import segment

__all__ = ["Record", "Result", "Unit", "__version__", "parameters", "segment"]
__version__ = "0.1.0"
