"""Families of meta-learners, one file each."""

from mlkit.learners.finetuning import Finetuning
from mlkit.learners.joint import JointTraining
from mlkit.learners.maml import MAML
from mlkit.learners.meta_lstm import MetaLSTM
from mlkit.learners.regularized import RegularizedMAML
from mlkit.learners.reptile import Displacement
from mlkit.learners.special_cases import gradient_descent, inner_lr_limit
from mlkit.learners.transfer import Transfer, with_cosine_head
from mlkit.learners.turtle import Turtle

__all__ = [
    "MAML",
    "Displacement",
    "Finetuning",
    "JointTraining",
    "MetaLSTM",
    "RegularizedMAML",
    "Transfer",
    "Turtle",
    "gradient_descent",
    "inner_lr_limit",
    "with_cosine_head",
]
