"""The linear softmax classifier: what LEO decodes codes into, and what MAML adapts on the same features."""

from __future__ import annotations

from torch import Tensor, nn

from mlkit.models.layers import Linear


class SoftmaxClassifier(Linear):
    """Scores w_n . x of features x (examples, features) -> (examples, ways), without bias (paper 004, eq. 5).

    `MAML(SoftmaxClassifier(640, 5))` is the paper's "MAML (our feature embedding)"; it does not say how deep its
    classifier was.

    Args:
        features: length of x.
        ways: number of classes of a task.
        zero: begin with weights of zero, which favor no class, instead of Glorot uniform ones.

    Example:
        >>> sum(p.numel() for p in SoftmaxClassifier(640, 5).parameters())
        3200
    """

    stacks_tasks = True

    def __init__(self, features: int, ways: int, *, zero: bool = False) -> None:
        self.zero = zero
        super().__init__(features, ways, bias=False)

    def reset_parameters(self) -> None:
        """Draw Glorot uniform weights from the global generator, or set them to zero."""
        (nn.init.zeros_ if self.zero else nn.init.xavier_uniform_)(self.weight)

    def describe(self) -> dict[str, int | bool]:
        """Return what tells this classifier from another."""
        return {"features": self.in_features, "ways": self.out_features, **({"zero": True} if self.zero else {})}

    def features(self, x: Tensor) -> Tensor:
        """Return x: what feeds the head comes from elsewhere."""
        return x
