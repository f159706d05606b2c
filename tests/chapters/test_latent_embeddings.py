"""The trainings behind the tables on latent embeddings, from a parameters cell to the rows that they answer."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from mlkit.chapters import latent_embeddings as latent
from mlkit.chapters import latent_tables
from mlkit.chapters.latent_diagram import inner_loop
from mlkit.chapters.pairs import Gain, gain
from mlkit.evaluation import Summary
from mlkit.learners import LEO, MAML
from mlkit.papers import row, rows
from mlkit.seeding import seeded
from mlkit.tasks import FeatureClasses, write_features

COLUMNS = {
    "networks": [""] * 2,
    "reductions": [3] * 2,
    "pretraining": [0] * 2,
    "shots": [1, 1],
    "versions": ["v1", "v3"],
}
REST = {
    "methods": list(latent.METHODS), "iterations": 2, "meta_batch": 2, "outer_lr": 0.0, "dropout": 0.1, "kl": -1.0,
    "orthogonality": 0.5, "maml_lr": 0.01, "maml_inner_lr": 1.0, "query": 0, "validate_every": 1, "validation_tasks": 3,
    "test_tasks": 4, "watched_tasks": 3, "seeds": [0], "chunk_size": 2, "workers": 1, "device": "cpu",
}  # fmt: skip


def parameters(data: str = "glyphs", **changes) -> SimpleNamespace:
    return SimpleNamespace(**{"data": [data] * 2, **COLUMNS, **REST, **changes})


@pytest.fixture(scope="module")
def features(tmp_path_factory) -> str:
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("features") / "own.npz"
    splits = {}
    for split in ("train", "val", "test"):
        arrays = [rng.normal(size=(1, 96)) + rng.normal(size=(17, 96)) for _ in range(6)]
        splits[split] = FeatureClasses.build("own", arrays, names=[f"{split}{k}" for k in range(6)])
    write_features(path, splits)
    return str(path)


def check_tables(records, one, three):
    lines = latent_tables.accuracies(records).data.splitlines()
    printed = {found.method for identity, found in rows().items() if identity.startswith("004/T1/")}
    assert lines[0] == f"| method | the paper, 1-shot | the paper, 5-shot | ours, {one} | ours, {three} |"
    assert {line.split(" | ")[0][2:] for line in lines[2:]} == printed and len(lines) == 2 + len(printed)
    scores = [records[setting, "LEO"].scores for setting in (one, three)]
    ours = " | ".join(f"{100 * score['mean']:.2f} ± {100 * score['ci95']:.2f}" for score in scores)
    assert f"| LEO (ours) | 60.06 ± 0.05 | 75.72 ± 0.18 | {ours} |" in lines
    table = latent_tables.ablations(records).data.splitlines()
    assert [line.split(" | ")[0][2:] for line in table[2:]] == [latent.ZERO, latent.BASELINE, *reversed(latent.LEOS)]
    gained = gain(records[one, latent.BASELINE], records[one, "LEO"]).tasks
    assert table[2].split(" | ")[1] == "–"
    assert table[3].split(" | ")[1:4:2] == ["58.05", f"{gained.value:+.2f} ± {gained.ci95:.2f}"]


def test_every_method_is_trained_on_the_same_tasks_and_compared(features, tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setenv("MLKIT_ROOT", str(tmp_path))
    monkeypatch.delenv("MLKIT_RECORDS", raising=False)
    p = parameters(features)
    monkeypatch.setattr("mlkit.experiment.evaluate", lambda *_, **__: pytest.fail("the slow way to judge"))
    records = latent.trainings(p)
    assert len(records) == 10 and len(list((tmp_path / "runs" / latent.STORE).glob("*.json"))) == 8, (
        "MAML and descent from zero have no version"
    )
    assert len({record.data["content_hash"] for record in records.values()}) == 1
    one, three = latent.settings(p)
    leo = records[one, "LEO"]
    assert leo.arrays["history_code_variance"].shape[1] == 1 and leo.arrays["meta/phi.encoder.0"].shape == (128, 96)
    assert not any(name.startswith("meta/") for name in records[one, "LEO (deterministic)"].arrays)
    check_tables(records, one, three)
    found = {answer["id"]: answer for answer in latent.answers(records)}
    table = "004/T2/miniImageNet/5-way-1-shot"
    assert len(found) == 6 and {f"{table}/LEO", f"{table}/LEO-random-prior", f"{table}/LEO-deterministic"} <= set(found)
    assert all(row(identity).source == "004" and answer["stand_in"] for identity, answer in found.items())
    assert found[f"{table}/LEO"]["value"] == pytest.approx(100 * leo.scores["mean"])
    assert latent.answers({key: record for key, record in records.items() if key[0] == three}) == []


def test_learners_are_the_presets_but_for_what_the_parameters_say():
    p = parameters()
    one, three = (replace(setting, network="10-2") for setting in latent.settings(p))
    leo = latent.learner(one, "LEO", p)
    assert leo == replace(LEO.v1(features=128), dropout=0.1, orthogonality=0.5)
    assert latent.learner(three, "LEO (random prior)", p).start == "prior"
    assert latent.learner(three, "LEO (deterministic)", p).deterministic
    assert latent.learner(replace(three, shots=5), "LEO", p).kl == LEO.v3(5).kl
    maml = latent.learner(one, latent.BASELINE, p)
    assert isinstance(maml, MAML) and maml.model.in_features == 128 and maml.model.weight.any()
    zero = latent.learner(one, latent.ZERO, p)
    assert not zero.init(seeded("zero"))["theta.weight"].any() and zero.inner_lr == maml.inner_lr
    assert latent.outer_loop(one, latent.ZERO, p).iterations == 0
    assert latent.outer_loop(one, "LEO", p).on_divergence == "skip"
    assert latent.outer_loop(three, "LEO", p).clip_value == 0.1 and latent.outer_loop(one, "LEO", p).clip_value is None
    assert latent.outer_loop(one, "LEO", parameters(outer_lr=0.5)).optimizer.keywords["lr"] == 0.5
    assert latent.tasks(one, p).query is None
    with pytest.raises(ValueError, match=r"expected methods out of LEO, .*; got 'LE0'"):
        latent.learner(one, "LE0", p)


def test_only_the_first_version_answers_rows_of_the_paper():
    one, three = latent.settings(parameters())
    assert latent.paper_row(one, "LEO") == "004/T1/miniImageNet/5-way-1-shot/LEO-ours"
    assert row(latent.paper_row(replace(one, shots=5), latent.BASELINE)).value == 72.41
    assert (
        latent.paper_row(replace(one, shots=5), "LEO (random prior)") is None and latent.paper_row(three, "LEO") is None
    )


@pytest.mark.parametrize(
    ("gap", "reach", "expected"),
    [(0.3, 0.2, True), (-0.3, 0.2, True), (0.9, 0.3, None), (2.0, 0.5, False), (-20.0, 0.5, False)],
)
def test_an_ablation_keeps_up_only_where_its_gap_is_small(gap, reach, expected):
    found = Summary(gap, reach, 1000)
    assert latent.is_small(Gain(found, Summary(gap, float("nan"), 1))) is expected


def test_the_inner_loop_is_drawn():
    drawn = inner_loop()
    assert drawn.startswith("<svg") and all(
        word in drawn for word in ("encoder", "decoder", "L(query)", "currentColor")
    )
