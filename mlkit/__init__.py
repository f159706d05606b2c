"""Gradient-based meta-learning: learners, landscape metrics, update-hyperparameter optimization, and their evidence."""

from mlkit.parameters import parameters
from mlkit.records import Record, Result, Unit

__all__ = ["Record", "Result", "Unit", "__version__", "parameters"]
__version__ = "0.1.0"
