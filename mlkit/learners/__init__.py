"""Families of meta-learners, one file each."""

from mlkit.learners.finetuning import Finetuning
from mlkit.learners.joint import JointTraining
from mlkit.learners.maml import MAML
from mlkit.learners.regularized import RegularizedMAML
from mlkit.learners.reptile import Displacement

__all__ = ["MAML", "Displacement", "Finetuning", "JointTraining", "RegularizedMAML"]
