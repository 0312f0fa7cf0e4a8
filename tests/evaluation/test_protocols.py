import json
import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from tacit import encoders, evaluation
from tacit.data import open_source
from tacit.errors import DataError, Unknown, UsageError
from tacit.evaluation import intervals, label_free, linear, parse
from tacit.evaluation.knn import knn_predict, knn_sweep, vote
from tacit.evaluation.linear import FEW, fit_logistic, held_out, logistic, stratified
from tacit.evaluation.task import random_twin


def clouds(count: int = 300, classes: int = 3, width: int = 8, seed: int = 0, apart: float = 2.0):
    rng = np.random.default_rng(seed)
    y = rng.integers(classes, size=count)
    centres = np.random.default_rng(99).normal(size=(classes, width)) * apart
    return torch.from_numpy(centres[y] + rng.normal(size=(count, width))).float(), torch.from_numpy(y)


def test_knn_agrees_with_scikit_learn_and_with_the_slow_sum():
    (bank, y), (query, _) = clouds(), clouds(80, seed=1)
    unit = lambda x: torch.nn.functional.normalize(x, dim=1)  # noqa: E731

    def weight(distance):  # squared Euclidean distance of unit rows is 2 - 2 cos
        return np.exp((1 - distance**2 / 2) / 0.07)

    theirs = KNeighborsClassifier(20, weights=weight).fit(unit(bank).numpy(), y.numpy())
    ours = knn_predict(bank, y, query, k=20, classes=3)
    assert (ours.numpy() == theirs.predict(unit(query).numpy())).all()
    similarity = unit(query) @ unit(bank).T
    for row, predicted in zip(similarity, ours, strict=True):
        values, nearest = row.topk(20)
        votes = [sum(math.exp(v / 0.07) for v, i in zip(values, nearest, strict=True) if y[i] == c) for c in range(3)]
        assert int(np.argmax(votes)) == int(predicted)


def test_knn_does_not_depend_on_its_blocks_and_copes_with_small_banks():
    (bank, y), (query, _) = clouds(30), clouds(50, seed=1)
    whole = knn_predict(bank, y, query, k=100, classes=3, block=1000)
    assert torch.equal(whole, knn_predict(bank, y, query, k=100, classes=3, block=7))


def test_one_vote_each_agrees_with_scikit_learn_and_ties_go_to_the_nearer():
    (bank, y), (query, _) = clouds(), clouds(80, seed=1)
    unit = torch.nn.functional.normalize
    theirs = KNeighborsClassifier(7).fit(unit(bank, dim=1).numpy(), y.numpy())
    shares = theirs.predict_proba(unit(query, dim=1).numpy())
    clear = (np.sort(shares, axis=1)[:, -1] - np.sort(shares, axis=1)[:, -2]) > 0
    ours = knn_predict(bank, y, query, k=7, classes=3, temperature=None).numpy()
    assert (ours[clear] == shares.argmax(1)[clear]).all()
    assert clear.sum() > 60
    similarity, labels = torch.tensor([[0.9, 0.8, 0.7, 0.6]]), torch.tensor([[2, 0, 0, 2]])
    assert int(vote(similarity, labels, classes=3, temperature=None)) == 2
    assert int(vote(similarity, labels[:, [1, 0, 3, 2]], classes=3, temperature=None)) == 0


def test_neighbours_may_be_sought_about_the_training_mean(digits):
    """UNI's: centred by the training mean, unit length, Euclidean neighbours; of one neighbour, where no votes tie."""
    torch.manual_seed(0)
    whole = encoders.build("vit_mini", size=16, patch=8, depth=1)
    data = open_source(digits)
    parts = {"train": data.select(np.arange(0, 200, 2)), "test": data.select(np.arange(1, 200, 2))}
    found = evaluation.evaluate(
        whole, parts["train"], parts["test"], ["knn:centre=yes:vote=majority:k=1"], baselines=False, workers=0,
        cache=False,
    )  # fmt: skip
    (score,) = found["results"]
    assert score["settings"]["centre"] is True
    (x, y), (q, truth) = (
        (f.x, f.y) for f in (evaluation.features(whole, parts[p], workers=0) for p in ("train", "test"))
    )
    mean = x.mean(0)
    x, q = (torch.nn.functional.normalize(z - mean, dim=1) for z in (x, q))
    theirs = KNeighborsClassifier(1).fit(x.numpy(), y.numpy()).predict(q.numpy())
    assert score["value"] == pytest.approx((theirs == truth.numpy()).mean())


def test_several_k_are_each_what_it_is_alone():
    (bank, y), (query, _) = clouds(60), clouds(50, seed=1)
    found = knn_sweep(bank, y, query, ks=(1, 5, 20), classes=3)
    for k, predicted in found.items():
        assert torch.equal(predicted, knn_predict(bank, y, query, k=k, classes=3))


def test_logistic_regression_finds_scikit_learns_optimum():
    x, y = clouds(apart=0.5)
    strength = 1e-2
    ones = torch.cat([x, torch.ones(len(x), 1)], dim=1)
    w = fit_logistic(ones, y, 3, strength)
    theirs = LogisticRegression(C=1 / (strength * len(x)), tol=1e-8, max_iter=1000).fit(x.numpy(), y.numpy())
    ours, expected = torch.softmax(ones @ w, dim=1).numpy(), theirs.predict_proba(x.numpy())
    np.testing.assert_allclose(ours, expected, atol=2e-3)


def test_the_strength_is_chosen_without_the_test_set():
    (x, y), (x_test, _) = clouds(apart=0.5), clouds(50, seed=1, apart=0.5)
    predicted, strength = logistic(x, y, x_test, classes=3)
    other, same = logistic(x, y, x_test[:5] * 100, classes=3)
    assert strength == same
    assert predicted.shape == (50, 3)
    assert other.shape == (5, 3)
    torch.testing.assert_close(predicted.sum(1), torch.ones(50))


def test_the_strength_for_few_records_hangs_less_on_the_draw(monkeypatch):
    """One fifth of 320 records chooses strengths a thousandfold apart."""
    rng = torch.Generator().manual_seed(0)
    means, y = torch.randn(10, 16, generator=rng), torch.arange(320) % 10
    x = means[y] + torch.randn(320, 16, generator=rng)
    spread = []
    for few in (FEW, 0):
        monkeypatch.setattr(linear, "FEW", few)
        chosen = [logistic(x, y, x[:1], classes=10, seed=seed)[1] for seed in range(5)]
        spread.append(max(chosen) / min(chosen))
    assert spread[0] < 11
    assert spread[1] > 99


def test_one_fifth_of_many_records_is_held_out_and_each_of_few():
    y, groups = np.arange(FEW + 1) % 3, np.arange(FEW + 1) // 7
    ((keep, held),) = held_out(y, None, 4)
    np.testing.assert_array_equal(held, stratified(y, 0.2, 4)[1])
    assert len(held_out(y[:FEW], groups[:FEW] // 100, 4)) == 3, "as many as there are groups"
    for of in (None, groups[:FEW], np.zeros(FEW)):
        drawn = held_out(y[:FEW], of, 4)
        np.testing.assert_array_equal(np.sort(np.concatenate([held for _, held in drawn])), np.arange(FEW))
        assert len(drawn) == 5
        for keep, held in drawn:
            assert np.bincount(y[held]) == pytest.approx(FEW / 15, rel=0.05)
            assert of is None or not of.any() or not set(of[keep]) & set(of[held])


def test_held_out_parts_keep_every_class_on_both_sides():
    y = np.array([0] * 50 + [1] * 10 + [2] * 2)
    first, second = stratified(y, 0.2, seed=0)
    assert sorted([*first, *second]) == list(range(62))
    assert np.bincount(y[second]).tolist() == [10, 2, 1]


def test_intervals_hold_what_they_should():
    right = np.array([1.0] * 80 + [0.0] * 20)
    low, high = intervals.bootstrap(right)
    half = 1.96 * math.sqrt(0.8 * 0.2 / 100)
    assert (low, high) == (pytest.approx(0.8 - half, abs=0.02), pytest.approx(0.8 + half, abs=0.02))
    values = np.array([0.1, 0.2, 0.4])
    assert intervals.over_draws(values) == pytest.approx(
        stats.t.interval(0.95, 2, loc=values.mean(), scale=stats.sem(values))
    )
    assert intervals.over_draws(np.array([0.3])) == (0.3, 0.3)
    gain, low, high = evaluation.difference(values + 0.1, values)
    assert (gain, low, high) == pytest.approx((0.1, 0.1, 0.1))


def test_label_free_measures_at_their_closed_forms():
    eye = torch.eye(6)
    assert label_free.rankme(eye).item() == pytest.approx(6, rel=1e-4)
    assert label_free.rankme(torch.ones(6, 4)).item() == pytest.approx(1, rel=1e-4)
    outer = torch.outer(torch.arange(1.0, 9), torch.ones(5))
    assert label_free.rankme(outer).item() == pytest.approx(1, rel=1e-4)
    assert label_free.rankme(torch.zeros(4, 4)).item() == pytest.approx(1, rel=1e-4)
    assert label_free.alignment(eye, eye).item() == 0
    assert label_free.alignment(eye, -eye).item() == pytest.approx(4)
    assert label_free.uniformity(torch.ones(5, 3)).item() == pytest.approx(0, abs=1e-6)
    assert label_free.uniformity(eye).item() == pytest.approx(-4, abs=1e-5)  # all pairs at squared distance 2, t = 2
    assert label_free.feature_std(torch.ones(5, 3)).item() == pytest.approx(0, abs=1e-6)
    spread = torch.randn(4000, 64, generator=torch.Generator().manual_seed(0))
    assert label_free.feature_std(spread).item() == pytest.approx(1, abs=0.02)


@pytest.fixture(scope="module")
def encoder() -> encoders.Encoder:
    torch.manual_seed(0)
    return encoders.build("vit_mini", size=16, patch=8)


def test_scores_come_with_baselines_and_intervals(encoder, digits):
    result = evaluation.evaluate(encoder, open_source(digits), None, ["few_shot:draws=3", "knn", "linear"])
    rows = result["results"]
    assert [r["protocol"] for r in rows] == ["few_shot"] * 3 + ["knn"] * 3 + ["linear"] * 3
    assert {r["of"] for r in rows} == {"run", "random-init", "raw-input"}
    for row in rows:
        assert set(row) == {"protocol", "metric", "value", "low", "high", "n", "of", "settings"}
        assert row["low"] <= row["value"] <= row["high"]
    raw = {r["protocol"]: r["value"] for r in rows if r["of"] == "raw-input"}
    assert raw["knn"] > 0.8
    records = result.pop("records")
    for row in rows:
        kept = records[f"{row['of']}/{row['protocol']}/top1"]
        assert kept.shape == (row["n"],)
        assert kept.mean() == pytest.approx(row["value"])
    json.dumps(result)
    assert "a fifth of each class" in result["split"]
    again = evaluation.evaluate(encoder, open_source(digits), None, ["few_shot:draws=3", "knn", "linear"])
    assert rows == again["results"]


def test_protocols_take_options_and_refuse_others(encoder, digits, tmp_path):
    specs = ["knn:k=1/5:vote=majority:feature=cls_mean", "percent:share=10/50:draws=2:classifier=prototypes"]
    result = evaluation.evaluate(encoder, open_source(digits), None, specs, baselines=False)
    assert [(r["protocol"], r["settings"].get("feature")) for r in result["results"]] == [
        ("knn:k=1", "cls_mean"), ("knn:k=5", "cls_mean"),
        ("percent:share=10", "pooled"), ("percent:share=50", "pooled"),
    ]  # fmt: skip
    path = evaluation.store(tmp_path, result)
    with np.load(path.with_suffix(".npz")) as kept:
        assert set(kept) == {f"run/{r['protocol']}/top1" for r in result["results"]}
    for spec, said in (
        ("knn:kk=3", "option of knn 'kk'"), ("knn:k=a", "numbers like"), ("knn:k=0", "must be above 0"),
        ("linear:feature=clss", "feature 'clss'"), ("knn:vote=loud", "vote 'loud'"),
        ("few_shot:classifier=x", "classifier 'x'"), ("linear_sgd:preset=mobi", "preset 'mobi'.*'moby'"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=said):
            evaluation.evaluate(encoder, open_source(digits), None, [spec], baselines=False)


def test_the_split_is_known_by_its_hash(encoder, digits, tmp_path):
    def of(train, test=None, seed=0):
        return evaluation.evaluate(encoder, train, test, ["knn"], seed=seed, baselines=False)["split_hash"]

    source = open_source(digits)
    assert of(source) == of(open_source(digits))
    assert len({of(source), of(source, seed=1), of(source, source), of(source.select(np.arange(150)))}) == 4


def test_the_random_twin_is_the_same_architecture_drawn_afresh(encoder):
    twin, again = random_twin(encoder, 7), random_twin(encoder, 7)
    assert twin.inputs == encoder.inputs
    shapes = {k: v.shape for k, v in encoder.state_dict().items()}
    assert {k: v.shape for k, v in twin.state_dict().items()} == shapes
    assert torch.equal(twin.trunk.pos_embed, again.trunk.pos_embed)
    assert not torch.equal(twin.trunk.pos_embed, encoder.trunk.pos_embed)


def test_features_are_those_of_eval_mode_and_say_what_they_left_out(encoder, digits, tmp_path):
    import shutil

    folder = shutil.copytree(digits, tmp_path / "copy")
    (folder / "3" / sorted(p.name for p in (folder / "3").iterdir())[0]).write_bytes(b"")
    source = open_source(folder)
    found = evaluation.features(encoder.train(), source, batch_size=64)
    assert found.x.shape == (199, encoder.width)
    assert [reason for _, reason in found.bad] == ["empty file"]
    again = evaluation.features(encoder, source, batch_size=7, workers=1)
    torch.testing.assert_close(found.x, again.x, atol=1e-5, rtol=1e-4)


def test_what_cannot_be_scored_is_said(encoder, digits, tmp_path):
    with pytest.raises(Unknown, match="Did you mean 'knn'"):
        evaluation.evaluate(encoder, open_source(digits), None, ["kmn"])
    with pytest.raises(UsageError, match=r"knn needs one class a record, and the data has no labels.*class folders"):
        evaluation.evaluate(encoder, open_source(digits, labels=None), None, ["knn"])
    one = open_source(digits).select(np.arange(5))
    with pytest.raises(DataError, match="one class"):
        evaluation.evaluate(encoder, one, None, ["knn"])
    with torch.no_grad():
        broken = encoders.build("vit_mini", size=16, patch=8)
        broken.trunk.norm.weight.fill_(float("nan"))
    with pytest.raises(DataError, match="not numbers"):
        evaluation.features(broken, open_source(digits))


def test_a_protocol_asked_for_twice_keeps_both_scores_apart(digits):
    torch.manual_seed(0)
    encoder = encoders.build("vit_mini", size=16, patch=8, depth=1)
    found = evaluation.evaluate(
        encoder, open_source(digits), None, ["knn", "knn:k=5/10:feature=cls_mean"], baselines=False
    )
    names = ["knn", "knn:k=5:feature=cls_mean", "knn:k=10:feature=cls_mean"]
    assert [r["protocol"] for r in found["results"]] == names
    assert [r["settings"]["feature"] for r in found["results"]] == ["pooled", "cls_mean", "cls_mean"]
    assert list(found["records"]) == [f"run/{name}/top1" for name in names]


@pytest.mark.parametrize(
    ("spec", "near"),
    [("knn:vote=majorty", "majority"), ("linear:metric=top", "top1"), ("fine_tune:recipe=diet", "deit"),
     ("linear_sgd:preset=mobi", "moby"), ("few_shot:classifier=prototype", "prototypes"),
     ("clinical:threshold=yuden", "youden"), ("fine_tune:precision=bf15", "bf16")],
)  # fmt: skip
def test_a_wrong_word_is_answered_before_anything_is_read(spec, near):
    with pytest.raises(Unknown, match=f"Did you mean '{near}'"):
        parse(spec)
