"""Families of meta-learners, one file each."""

from mlkit.learners.maml import MAML
from mlkit.learners.reptile import Displacement

__all__ = ["MAML", "Displacement"]
