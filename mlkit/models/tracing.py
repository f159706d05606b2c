"""What a segmentation network computes, taken from a pass through the network itself: operations, shapes, costs."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from mlkit.models.decoders import ResidualSkipDecoder
from mlkit.models.efficientlab import EfficientLab, block_of
from mlkit.models.encoder import MBConv
from mlkit.models.noise import is_noise
from mlkit.models.normalization import set_phase

FUNCTIONS = {torch.cat: "concat", F.interpolate: "resize", Tensor.mean: "mean", Tensor.add: "add"}
PARTS = r"encoder\.stem|encoder\.blocks\.\d+|decoder\.\w+|head"  # modules that are blocks
Shape = tuple[int, ...]  # channels, height, width


@dataclass(frozen=True)
class Operation:
    """One step of a network: what it is, the block it belongs to, whose outputs it takes, and what comes out.

    inputs: positions of earlier operations, -1 for the image; shape: channels, height, width; repeats: how many equal
    blocks in a row it stands for.
    """

    title: str
    block: str
    inputs: tuple[int, ...]
    shape: Shape
    repeats: int = 1


@dataclass(frozen=True)
class Cost:
    """What one block costs: output (channels, height, width), weights, running statistics, multiply-adds an image."""

    block: str
    shape: Shape
    parameters: int
    statistics: int
    multiply_adds: int


@torch.no_grad()
def operations(model: EfficientLab, size: int = 224) -> list[Operation]:
    """Return the operations of a prediction for one image of `size` x `size` pixels, in the order in which they ran.

    Decoders run as they are defined, without their shortcut.

    Example:
        >>> [step.title for step in operations(EfficientLab("3", width=0.25), 64)][-3:]
        ['add', '1×1 convolution', 'resize']
    """
    model, image = _ready(model, size)
    recorder = _Recorder(image)
    for name, module in model.named_modules():
        if isinstance(module, ResidualSkipDecoder):
            module.shortcut = False
        module.register_forward_pre_hook(lambda module, _inputs, name=name: recorder.enter(name, module))
        module.register_forward_hook(lambda _module, inputs, output: recorder.leave(inputs, output))
    with recorder:
        model(image)
    return recorder.steps


@torch.no_grad()
def costs(model: EfficientLab, size: int = 224) -> list[Cost]:
    """Return what each block costs for an image of `size` x `size` pixels; multiply-adds as they are done."""
    shapes = {step.block: step.shape for step in operations(model, size)}
    model, image = _ready(model, size)
    with FlopCounterMode(display=False) as counter:
        model(image)
    flops = {path.partition(".")[2]: sum(found.values()) for path, found in counter.get_flop_counts().items()}
    work = [(f"{path}.", flops[path]) for path in flops if re.fullmatch(PARTS, path)]
    weights, statistics = (_sizes(tensors) for tensors in (model.named_parameters(), model.named_buffers()))

    def total(numbers: Iterable[tuple[str, int]], block: str) -> int:
        return sum(number for name, number in numbers if block_of(name) == block)

    return [
        Cost(block, shapes[block], total(weights, block), total(statistics, block), total(work, block) // 2)
        for block in model.blocks
    ]


def stages(steps: Sequence[Operation]) -> list[Operation]:
    """Join equal blocks in a row that keep the shape, as EfficientNet's stages do."""
    joined: list[Operation] = []
    place = {-1: -1}
    for index, step in enumerate(steps):
        last = joined[-1] if joined else None
        if last and step.block.startswith("MBConv") and (step.title, step.shape) == (last.title, last.shape):
            joined[-1] = replace(last, repeats=last.repeats + 1)
        else:
            joined.append(replace(step, inputs=tuple(place[position] for position in step.inputs)))
        place[index] = len(joined) - 1
    return joined


class _Recorder(TorchFunctionMode):
    """Follows tensors from one operation to the next; what happens inside an operation is its own affair."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.steps: list[Operation] = []
        self.known = [(image, -1)]  # tensors, kept alive, with the operation they came from
        self.inside: list[tuple[str, str | None]] = []  # modules being called: name, and title of an operation

    def enter(self, name: str, module: nn.Module) -> None:
        """Note that a module is called."""
        self.inside.append((name, _title(module)))

    def leave(self, inputs: Any, output: Any) -> None:
        """Note what a module returned."""
        name, title = self.inside.pop()
        if title and not self._covered:
            self._add(title, block_of(f"{name}."), self._sources(inputs), output)

    def __torch_function__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = function(*args, **(kwargs or {}))
        sources = () if self._covered else self._sources(args)
        if sources and isinstance(output, Tensor):
            name = self.inside[-1][0] if self.inside else ""
            if function in FUNCTIONS:
                self._add(FUNCTIONS[function], block_of(f"{name}.") if name else "head", sources, output)
            else:
                self.known.append((output, sources[0]))
        return output

    @property
    def _covered(self) -> bool:
        return any(title for _, title in self.inside)

    def _sources(self, values: Any) -> tuple[int, ...]:
        """Return where the tensors among (nested) arguments came from."""
        if isinstance(values, Tensor):
            return tuple(place for tensor, place in self.known if tensor is values)[-1:]
        return sum(map(self._sources, values), ()) if isinstance(values, (list, tuple)) else ()

    def _add(self, title: str, block: str, sources: tuple[int, ...], output: Tensor) -> None:
        self.known.append((output, len(self.steps)))
        self.steps.append(Operation(title, block, sources, tuple(output.shape[1:])))


def _title(module: nn.Module) -> str | None:
    """Name the operation that a module is, if it is one: a block, or a convolution with what follows it."""
    if isinstance(module, MBConv):
        size = module.size
        return f"MBConv{size.expand_ratio} {size.kernel_size}×{size.kernel_size}"
    layer = module[0] if isinstance(module, nn.Sequential) else module
    if not isinstance(layer, nn.Conv2d):
        return None
    depthwise = "depthwise " if layer.groups > 1 else ""
    dilated = f", dilation {layer.dilation[0]}" if layer.dilation[0] > 1 else ""
    return f"{layer.kernel_size[0]}×{layer.kernel_size[1]} {depthwise}convolution{dilated}"


def _sizes(tensors: Iterable[tuple[str, Tensor]]) -> list[tuple[str, int]]:
    return [(name, tensor.numel()) for name, tensor in tensors if not is_noise(name)]


def _ready(model: EfficientLab, size: int) -> tuple[EfficientLab, Tensor]:
    """Return a copy that predicts, and an image for it."""
    model = copy.deepcopy(model)
    set_phase(model, "predict")
    parameter = next(model.parameters())
    return model, torch.zeros(1, 3, size, size, dtype=parameter.dtype, device=parameter.device)
