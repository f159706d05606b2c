"""A search whose tasks are dealt to a Dask cluster finds what one process finds."""

from __future__ import annotations

import joblib
import numpy as np
import pytest

from mlkit.uho import tune
from tests.uho.cases import RATES, waves

distributed = pytest.importorskip("distributed", reason="needs dask[distributed]: pip install 'mlkit[scale]'")
TRAINING = {"inner_lr": 0.01}


@pytest.fixture(scope="module")
def cluster():
    """Start two workers, a process each, without a dashboard."""
    quiet = {"dashboard_address": None, "silence_logs": 50}
    with (
        distributed.LocalCluster(2, threads_per_worker=1, **quiet) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def test_a_cluster_of_two_workers_finds_the_same(cluster):
    assert len(cluster.scheduler_info()["workers"]) == 2
    alone = tune(waves(), RATES, TRAINING, trials=5, in_flight=2, progress=False)
    with joblib.parallel_config(backend="dask"):
        together = tune(waves(), RATES, TRAINING, trials=5, in_flight=2, progress=False)
    for one, other in zip((*alone.trials, alone.training), (*together.trials, together.training), strict=True):
        assert (one.values, one.steps, one.stopped) == (other.values, other.steps, other.stopped)
        np.testing.assert_allclose(one.curve, other.curve, rtol=1e-6)
    worked = cluster.run(lambda dask_worker: dask_worker.state.executed_count)
    assert len(worked) == 2 and all(count > 1 for count in worked.values())
