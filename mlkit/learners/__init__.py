"""Families of meta-learners, one file each."""

from mlkit.learners.finetuning import Finetuning
from mlkit.learners.joint import JointTraining
from mlkit.learners.maml import MAML
from mlkit.learners.meta_lstm import MetaLSTM
from mlkit.learners.regularized import RegularizedMAML
from mlkit.learners.reptile import Displacement
from mlkit.learners.special_cases import gradient_descent, inner_lr_limit
from mlkit.learners.turtle import Turtle

__all__ = [
    "MAML",
    "Displacement",
    "Finetuning",
    "JointTraining",
    "MetaLSTM",
    "RegularizedMAML",
    "Turtle",
    "gradient_descent",
    "inner_lr_limit",
]
