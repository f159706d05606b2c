"""Codes before and after adaptation: distances with a known answer, maps that keep what they must, claims."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import silhouette_samples

import mlkit
from mlkit.chapters import latent_embeddings, latent_space, latent_space_claims
from mlkit.chapters.latent_space_measures import alike, charts, kept, separation
from mlkit.evaluation import evaluate
from mlkit.experiment import weights_of
from mlkit.losses import ACCURACY
from mlkit.parameters import check, read
from mlkit.running import preset
from mlkit.tasks import FeatureClasses, frozen, write_features
from tests.chapters import tiny
from tests.conftest import ROOT

LATENTS, WAYS, TASKS, IMAGES = 64, 5, 12, 16
RNG = np.random.default_rng(0)
POINTS = torch.from_numpy(RNG.normal(size=(30, 4)))
KINDS = torch.arange(30) % 3
NOBODY = torch.arange(30)[:, None]  # groups of one


def test_separation_is_the_silhouette_where_all_pairs_count():
    expected = silhouette_samples(POINTS.numpy(), KINDS.numpy())
    np.testing.assert_allclose(separation(POINTS, KINDS, NOBODY), expected, atol=1e-12)
    np.testing.assert_allclose(separation(3 * POINTS, KINDS, NOBODY), expected, atol=1e-12)


def test_a_second_code_of_one_image_adds_nothing():
    twice, groups = POINTS.repeat(2, 1), NOBODY.repeat(2, 1)
    once = separation(POINTS, KINDS, NOBODY)
    assert torch.allclose(separation(twice, KINDS.repeat(2), groups), once.repeat(2))
    naive = separation(twice, KINDS.repeat(2), torch.arange(60)[:, None])
    assert naive.mean() > once.mean() + 0.01, "copies look like a class that keeps together"
    both = torch.stack([NOBODY[:, 0], torch.zeros(30, dtype=torch.int64)], 1)
    assert separation(POINTS, KINDS, both).isnan().all(), "all share the second group"


def test_a_class_alone_has_no_silhouette_and_equal_points_are_on_the_border():
    line, kinds = torch.tensor([[0.0], [1.0], [9.0]]), torch.tensor([0, 0, 1])
    found = separation(line, kinds, torch.arange(3)[:, None])
    assert found[:2].tolist() == pytest.approx([8 / 9, 7 / 8]) and found[2].isnan()
    same = separation(torch.zeros(4, 2), torch.tensor([0, 0, 1, 1]), torch.arange(4)[:, None])
    assert (same == 0).all()


def test_neighbors_are_asked_for_their_class():
    line, kinds = torch.tensor([[0.0], [1.0], [3.0], [7.0]]), torch.tensor([0, 0, 1, 1])
    every = torch.arange(4)[:, None]
    assert alike(line, kinds, every, count=1).tolist() == [1.0, 1.0, 0.0, 1.0]
    assert alike(line, kinds, every, count=9).tolist() == pytest.approx([1 / 3] * 4)
    assert alike(line, kinds, torch.tensor([[0], [0], [1], [2]]), count=1).tolist() == [0.0, 0.0, 0.0, 1.0]


def test_maps_repeat_exactly_and_a_perplexity_needs_as_many_points():
    points = POINTS.numpy()
    first, again = charts(points, [3.0, 8.0]), charts(points, [3.0, 8.0])
    assert list(first) == ["t-SNE, perplexity 3", "t-SNE, perplexity 8", "PCA"]
    for name, chart in first.items():
        assert chart.shape == (30, 2)
        np.testing.assert_array_equal(chart, again[name])
    assert not np.allclose(*(first[f"t-SNE, perplexity {k}"] for k in (3, 8)))
    widest = np.linalg.svd(points - points.mean(0), compute_uv=False)[:2]
    np.testing.assert_allclose(np.linalg.norm(first["PCA"], axis=0), widest)
    with pytest.raises(ValueError, match=r"expected perplexities above 0 and below 30 points, got \[5.0, 30.0\]"):
        charts(points, [5.0, 30.0])


def test_a_turned_map_keeps_everything_and_a_shuffled_one_nothing():
    flat = RNG.normal(size=(400, 2))
    turned = 2 * flat @ np.array([[0.6, -0.8], [0.8, 0.6]])
    whole = kept(flat, turned, count=5)
    assert whole.neighbors == 1 and whole.distances == pytest.approx(1)
    lost = kept(flat, RNG.permutation(flat), count=5)
    assert lost.neighbors < 0.1 and abs(lost.distances) < 0.1


COLUMNS = {"networks": [""], "reductions": [3], "pretraining": [0], "shots": [1]}
REST = {
    "iterations": 2, "meta_batch": 2, "outer_lr": 0.0, "dropout": 0.1, "kl": -1.0, "orthogonality": -1.0, "query": 3,
    "validate_every": 1, "validation_tasks": 3, "test_tasks": 4, "watched_tasks": 3, "seeds": [0, 1], "chunk_size": 2,
    "workers": 1, "device": "cpu", "split": "val", "classes": 6, "tasks": TASKS, "neighbors": 3, "perplexities": [4.0],
    "shown_tasks": 7, "followed_tasks": 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Features of classes that lie apart, in a project of their own."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "notebooks").mkdir()
    splits = {}
    for split in ("train", "val", "test"):
        arrays = [2 * RNG.normal(size=(1, 6)) + RNG.normal(size=(IMAGES, 6)) for _ in range(8)]
        splits[split] = FeatureClasses.build("own", arrays, names=[f"{split}{k}" for k in range(8)])
    write_features(folder / "own.npz", splits)
    return folder


@pytest.fixture(scope="module")
def looked(project):
    """Both versions, trained for two steps, with what the chapter stores of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLKIT_ROOT", str(project))
        patch.delenv("MLKIT_RECORDS", raising=False)
        found = {}
        for version in ("v1", "v3"):
            p = SimpleNamespace(data=[str(project / "own.npz")], versions=[version], **COLUMNS, **REST)
            (setting,) = latent_embeddings.settings(p)
            unit = mlkit.Unit("latent_space", vars(p))
            training = latent_embeddings.trained(setting, "LEO", p)
            walks = latent_space.walks(setting, p, training)
            records = latent_space.studied(unit, setting, p), latent_space.charted(unit, setting, p)
            with pytest.MonkeyPatch.context() as stopped:
                stopped.setattr(latent_space, "walks", lambda *_: pytest.fail("computed again"))
                assert latent_space.studied(unit, setting, p).key == records[0].key
            found[version] = SimpleNamespace(setting=setting, p=p, training=training, walks=walks, records=records)
        yield found


@pytest.mark.parametrize(("version", "steps"), [("v1", 6), ("v3", 5)])
def test_codes_are_those_of_meta_test_and_know_their_images(looked, version, steps):
    case = looked[version]
    walks, p = case.walks, case.p
    assert walks.codes.shape == (TASKS, steps + 1, WAYS, LATENTS) and len(walks.names) == 6
    learner = replace(latent_embeddings.learner(case.setting, "LEO", p), finetuning_steps=0)
    source = latent_space.of_classes(latent_embeddings.tasks(case.setting, p).split("val"), p.classes)
    tasks = frozen(source, TASKS, latent_space.SEED)
    scores = evaluate(learner, weights_of(case.training), tasks, metric=ACCURACY, steps=range(steps + 1))[0]
    assert torch.allclose(walks.accuracy.mT, scores)
    rows = source.source.rows[walks.images]
    assert torch.equal(rows, walks.features)
    assert torch.equal(walks.images // IMAGES, walks.classes)
    assert all(len(set(row.tolist())) == WAYS for row in walks.classes)
    first, images = walks.codes[:, 0].flatten(0, 1), walks.images.flatten()
    one = images == images.mode().values
    alike_everywhere = torch.allclose(first[one], first[one][:1].expand(int(one.sum()), -1), atol=1e-6)
    assert int(one.sum()) > 1 and alike_everywhere == (version == "v1"), "only v1 encodes an image for itself"


def test_what_is_measured_is_what_the_codes_say(looked):
    case = looked["v1"]
    codes, record = case.walks.codes.double().numpy(), case.records[0]
    arrays = record.arrays
    np.testing.assert_array_equal(arrays["moved"][0], 0)
    walked = np.linalg.norm(codes[:, 4] - codes[:, 0], axis=-1).mean(-1)
    np.testing.assert_allclose(arrays["moved"][4], walked, rtol=1e-4)
    pairs = [np.linalg.norm(codes[:, -1, i] - codes[:, -1, k], axis=-1) for i in range(5) for k in range(i)]
    np.testing.assert_allclose(arrays["between"][-1], np.mean(pairs, 0), rtol=1e-3)
    start = codes[:, 0].reshape(-1, LATENTS)
    np.testing.assert_allclose(arrays["spread"], np.linalg.norm(start.std(0)), rtol=1e-4)
    far = np.linalg.norm(codes - start.mean(0), axis=-1)  # (tasks, steps + 1, ways)
    np.testing.assert_allclose(arrays["outside"], (far[:, -1] > np.quantile(far[:, 0], 0.99)).mean(1), rtol=1e-5)
    shares = np.bincount(arrays["classes"].ravel()) / arrays["classes"].size
    np.testing.assert_allclose(arrays["chance"], shares[arrays["classes"]].mean(1), rtol=1e-5)
    last = separation(case.walks.at(-1), case.walks.classes.flatten(), case.walks.groups).view(TASKS, WAYS)
    np.testing.assert_allclose(arrays["separation"][-1], last, rtol=1e-4, atol=1e-6)
    assert record.evidence["seeds"] == [0] and record.evidence["tasks"] == TASKS
    assert record.settings["of"] == [case.training.key]


def test_maps_hold_the_codes_that_are_drawn(looked):
    record = looked["v3"].records[1]
    assert record.scores["maps"] == ["t-SNE, perplexity 4", "PCA"]
    assert record.arrays["ends"].shape == (2, 2, 7 * WAYS, 2) and record.arrays["paths"].shape == (2, 6, 3 * WAYS, 2)
    walks = looked["v3"].walks
    np.testing.assert_array_equal(record.arrays["ends_classes"], walks.classes[:7].flatten())
    both = walks.codes[:, [0, -1]].transpose(0, 1).reshape(-1, LATENTS).double()
    flat = charts(both.numpy(), [])["PCA"].reshape(2, -1, 2)[:, : 7 * WAYS]
    np.testing.assert_allclose(record.arrays["ends"][1], flat, rtol=2e-3, atol=2e-3)
    said = latent_space.fidelity(record).data
    assert all(name in said for name in record.scores["maps"]) and len(said.splitlines()) == 4
    total = sum(path.stat().st_size for path in record.path.parent.glob("*"))
    assert total < 200_000, "records ship with the book"


def made_up(folder, after: float, *, moved: float = 3.0, noise: float = 0.1):
    """Store codes of four classes whose silhouette goes from 0 to `after`, for a setting called v1."""
    rng = np.random.default_rng(5)
    classes = np.array([rng.permutation(4)[:2] for _ in range(40)])
    ends = np.stack([noise * rng.normal(size=(40, 2)), after + noise * rng.normal(size=(40, 2))])
    arrays = {
        "separation": ends, "classes": classes, "moved": np.stack([np.zeros(40), moved + noise * rng.normal(size=40)]),
        "spread": np.array(1.0), "outside": np.full(40, 0.5 + after) + noise * rng.normal(size=40),
        "neighbors": np.stack([np.full(40, 0.25), 0.25 + after + noise * rng.normal(size=40)]),
        "chance": np.full(40, 0.25),
    }  # fmt: skip
    record = tiny.record(folder, {}, arrays)
    object.__setattr__(record, "arrays", arrays | {"names": np.array(list("abcd"))})
    return record


SETTING = latent_embeddings.Setting("glyphs", "10-2", 3, 1, 1, "v1")


@pytest.mark.parametrize(("after", "moved", "word"), [(0.3, 3.0, "yes"), (-0.3, 0.3, "no"), (0.0, 1.0, "open")])
def test_claims_follow_the_numbers(tmp_path, after, moved, word):
    record = made_up(tmp_path, after, moved=moved)
    found = list(latent_space_claims.claims({SETTING: record}))
    assert [each.figure for each in found] == ["004/F2a"] * 2 + ["004/F2b"] * 3 + ["004/F2c", "004/F2d"]
    assert {each.found.word for each in found} == {word}
    rise = next(each.found for each in found if each.says == latent_space_claims.BETTER)
    separations = record.arrays["separation"]
    assert rise.value == pytest.approx((separations[1] - separations[0]).mean(), abs=1e-6)
    assert "over 40 tasks" in rise.note
    assert next(each.found.value for each in found) == pytest.approx(moved, abs=0.1)


def test_two_other_classes_are_picked_and_the_strict_interval_is_wider(tmp_path):
    record = made_up(tmp_path, 0.3)
    (first, second), names = latent_space_claims.separates_picked(record), latent_space.of_class(record)
    assert first.note[0] != second.note[0] and {first.note[0], second.note[0]} <= set(names)
    before, after, count = names[first.note[0]]
    assert first.value == pytest.approx(after - before) and f"over {count} codes" in first.note
    assert sum(count for _, _, count in names.values()) == 80
    strict = latent_space_claims.separates_classes(record)
    assert "over 4 classes, up in 4" in strict.note and strict.value == pytest.approx(0.3, abs=0.05)


@pytest.mark.parametrize(
    ("data", "after", "verdict"),
    [("glyphs", 0.3, "other data"), ("mini_imagenet", 0.3, "same direction"), ("mini_imagenet", -0.3, "not reached")],
)
def test_a_stand_in_is_never_called_a_reproduction(tmp_path, monkeypatch, data, after, verdict):
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setenv("MLKIT_ROOT", str(tmp_path))
    record = made_up(tmp_path, after)
    record.body["data"] = {"data": data, "stand_in": data != "mini_imagenet"}
    settings = {replace(SETTING, data=data, version=version): record for version in ("v1", "v3")}
    claims = list(latent_space_claims.claims(settings))
    answered = latent_space_claims.answer(mlkit.Unit("latent_space"), claims, [record], settings)
    found = {answer["id"]: answer for answer in answered.answers}
    assert list(found) == ["004/F2a", "004/F2b", "004/F2c", "004/F2d"]
    assert found["004/F2b"]["verdict"] == verdict and found["004/F2b"]["value"] == pytest.approx(after, abs=0.05)
    assert found["004/F2b"]["note"].count(latent_space_claims.LOCAL) == 1, "v3 is another version"


@pytest.mark.parametrize("name", ["quick", "cpu", "paper"])
def test_the_trainings_are_those_of_the_chapter_before(name):
    def values(unit: str) -> SimpleNamespace:
        return check(read(ROOT / "notebooks" / f"{unit}.ipynb"), preset(name, unit, ROOT))

    ours, theirs = values("latent_space"), values("latent_embedding_optimization")
    known = {*latent_embeddings.settings(theirs)}
    assert latent_embeddings.settings(ours) and {*latent_embeddings.settings(ours)} <= known
    shared = (vars(ours).keys() & vars(theirs).keys()) - set(latent_embeddings.COLUMNS)
    assert len(shared) >= 14
    assert {key: getattr(ours, key) for key in shared} == {key: getattr(theirs, key) for key in shared}
