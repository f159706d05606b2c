"""One meta-iteration of FOMAML with EfficientLab-3 by mlkit, and as one writes it with efficientnet-pytorch: time.

    python benchmarks/segmentation.py [--sizes 64 224] [--repeats 5] [--tasks 5] [--device cuda]

The same weights, tasks and process; the two take turns; the median counts. The peer is a straightforward loop over
tasks and steps on the package as it comes: its memory-efficient swish, torch's batch norm, SGD with weight decay,
weights copied back after each task. Both draw dropout and drop-connect when timed; to be compared they draw none. Both
networks are built beforehand.
Errors are of the meta-gradient in float32, against mlkit's in float64.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
from dataclasses import dataclass
from functools import cache
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: waiting threads sleep, or a busy core stalls all

import torch
import torch.nn.functional as F
from efficientnet_pytorch import EfficientNet
from measuring import distance, seconds
from store import store
from torch import Tensor, nn

from mlkit.driver import Meta, meta_gradient, stack
from mlkit.learners import Displacement
from mlkit.models.efficientlab import EfficientLab
from mlkit.models.encoder import MEAN, STD
from mlkit.seeding import seeded
from mlkit.segmentation_losses import segmentation_loss
from mlkit.tasks import Examples, TaskBatch
from mlkit.training import _channels_last

STEPS, BATCH, INNER_LR, L2 = 5, 8, 0.005, 5e-4  # of paper 000
BAR = 2.0
Weights = dict[str, Tensor]


class PlainDecoder(nn.Module):
    """The residual skip decoder with torch's layers; its parameters carry the names of mlkit's."""

    def __init__(self, deep: int, skip: int) -> None:
        super().__init__()

        def layer(before: int, kernel: int, dilation: int = 1) -> nn.Sequential:
            convolution = nn.Conv2d(before, deep, kernel, padding=dilation * (kernel // 2), dilation=dilation)
            return nn.Sequential(convolution, nn.SiLU(), nn.BatchNorm2d(deep, eps=1e-3, momentum=0.01))

        joined = deep + skip
        self.point, self.wide, self.merge = layer(joined, 1), layer(joined, 3, 2), layer(2 * deep + joined, 3)

    def forward(self, skip: Tensor, deep: Tensor) -> Tensor:
        """Return the features that feed the head."""
        up = F.interpolate(deep, size=skip.shape[-2:], mode="bilinear", align_corners=True)
        joined = torch.cat([up, skip], 1)
        mean = joined.mean((2, 3), keepdim=True).expand_as(joined)
        return self.merge(torch.cat([self.point(joined), self.wide(joined), mean], 1)) + up


class PlainEfficientLab(nn.Module):
    """EfficientLab-3 as one writes it around efficientnet-pytorch's B0, with the defaults of the package."""

    def __init__(self, *, noise: bool) -> None:
        super().__init__()
        self.encoder, self.rate = EfficientNet.from_name("efficientnet-b0"), 0.2 if noise else 0.0
        del self.encoder._blocks[11:], self.encoder._conv_head, self.encoder._bn1, self.encoder._fc
        self.decoder, self.dropout = PlainDecoder(112, 24), nn.Dropout(self.rate)
        self.head = nn.Conv2d(112, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (examples, 2, height, width)."""
        encoder = self.encoder
        mean, deviation = (x.new_tensor(values).view(3, 1, 1) for values in (MEAN, STD))
        y = encoder._swish(encoder._bn0(encoder._conv_stem((x - mean) / deviation)))
        for index, block in enumerate(encoder._blocks):
            y = block(y, drop_connect_rate=self.rate * index / 11)
            if index == 2:
                skip = y
        y = self.head(self.dropout(self.decoder(skip, y)))
        return F.interpolate(y, size=x.shape[-2:], mode="bilinear", align_corners=True)


def peers_name(name: str) -> str:
    """Return what the peer calls a parameter of mlkit's network."""
    of_stem = {"encoder.stem.0": "encoder._conv_stem", "encoder.stem.1": "encoder._bn0"}
    for ours, theirs in {**of_stem, "encoder.blocks": "encoder._blocks", "decoder.stage3": "decoder"}.items():
        name = name.replace(ours, theirs)
    return name


def plain_loop(model: nn.Module, batch: TaskBatch) -> Weights:
    """Return the mean negative displacement of the last step, FOMAML with D_tr and D_val apart."""
    model.train()
    start = copy.deepcopy(model.state_dict())
    sums = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    spared = {id(parameter) for norm in norms for parameter in norm.parameters()}
    groups = [
        {"params": [p for p in model.parameters() if id(p) not in spared], "weight_decay": L2},
        {"params": [p for p in model.parameters() if id(p) in spared], "weight_decay": 0.0},
    ]
    for x, y, query_x, query_y in zip(batch.support.x, batch.support.y, batch.query.x, batch.query.y, strict=True):
        model.load_state_dict(start)
        optimizer = torch.optim.SGD(groups, lr=INNER_LR)
        for step in range(STEPS):
            last = step == STEPS - 1
            before = {name: p.detach().clone() for name, p in model.named_parameters()} if last else {}
            optimizer.zero_grad()
            outputs, targets = (model(query_x), query_y) if last else (model(x), y)
            segmentation_loss(outputs[None], targets[None]).sum().backward()
            optimizer.step()
        for name, parameter in model.named_parameters():
            sums[name] += before[name] - parameter.detach()
    model.load_state_dict(start)
    return {name: total / len(batch) for name, total in sums.items()}


@dataclass(frozen=True)
class Case:
    """One meta-iteration: pictures of `size` pixels, so many tasks of BATCH support and 5 query examples."""

    size: int
    tasks: int
    device: str
    workers: int

    def batch(self) -> TaskBatch:
        """Draw pictures of a bright patch on noise; the patch is the target."""
        generator, size = seeded("benchmark", self.size), self.size

        def examples(count: int) -> Examples:
            x = torch.rand(self.tasks, count, 3, size, size, generator=generator)
            y = torch.zeros(self.tasks, count, size, size)
            y[..., size // 4 : size // 2, size // 4 : 3 * size // 4] = 1
            return Examples(0.7 * x + 0.3 * y.unsqueeze(2), y)

        return TaskBatch(examples(BATCH), examples(5), torch.arange(self.tasks)).to(self.device)

    @cache  # noqa: B019 - a case lives as long as the process
    def learner(self, *, noise: bool) -> Displacement:
        """Return mlkit's learner."""
        model = EfficientLab("3", **({} if noise else {"dropout": 0.0, "drop_connect": 0.0}))
        return Displacement(model, "fomaml_disjoint", INNER_LR, STEPS, loss=segmentation_loss, l2=L2)

    def meta(self) -> Meta:
        """Return the initialization that everyone starts from."""
        meta = stack([self.learner(noise=True).init(seeded("benchmark"))])
        return {name: tensor.to(self.device) for name, tensor in meta.items()}

    @cache  # noqa: B019
    def network(self, *, noise: bool) -> nn.Module:
        """Return the peer's network."""
        return PlainEfficientLab(noise=noise)

    def plain(self, meta: Meta, *, noise: bool) -> nn.Module:
        """Return the peer, with the same weights."""
        model = self.network(noise=noise).to(meta["theta.head.bias"])
        weights = {peers_name(name[6:]): tensor[0] for name, tensor in meta.items() if name.startswith("theta.")}
        missing = model.load_state_dict(weights, strict=False)
        if missing.unexpected_keys or set(missing.missing_keys) & {name for name, _ in model.named_parameters()}:
            raise ValueError(f"expected two networks of the same parameters, got {missing}")
        return model

    def ours(self, meta: Meta, batch: TaskBatch, *, noise: bool = True) -> Weights:
        """Return mlkit's meta-gradient under the names of the peer."""
        found = meta_gradient(self.learner(noise=noise), meta, batch, chunk_size=1, workers=self.workers).gradients
        return {peers_name(name[6:]): tensor[0] for name, tensor in found.items()}

    def theirs(self, meta: Meta, batch: TaskBatch, *, noise: bool = True) -> Weights:
        """Return the peer's meta-gradient."""
        return plain_loop(self.plain(meta, noise=noise), batch)

    def channels_last(self, meta: Meta, batch: TaskBatch, *, noise: bool = True) -> Weights:
        """Return mlkit's meta-gradient of images that lie channels last."""
        return self.ours(meta, batch.map(_channels_last), noise=noise)


def measure(case: Case, repeats: int) -> dict[str, Any]:
    """Return the row of one case."""
    meta, batch = case.meta(), case.batch()
    last = {"mlkit, channels last": case.channels_last} if case.device != "cpu" else {}  # there mlkit does so by itself
    methods = {"mlkit": case.ours, **last, "efficientnet-pytorch": case.theirs}
    double = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in meta.items()}
    exact, theirs = (f(double, batch.to(dtype=torch.float64), noise=False) for f in (case.ours, case.theirs))
    errors = {name: distance(method(meta, batch, noise=False), exact) for name, method in methods.items()}
    times: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(repeats + 1):
        for name, method in methods.items():
            times[name].append(seconds(method, meta, batch))
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}  # the first turn warms up
    return {
        "case": f"FOMAML, EfficientLab-3, {case.size} px, {case.tasks} tasks of {STEPS} steps",
        "seconds": medians,
        "repeats": {name: values[1:] for name, values in times.items()},
        "ratio": medians["efficientnet-pytorch"] / min(medians[name] for name in ("mlkit", *last)),
        "bar": BAR,
        "float32_error": errors,
        "float64_distance": distance(theirs, exact),
        "execution": {"chunk_size": 1, "workers": case.workers, "threads": torch.get_num_threads()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 224])
    parser.add_argument("--tasks", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    workers = (os.cpu_count() or 1) if options.device == "cpu" else 1
    rows = []
    for size in options.sizes:
        rows.append(measure(Case(size, options.tasks, options.device, min(workers, options.tasks)), options.repeats))
        print(summary(rows[-1]), flush=True)
    store("segmentation", rows, device=options.device, partial=options.sizes != [64, 224] or options.tasks != 5)


def summary(row: dict[str, Any]) -> str:
    times = ", ".join(f"{name} {value:.3f}" for name, value in row["seconds"].items())
    errors = ", ".join(f"{name} {value:.1e}" for name, value in row["float32_error"].items())
    return (
        f"{row['case']}: {times} s; ratio {row['ratio']:.2f} (bar {row['bar']}); float32 errors {errors}; float64 "
        f"distance {row['float64_distance']:.1e}"
    )


if __name__ == "__main__":
    main()
