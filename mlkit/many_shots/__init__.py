"""What k labeled pictures are worth, few or many: the protocol by which paper 000 adapts on its benchmark FP-k.

For few shots the update hyperparameters are given. For more, early stopping on a part of the k pictures finds the
number of steps; then the initialization is adapted anew, to all k of them, for so many steps. `matching` tells from
which k on two initializations come to the same.
"""

from mlkit.many_shots.adapting import adapt, score, walk
from mlkit.many_shots.matching import STATEMENTS, Estimate, Gains, Statement, gains, means
from mlkit.many_shots.protocol import FIGURE_4, Protocol, Rule, StepDecay, best_step
from mlkit.many_shots.study import Start, Study, record, study

__all__ = [
    "FIGURE_4",
    "STATEMENTS",
    "Estimate",
    "Gains",
    "Protocol",
    "Rule",
    "Start",
    "Statement",
    "StepDecay",
    "Study",
    "adapt",
    "best_step",
    "gains",
    "means",
    "record",
    "score",
    "study",
    "walk",
]
