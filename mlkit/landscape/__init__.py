"""What the objective looks like from a meta-learned initialization, for any learner and any source of tasks.

Example:
    >>> from mlkit.driver import stack
    >>> from mlkit.learners import MAML
    >>> from mlkit.losses import mean_squared_error
    >>> from mlkit.models import MLP
    >>> from mlkit.seeding import seeded
    >>> from mlkit.tasks.base import frozen
    >>> from mlkit.tasks.sine import sine
    >>> learner, tasks = MAML(MLP(), loss=mean_squared_error), frozen(sine(), 60, seed=0)
    >>> meta = stack([learner.init(seeded("docs"))])
    >>> found = coherence(displacements(learner, meta, tasks), directions=True)  # E[cos], before any meta-training
    >>> found.low < found.value < found.high
    True
    >>> displacement(learner, meta, tasks)["distance"]["head"].shape
    torch.Size([60])
"""

from mlkit.landscape.coherence import Coherence, coherence, pairwise
from mlkit.landscape.curvature import Curvature, spectral_norm
from mlkit.landscape.directions import adaptations, displacements, flatten, gradients, representations
from mlkit.landscape.displacement import MEASURES, displacement
from mlkit.landscape.hessian import Hessian
from mlkit.landscape.lanczos import dominant, random_start
from mlkit.landscape.spectrum import density, extremes, trace
from mlkit.landscape.surface import around, surface, through
from mlkit.landscape.watch import METRICS, Watch

__all__ = [
    "MEASURES",
    "METRICS",
    "Coherence",
    "Curvature",
    "Hessian",
    "Watch",
    "adaptations",
    "around",
    "coherence",
    "density",
    "displacement",
    "displacements",
    "dominant",
    "extremes",
    "flatten",
    "gradients",
    "pairwise",
    "random_start",
    "representations",
    "spectral_norm",
    "surface",
    "through",
    "trace",
]
