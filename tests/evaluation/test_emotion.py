"""Emotions: weighted accuracy, sentiment's scores, and the protocol from files to scores."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import tacit
from tacit import encoders
from tacit.data import open_source, open_splits
from tacit.errors import DataError, Unknown, UsageError
from tacit.evaluation import emotion, evaluate
from tacit.views.sequences import measure


def counts(tp: int, fn: int, tn: int, fp: int) -> tuple[np.ndarray, np.ndarray]:
    said = np.repeat([True, False, False, True], [tp, fn, tn, fp])
    return said, np.repeat([True, True, False, False], [tp, fn, tn, fp])


def test_weighted_accuracy_is_the_mean_of_both_rates():
    assert emotion.weighted_accuracy(*counts(5, 5, 81, 9)) == pytest.approx(0.70)
    assert emotion.weighted_accuracy(*counts(10, 0, 0, 90)) == 0.5  # all called positive
    assert emotion.weighted_accuracy(*counts(3, 1, 7, 13)) == pytest.approx((3 / 4 + 7 / 20) / 2)
    assert np.isnan(emotion.weighted_accuracy(*counts(0, 0, 5, 1)))


def test_weighted_f1_is_scikit_learns():
    from sklearn.metrics import f1_score

    said, target = counts(5, 5, 81, 9)
    assert emotion.weighted_f1(said, target) == pytest.approx(f1_score(target, said, average="weighted"))


def test_unknown_labels_and_emotions_of_one_kind_are_left_out():
    p = np.array([[0.9, 0.1], [0.2, 0.9], [0.6, 0.4], [0.1, 0.6]])
    y = np.array([[1, 0], [0, 0], [-1, 0], [0, 0]])
    found = emotion.emotion_scores(p, y, (0.5, 0.5))
    assert found["weighted_accuracy"][0] == 1
    assert np.isnan(found["weighted_accuracy"][1])


def test_sentiment_by_the_conventions_of_its_task():
    target, p = np.array([-3.0, -0.4, 0.0, 1.0, 2.6]), np.array([-3.4, 0.2, -0.1, 1.4, 3.0])
    found = emotion.sentiment_scores(p, target)
    assert found["mae"] == pytest.approx(np.mean([0.4, 0.6, 0.1, 0.4, 0.4]))
    assert found["acc7"] == 1.0  # -3 and 3 are the ends
    assert found["acc2"] == pytest.approx(3 / 5)  # 0 counts as not negative
    assert found["acc2_without_0"] == pytest.approx(3 / 4)
    assert found["pearson"] == pytest.approx(np.corrcoef(p, target)[0, 1])


def test_rare_positives_weigh_up_to_ten():
    y = np.array([[1, 1, 1]] + [[0, 0, -1]] * 4 + [[0, 1, 0]] * 20)
    assert emotion.positive_weights(y).tolist() == [10, pytest.approx(4 / 21), 10]


def test_labels_are_drawn_by_videos_and_a_smaller_draw_is_part_of_a_larger():
    groups = np.repeat([f"v{i}" for i in range(50)], 4)
    few, more = (set(emotion.labelled_rows(groups, 200, share, 3).tolist()) for share in (10, 30))
    assert (len(few), len(more)) == (20, 60)
    assert few < more
    for rows in (few, more):
        assert all({r // 4 * 4, r // 4 * 4 + 3} <= rows for r in rows)
    assert few != set(emotion.labelled_rows(groups, 200, 10, 4).tolist())
    y = np.zeros((200, 2), np.int8)
    y[::5, 0] = y[::3, 1] = 1
    fit, held = emotion.apart(groups, y, np.array(sorted(more)), 0)
    assert not set(groups[fit]) & set(groups[held])
    assert set(fit) | set(held) == more
    with pytest.raises(DataError, match="ten are needed"):
        emotion.labelled_rows(groups, 200, 2, 0)


@pytest.fixture(scope="module")
def talkers(tmp_path_factory):
    """96 clips of 24 videos: an emotion that text and audio show, another that vision shows, and a sentiment."""
    root, rng, rows = tmp_path_factory.mktemp("talkers"), np.random.default_rng(0), []
    for i in range(96):
        glad, afraid = rng.integers(2), int(rng.random() < 0.3)
        audio, vision = rng.normal(0, 0.5, (6, 3)), rng.normal(0, 0.5, (4, 2))
        audio[:, 0] += 2 * glad
        vision[:, 1] -= 2 * afraid
        np.savez(root / f"v{i // 4}[{i % 4}].npz", text=np.array(["good" if glad else "bad", "day"]), audio=audio,
                 vision=vision)  # fmt: skip
        part = "train" if i < 64 else "test"
        rows.append(f"v{i // 4}[{i % 4}],{part},{glad},{afraid},{2 * glad - 1 - afraid:.1f}")
    (root / "labels.csv").write_text("\n".join(["id,split,happy,fear,sentiment", *rows]) + "\n")
    return root


def encoder_for(root) -> encoders.Encoder:
    torch.manual_seed(0)
    inputs = measure(open_source(f"sequences:{root}")).inputs
    return encoders.build("emotion_xmodal_mini", inputs=inputs, width=8, heads=2, cross_depth=1).eval()


def test_the_protocol_learns_and_drops_modalities(talkers):
    train, test = open_splits(f"sequences:{talkers}")
    spec = "emotion:epochs=8:lr=5e-3/1e-5:scratch_lr=5e-3:seeds=1:batch_size=16"
    result = evaluate(encoder_for(talkers), train, test, [spec, "multi_label"])
    found = {(r["of"], r["protocol"], r["metric"]): r for r in result["results"]}
    for of in ("run", "random-init", "raw-input"):
        assert found[of, "emotion", "weighted_accuracy"]["value"] > 0.85
        assert {m for o, p, m in found if (o, p) == (of, "emotion")} == set(emotion.METRICS)
    assert found["run", "emotion", "weighted_accuracy"]["settings"]["lr"] == [5e-3]  # the best of two
    per = found["run", "emotion", "weighted_accuracy"]["settings"]["per_emotion"]
    assert set(per) == {"happy", "fear"}
    blind = found["run", "emotion:without=vision", "weighted_accuracy"]["settings"]["per_emotion"]
    assert blind["fear"] < 0.75 < blind["happy"]
    seeing = found["run", "emotion:only=vision", "weighted_accuracy"]["settings"]["per_emotion"]
    assert seeing["happy"] < 0.75 < seeing["fear"]
    assert found["run", "multi_label", "map"]["value"] > 0.6
    json.dumps(result["results"])


def test_shares_seeds_thresholds_and_what_cannot_be(talkers):
    train, test = open_splits(f"sequences:{talkers}")
    encoder = encoder_for(talkers)
    spec = "emotion:percent=25/50:epochs=1:seeds=2:curve=no:threshold=validation:drop=audio/text"
    result = evaluate(encoder, train, test, [spec], baselines=False)
    rows = [r for r in result["results"] if r["metric"] == "weighted_accuracy"]
    assert [r["protocol"] for r in rows] == ["emotion:percent=25", "emotion:percent=50"]
    assert [r["settings"]["labelled"] for r in rows] == [16, 32]
    assert rows[0]["settings"]["missing"] == ["audio", "text"]
    assert len(rows[0]["settings"]["each_seed"]) == 2
    assert "fifth" in rows[0]["settings"]["threshold"]
    with pytest.raises(Unknown, match="modality 'sound'"):
        evaluate(encoder, train, test, ["emotion:drop=sound"], baselines=False)
    with pytest.raises(UsageError, match="nothing is left"):
        evaluate(encoder, train, test, ["emotion:drop=audio/text/vision"], baselines=False)
    with pytest.raises(UsageError, match="is for images"):
        evaluate(encoder, train, test, ["correspondence"], baselines=False)


def test_sentiment_is_regressed(talkers):
    train, test = open_splits(f"sequences:{talkers}:target=sentiment")
    result = evaluate(
        encoder_for(talkers), train, test, ["emotion:epochs=10:lr=5e-3:seeds=1:curve=no", "ridge"], baselines=False
    )
    found = {(r["protocol"], r["metric"]): r["value"] for r in result["results"]}
    truth = test.targets.values[:, 0]
    assert found["emotion", "mae"] < np.abs(truth - np.median(truth)).mean()
    assert found["emotion", "pearson"] > 0.5
    assert {m for p, m in found if p == "emotion"} == set(emotion.OF_SENTIMENT)
    assert found["ridge", "r2"] > 0.3


def test_the_best_epoch_is_kept_and_the_same_seed_gives_the_same(talkers):
    source = open_source(f"sequences:{talkers}")
    encoder = encoder_for(talkers)
    x = emotion.rows_of(source, encoder.inputs, np.arange(len(source)))
    y = source.targets.values
    fit, held = emotion.apart(source.groups, y, np.arange(len(source)), 0)
    recipe = emotion.Recipe(epochs=4, batch_size=16, lrs=(5e-3,))

    def tuned(**changes):
        import copy

        return emotion.tune(lambda: copy.deepcopy(encoder), x, y, fit, held, recipe=replace(recipe, **changes))

    one, other = tuned(), tuned()
    p = emotion.predict(one.model, x[held])
    assert np.array_equal(p, emotion.predict(other.model, x[held]))
    scores = emotion.emotion_scores(p, y[held], (0.5, 0.5))["weighted_accuracy"]
    assert one.score == pytest.approx(np.nanmean(scores))
    assert 1 <= one.epoch <= 4


def test_a_run_from_files_to_embeddings(talkers, tmp_path):
    """Pre-train, embed and score by the verbs, which know nothing of sequences but their name."""
    run = tacit.pretrain(
        "emotion_xmodal", f"sequences:{talkers}", tmp_path / "run", preset="small", steps=3, batch_size=16, workers=0,
        set=["dropout=0", "least_words=1"], quiet=True,
    )  # fmt: skip
    again = tacit.pretrain(
        "emotion_xmodal", f"sequences:{talkers}", tmp_path / "run", preset="small", steps=3, batch_size=16, workers=0,
        set=["dropout=0", "least_words=1"], quiet=True, resume=True,
    )  # fmt: skip
    assert again.summary == run.summary
    settings = run.settings["settings"]
    assert (settings["lengths"], settings["dims"]) == ([2, 6, 4], [1, 3, 2])
    assert settings["words"] == ["day", "bad", "good"] or settings["words"] == ["day", "good", "bad"]
    told = tacit.embed(run, f"sequences:{talkers}:part=all", tmp_path / "x.npy", workers=0)
    assert (told["rows"], told["width"]) == (96, 192)
    assert np.load(tmp_path / "x.npy").shape == (96, 192)
    loaded = encoders.load(run.path)
    assert loaded.inputs.words == tuple(settings["words"])
    with np.load(run.path / "views.npz") as views:
        assert views["views"].shape[:2] == (1, 8)
    with pytest.raises(UsageError, match="not exported"):
        tacit.export(run, "timm", tmp_path / "out")
