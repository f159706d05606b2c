"""Claims are decided by numbers: each rule holds and fails where it should, and answers follow the data."""

from __future__ import annotations

import numpy as np
import pytest

from mlkit.chapters import answers, claims, guiroy, table
from mlkit.chapters.claims import Claim, Found
from tests.chapters.made_up import setting, training

RISE = np.array([30.0, 40.0, 45.0, 50.0, 52.0, 55.0, 56.0, 57.0]) / 100
FALL = np.array([30.0, 45.0, 60.0, 62.0, 61.0, 58.0, 54.0, 50.0]) / 100


def by_task(means: np.ndarray, spread: float = 0.1, seed: int = 0) -> np.ndarray:
    """Return values (points, 1, 20) of tasks that differ by `spread`, at every point anew."""
    tasks = np.random.default_rng(seed).normal(size=(len(means), 1, 20))
    return means[:, None, None] + spread * tasks


def curved(tmp_path, means: list[float], accuracy: np.ndarray = RISE, spread: float = 0.1):
    each = by_task(np.array(means), spread)
    return training(tmp_path, {"curvature": each.mean(2), "curvature_by_task": each, "test_accuracy": accuracy})


@pytest.mark.parametrize(
    ("means", "spread", "holds"),
    [
        ([1, 3, 6, 8, 7, 5, 4, 3], 0.1, True),
        ([8, 7, 6, 5, 4, 3, 2, 1], 0.1, False),  # no rise before the peak
        ([1, 2, 3, 4, 5, 6, 7, 8], 0.1, False),  # no fall after it
    ],
)
def test_flattening_is_a_peak_and_a_fall_beyond_the_interval(tmp_path, means, spread, holds):
    assert claims.flattens(curved(tmp_path, means, spread=spread)).holds is holds


def test_noise_alone_seldom_looks_like_flattening(tmp_path):
    each = [by_task(np.zeros(30), 1.0, seed) for seed in range(200)]
    records = [training(tmp_path, {"curvature": means.mean(2), "curvature_by_task": means}) for means in each]
    assert sum(claims.flattens(record).holds is True for record in records) < 15, "2.5 % and a little for t over normal"


def test_noise_alone_seldom_looks_like_overfitting(tmp_path):
    noise = np.random.default_rng(0).normal(size=(200, 30))
    records = [training(tmp_path, {"test_accuracy": each}) for each in noise]
    assert sum(claims.overfits(record).holds is True for record in records) < 20


def test_the_fall_is_measured_on_the_same_tasks():
    tasks = np.linspace(0, 100, 30)  # tasks differ far more than epochs do
    moved, reach = claims.paired(np.stack([tasks, tasks - 1.0 + 0.01 * np.sin(tasks)])[:, None], 0)
    assert moved == pytest.approx(-1.0, abs=0.01) and reach < 0.01
    assert np.isnan(claims.paired(np.zeros((2, 1, 1)), 0)[1]), "one task tells no interval"


def test_overfitting_is_a_fall_after_the_best_epoch(tmp_path):
    fell = claims.overfits(training(tmp_path, {"test_accuracy": FALL}))
    assert fell.holds and fell.value == pytest.approx(50.0)
    assert fell.note.startswith("best 62.0 % at epoch 4; from beside it to the end -8.5 ±")
    assert not claims.overfits(training(tmp_path, {"test_accuracy": RISE})).holds


def test_what_falls_after_the_best_epoch_is_measured_from_there(tmp_path):
    loss = np.array([1.0, 0.5, 0.4, 0.30, 0.22, 0.15, 0.08, 0.02])
    record = training(tmp_path, {"test_accuracy": FALL, "support_loss": loss})
    assert claims.falls_after_the_best(record, "support_loss").holds
    flat = training(tmp_path, {"test_accuracy": FALL, "support_loss": np.array([1, 0.5, 0.4, 0.3, 0.3, 0.3, 0.3, 0.3])})
    assert not claims.falls_after_the_best(flat, "support_loss").holds


def test_a_correlation_must_leave_zero_out(tmp_path):
    noise = np.array([1, -1, 1, -1, 1, -1, 1, -1.0])
    up = training(tmp_path, {"test_accuracy": RISE + 0.1 * noise, "curvature": 3 * RISE + 0.3 * noise})
    down = training(tmp_path, {"test_accuracy": RISE + 0.1 * noise, "curvature": -RISE - 0.1 * noise})
    assert claims.correlates(up, "curvature").holds and claims.correlates(up, "curvature").value == pytest.approx(1.0)
    assert not claims.correlates(down, "curvature").holds


def test_the_state_before_training_does_not_count(tmp_path):
    assert claims.grows(training(tmp_path, {"displacement_norm": [1, 2, 3, 4, 5, 6]}), "displacement_norm").holds
    assert not claims.grows(training(tmp_path, {"displacement_norm": [6, 5, 4, 3, 2, 1]}), "displacement_norm").holds


def test_below_needs_intervals_apart(tmp_path):
    def cosine(value: float):
        ends = {"trajectory_cosine_low": value - 0.1, "trajectory_cosine_high": value + 0.1}
        return training(tmp_path, {name: [v] * 3 for name, v in {"trajectory_cosine": value, **ends}.items()})

    assert claims.below(cosine(0.1), cosine(0.4), "trajectory_cosine").holds
    assert not claims.below(cosine(0.3), cosine(0.4), "trajectory_cosine").holds


def test_an_answer_holds_only_if_every_training_does(tmp_path):
    def claim(holds: bool, data: str = "omniglot") -> Claim:
        record = training(tmp_path, {"test_accuracy": RISE}, data=data)
        return Claim("003/F13", "cosine goes with accuracy", f"{data} MAML", record, Found(holds, 0.5, "R = 0.5"))

    (good,), (bad,) = answers([claim(True), claim(True)]), answers([claim(True), claim(False)])
    assert (good["verdict"], bad["verdict"]) == ("same direction", "not reached")
    assert bad["note"].endswith("omniglot MAML: R = 0.5; omniglot MAML: R = 0.5 (no)")
    assert (good["tasks"], good["seeds"], good["value"]) == (50, 1, 0.5)
    (mixed,) = answers([claim(True), claim(True, "cifar_fs")])
    assert (mixed["verdict"], mixed["stand_in"], mixed["data"]) == ("other data", True, "omniglot, cifar_fs")
    assert answers([claim(True, "glyphs")]) == [], "drawings of our own answer no figure"


def test_the_table_says_what_does_not_hold(tmp_path):
    record = training(tmp_path, {"test_accuracy": RISE})
    rows = [
        Claim("003/F2", "it falls", "glyphs MAML", record, Found(holds, 1.0, "+1")) for holds in (True, False, None)
    ]
    first, second, third = table(rows).data.splitlines()[2:5]
    assert [line.rpartition("+1")[2] for line in (first, second, third)] == [" | yes |", " | **no** |", " | open |"]
    assert "No claim" in table([]).data


def test_figures_that_claim_the_same_of_a_training_share_a_row(tmp_path):
    record = training(tmp_path, {"test_accuracy": RISE})
    both = [Claim(figure, "it falls", "glyphs MAML", record, Found(True, 1.0, "+1")) for figure in ("F4b", "F4c")]
    assert table(both).data.splitlines()[2:3] == ["| F4b, F4c | it falls | glyphs MAML | +1 | yes |"]


FULL = {name: RISE for name in ("test_accuracy", "trajectory_cosine", "displacement_norm", "gradient_product")}
FULL |= {"representation_product": RISE, "support_loss": RISE, "curvature": RISE}
FULL |= {"curvature_by_task": by_task(RISE)}


@pytest.mark.parametrize(
    ("data", "shots", "found", "figures"),
    [
        ("cifar_fs", 1, guiroy.flatness, "2 2 3a 3b 3c 4a 4b 4c"),
        ("omniglot", 1, guiroy.flatness, "2 2"),
        ("cifar_fs", 1, guiroy.trajectories, "13 13 15a 15a 15a 5a 5b 6a"),
        ("cifar_fs", 5, guiroy.trajectories, "13 13 15b 15b 15b 6a"),
        ("omniglot", 1, guiroy.trajectories, "13"),
        ("cifar_fs", 5, guiroy.gradients, "14 14 6b 7a 7b"),
        ("omniglot", 5, guiroy.gradients, "14 14"),
        ("omniglot", 1, guiroy.representations, "9"),
    ],
)
def test_each_training_answers_the_figures_it_is_about(tmp_path, data, shots, found, figures):
    here = setting(data, shots)
    records = {(here, method): training(tmp_path, FULL, data=data) for method in ("MAML", "FOMAML", "finetuning")}
    assert sorted(claim.figure.removeprefix("003/F") for claim in found(records)) == sorted(figures.split())


def test_waves_are_judged_within_each_model_and_across_models(tmp_path):
    noise = np.random.default_rng(0).normal(size=(2, 40, 4))

    def wave(level: float, share: float = 0.3):
        product, error = level + np.stack([noise[0], share * noise[1] - noise[0]])
        return training(
            tmp_path, {"gradient_product": product, "test_mean_squared_error": error - 2 * level}, data="sine_guiroy"
        )

    models = {k: wave(float(k)) for k in range(2, 16)}
    found = {claim.figure: claim for claim in guiroy.waves(models)}
    assert sorted(found) == [f"003/F8{panel}" for panel in "abcde"]
    assert all(claim.found.holds for claim in found.values())
    assert found["003/F8e"].found.value > 0.9
    assert answers(found.values())[0]["verdict"] == "same direction"
    assert guiroy.through(models[2]).count == 4, "a run is a point"
    unsure = {claim.figure: claim for claim in guiroy.waves({k: wave(float(k), 30.0) for k in models})}
    assert not unsure["003/F8a"].found.holds and unsure["003/F8e"].found.holds
    fewer = list(guiroy.waves({k: models[k] for k in (2, 7, 15)}))
    assert len(fewer) == 5 and answers(fewer) == [], "the figure is about k = 2 to 15"


def test_models_of_several_shots_are_compared_by_method(tmp_path):
    records = {
        (setting(shots=shots), method): training(
            tmp_path, {"representation_product": sign * (RISE + shots), "test_accuracy": RISE + shots / 10}
        )
        for method, sign in {"MAML": 1, "FOMAML": -1}.items()
        for shots in (1, 2, 3, 4)
    }
    maml, fomaml = guiroy.over_shots(records)
    assert (maml.where, fomaml.where) == ("glyphs, 5-way, MAML", "glyphs, 5-way, FOMAML")
    assert maml.found.holds and not fomaml.found.holds
    assert maml.found.value == pytest.approx(-fomaml.found.value)
