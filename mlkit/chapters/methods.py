"""What the chapters on segmentation compare: settings of data and network, methods of tables 1 and 2 of paper 000."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mlkit.chapters.columns import settings_of

COLUMNS = {  # name of a parameter: the field of a setting that one of its entries is
    "data": "data",
    "sizes": "size",
    "widths": "width",
    "encoders": "encoder",
    "iterations": "iterations",
    "joint_iterations": "joint_iterations",
    "test_tasks": "test_tasks",
}


@dataclass(frozen=True)
class Setting:
    """Where pictures come from and how large they are, the network's width and encoder, the length of the training."""

    data: str
    size: int
    width: float
    encoder: str
    iterations: int
    joint_iterations: int
    test_tasks: int

    def __str__(self) -> str:
        return f"{Path(self.data).name}, {self.size} px"

    @property
    def is_drawn(self) -> bool:
        """Whether its pictures are made up, so that a page may show them."""
        return self.data == "shapes"


@dataclass(frozen=True)
class Method:
    """What makes a row of table 1 or 2.

    training: a variant of `Displacement`; "joint", one network of all classes; or None, no outer step at all.
    regularized: with L2, augmentation and dropout. fixed_support: Reptile's first five pictures of each class. pool:
    what Reptile trains on. options: of `EfficientLab`. pretrained: whether the encoder starts where the setting says.
    """

    training: Literal["fomaml_star", "fomaml_disjoint", "fomaml_no_tail", "reptile", "joint"] | None
    regularized: bool = True
    fixed_support: bool = False
    pool: Literal["support", "all"] = "support"
    options: tuple[tuple[str, str], ...] = ()
    pretrained: bool = True


METHODS = {
    "FOMAML*": Method("fomaml_star"),
    "FOMAML (disjoint)": Method("fomaml_disjoint"),
    "FOMAML* (no regularization)": Method("fomaml_star", regularized=False),
    "FOMAML* (6-3)": Method("fomaml_star", options=(("variant", "6-3"),)),
    "Reptile": Method("reptile", fixed_support=True),
    "Reptile (10 shots)": Method("reptile", pool="all"),
    "joint-trained": Method("joint"),
    "transfer (encoder alone)": Method(None),
    "from scratch": Method(None, pretrained=False),
    "FOMAML* (Auto-DeepLab)": Method("fomaml_star", options=(("decoder", "auto_deeplab"),)),
    "FOMAML* (no residual)": Method("fomaml_star", options=(("decoder", "rsd_no_residual"),)),
}


def settings(parameters: Any) -> list[Setting]:
    """Return one setting for each entry of the columns `data`, `sizes`, ... of a parameters cell.

    Raises:
        ValueError: the columns differ in length.
    """
    return settings_of(parameters, COLUMNS, Setting)
