"""Update-hyperparameter optimization (paper 000): tune how a meta-learned initialization is adapted.

`tune` searches a `Space` for the settings that make an `Objective` best; an `Engine` proposes them.
"""

from mlkit.uho.engine import Belief, Engine, GaussianProcess
from mlkit.uho.objective import Objective, Worth
from mlkit.uho.space import EFFICIENTLAB_3, EFFICIENTLAB_6_3, Range, Space, Values, tuned
from mlkit.uho.study import Study, Trial, along_range, arrays, tune

__all__ = [
    "EFFICIENTLAB_3",
    "EFFICIENTLAB_6_3",
    "Belief",
    "Engine",
    "GaussianProcess",
    "Objective",
    "Range",
    "Space",
    "Study",
    "Trial",
    "Values",
    "Worth",
    "along_range",
    "arrays",
    "tune",
    "tuned",
]
