"""Models: plain modules that know nothing of meta-learning."""

from mlkit.models.conv4 import Conv4, conv4
from mlkit.models.efficientlab import EfficientLab, block_of
from mlkit.models.encoder import EncoderClassifier
from mlkit.models.encoder_weights import EncoderWeights, imagenet, pretrained
from mlkit.models.mlp import MLP
from mlkit.models.normalization import POLICIES, normalization, policy_of
from mlkit.models.softmax import SoftmaxClassifier
from mlkit.models.wide_resnet import WideResNet, wide_resnet

__all__ = [
    "MLP",
    "POLICIES",
    "Conv4",
    "EfficientLab",
    "EncoderClassifier",
    "EncoderWeights",
    "SoftmaxClassifier",
    "WideResNet",
    "block_of",
    "conv4",
    "imagenet",
    "normalization",
    "policy_of",
    "pretrained",
    "wide_resnet",
]
