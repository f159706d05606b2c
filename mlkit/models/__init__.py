"""Models: plain modules that know nothing of meta-learning."""

from mlkit.models.conv4 import Conv4, conv4
from mlkit.models.mlp import MLP
from mlkit.models.normalization import POLICIES, normalization, policy_of

__all__ = ["MLP", "POLICIES", "Conv4", "conv4", "normalization", "policy_of"]
