"""Training the displacement learners end to end: resuming, mixed precision, layout, schedule, no step at all."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from mlkit.learners.reptile import redrawn
from mlkit.outer import Execution, OuterLoop, Validation, linear
from mlkit.seeding import seeded
from mlkit.segmentation_losses import IOU
from mlkit.tasks.base import Draw, Examples, TaskBatch, frozen
from mlkit.training import Trained, _channels_last, train

from .test_displacement_options import joint, of_all_options, tasks_of

QUIET = Execution(progress=False)


@dataclass
class Blobs:
    """Tasks whose pictures are noise by seed, and whose masks are their bright pixels."""

    labels: bool = False
    stop_at: int = -1

    def draw(self, count: int, generator: torch.Generator) -> Draw:
        return {"seeds": torch.randint(2**62, (count,), generator=generator)}

    def gather(self, draw: Draw) -> TaskBatch:
        self.stop_at -= 1
        if self.stop_at == 0:
            raise KeyboardInterrupt
        generators = [seeded("blobs", int(seed)) for seed in draw["seeds"]]
        x = torch.stack([torch.rand(6, 3, 6, 6, generator=generator) for generator in generators])
        y = (x.mean(2) > 0.5).long() if self.labels else (x.mean(2) > 0.5).float()
        support, query = (Examples(x[:, rows], y[:, rows]) for rows in (slice(3), slice(3, 6)))
        return TaskBatch(query if self.labels else support, query, draw["seeds"])

    def describe(self) -> dict[str, object]:
        return {"data": "blobs", "labels": self.labels}


def trained(learner, *, iterations: int = 8, tasks: Blobs | None = None, **settings: object) -> Trained:
    sgd = functools.partial(torch.optim.SGD, lr=0.5)
    outer = OuterLoop(iterations, 2, sgd, linear(iterations, end=1e-4), validate_every=4)
    look = {"metric": IOU, "validation": Validation(frozen(Blobs(), 2, seed=0), IOU)}
    how = {"seeds": [0, 1], "execution": QUIET} | look | settings
    return train(learner, tasks or Blobs(learner is JOINT), outer, **how)


STAR, JOINT = of_all_options(), joint()


@pytest.mark.parametrize("learner", [STAR, JOINT], ids=["FOMAML*", "joint"])
def test_stopped_anywhere_a_run_resumes_bit_identically(tmp_path: Path, learner):
    often = replace(QUIET, checkpoint_seconds=0)
    for stop_at in (3, 4):  # counted anew in every session; the frozen tasks are gathered apart
        with pytest.raises(KeyboardInterrupt):
            trained(learner, tasks=Blobs(learner is JOINT, stop_at), folder=tmp_path, execution=often)
    resumed, whole = trained(learner, folder=tmp_path, execution=often), trained(learner)
    for name in whole.last:
        assert torch.equal(resumed.last[name], whole.last[name]), name
        assert torch.equal(resumed.best[name], whole.best[name]), name
    for name, values in whole.history.items():
        assert torch.equal(resumed.history[name].nan_to_num(), values.nan_to_num()), name
    assert not any(tensor.any() for name, tensor in whole.last.items() if name.endswith("noise"))
    assert not torch.equal(whole.last["theta.head.weight"], trained(learner, iterations=4).last["theta.head.weight"])


def test_without_an_outer_step_the_initialization_itself_is_tested():
    found = trained(STAR, iterations=0)
    start = STAR.init(seeded("initialization", 1))
    assert all(torch.equal(found.best[name][1], tensor) for name, tensor in start.items())
    assert found.best_iteration.tolist() == [0, 0] and found.history["validation"].isfinite().all()
    with pytest.raises(ValueError, match="expected iterations of at least 0"):
        OuterLoop(-1, 5)


def test_the_schedule_is_linear_to_its_end():
    steps, rate, end = 50, 0.1, 1e-4
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=rate)
    schedule, rates = linear(steps, end)(optimizer), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    expected = [(1 - i / steps) * rate + i / steps * rate * end for i in range(steps)]
    assert rates == pytest.approx(expected, rel=1e-9)
    described = OuterLoop(steps, 5, schedule=linear(steps, end)).describe()["schedule"]
    assert described == {"name": "LinearLR", "start_factor": 1.0, "end_factor": end, "total_iters": steps}


@pytest.mark.parametrize("learner", [STAR, JOINT], ids=["FOMAML*", "joint"])
def test_mixed_precision_trains_close_to_full_precision_and_keeps_full_weights(learner):
    singly = replace(QUIET, chunk_size=1)
    full, mixed = (trained(learner, execution=replace(singly, autocast=kind)) for kind in (None, torch.bfloat16))
    assert not torch.is_autocast_enabled("cpu")
    for name, tensor in full.last.items():
        assert mixed.last[name].dtype == tensor.dtype
    ahead, start = full.last["theta.head.weight"], trained(learner, iterations=0).last["theta.head.weight"]
    error = (mixed.last["theta.head.weight"] - ahead).norm() / (ahead - start).norm()
    assert 1e-6 < error < 0.2


@pytest.mark.parametrize("how", [{}, {"chunk_size": 2}, {"chunk_size": 1, "workers": 2}])
def test_mixed_precision_is_refused_where_it_would_be_ignored(how):
    with pytest.raises(ValueError, match="expected chunk_size=1 and workers=1 with autocast, got"):
        Execution(autocast=torch.bfloat16, **how)


def test_images_may_lie_channels_last_all_the_way_to_the_mini_batch():
    plain = tasks_of(3)
    batch = plain.map(_channels_last)
    assert torch.equal(batch.support.x, plain.support.x) and batch.support.x.stride(2) == 1
    support, query = redrawn(batch)
    assert support.x[0].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(query.x, redrawn(plain)[1].x)
    other = trained(STAR, execution=replace(QUIET, channels_last=True)).last
    for name, tensor in trained(STAR).last.items():
        assert torch.allclose(other[name], tensor, rtol=0, atol=1e-4), name
