"""Families of meta-learners, one file each."""

from mlkit.learners.finetuning import Finetuning
from mlkit.learners.joint import JointTraining
from mlkit.learners.leo import LEO
from mlkit.learners.leo_codes import CodeWatch, codes_along
from mlkit.learners.leo_presets import leo_outer_loop
from mlkit.learners.maml import MAML
from mlkit.learners.meta_lstm import MetaLSTM
from mlkit.learners.regularized import RegularizedMAML
from mlkit.learners.reptile import Displacement
from mlkit.learners.special_cases import gradient_descent, inner_lr_limit
from mlkit.learners.transfer import Transfer, with_cosine_head
from mlkit.learners.turtle import Turtle

__all__ = [
    "LEO",
    "MAML",
    "CodeWatch",
    "Displacement",
    "Finetuning",
    "JointTraining",
    "MetaLSTM",
    "RegularizedMAML",
    "Transfer",
    "Turtle",
    "codes_along",
    "gradient_descent",
    "inner_lr_limit",
    "leo_outer_loop",
    "with_cosine_head",
]
