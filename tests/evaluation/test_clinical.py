import math

import numpy as np
import pytest
import torch
from sklearn import metrics

from tacit.errors import DataError, Unknown
from tacit.evaluation import clinical
from tacit.evaluation.groups import bootstrap_groups


def scored(count: int = 300, seed: int = 0, digits: int = 1):
    """Scores with many ties in 0 to 1, and targets they tell something about."""
    rng = np.random.default_rng(seed)
    target = (rng.random(count) < 0.3).astype(int)
    return np.clip(0.25 + 0.3 * target + 0.25 * rng.normal(size=count), 0, 1).round(digits), target


def graded(count: int = 400, classes: int = 5, seed: int = 0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=count)
    logits = rng.normal(size=(count, classes)).round(1) - 0.5 * np.abs(np.arange(classes) - labels[:, None])
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True), labels


@pytest.mark.parametrize("digits", [1, 8])
def test_ranking_scores_agree_with_scikit_learn(digits):
    score, target = scored(digits=digits)
    assert clinical.auroc(score, target) == pytest.approx(metrics.roc_auc_score(target, score), abs=1e-12)
    expected = metrics.average_precision_score(target, score)
    assert clinical.average_precision(score, target) == pytest.approx(expected, abs=1e-12)


def test_ranking_scores_of_four_records_by_hand():
    score, target = np.array([4, 3, 2, 1]), np.array([1, 0, 1, 0])
    assert clinical.auroc(score, target) == 3 / 4  # of the pairs 4>3, 4>1, 2<3, 2>1
    assert clinical.average_precision(score, target) == pytest.approx((1 + 2 / 3) / 2)
    assert clinical.auroc(np.zeros(4), target) == 0.5
    assert clinical.average_precision(np.zeros(4), target) == 0.5
    assert clinical.auroc(-score, target) == 1 / 4
    assert math.isnan(clinical.auroc(score, np.ones(4)))
    assert math.isnan(clinical.average_precision(score, np.zeros(4)))
    assert clinical.auroc(torch.tensor([0.1, 0.9]), torch.tensor([0, 1])) == 1


def test_multi_class_auroc_agrees_with_scikit_learn():
    probability, labels = graded()
    pairs, rest = clinical.multi_class_auroc(probability, labels)
    for ours, theirs in ((pairs, "ovo"), (rest, "ovr")):
        expected = metrics.roc_auc_score(labels, probability, multi_class=theirs, average="macro")
        assert ours == pytest.approx(expected, abs=1e-12)
    first = clinical.pairwise_auroc(probability, labels)[0, 1]
    two = labels < 2
    assert first == pytest.approx(clinical.auroc(probability[two, 0], labels[two] == 0), abs=1e-12)


def test_multi_class_auroc_leaves_out_classes_without_records():
    probability, labels = graded()
    three = labels < 3
    found = clinical.multi_class_auroc(probability[three], labels[three])
    assert found == pytest.approx(clinical.multi_class_auroc(probability[three, :3], labels[three]), abs=1e-12)
    assert all(math.isnan(v) for v in clinical.multi_class_auroc(probability[labels == 0], labels[labels == 0]))


def test_thresholds_by_hand():
    score = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])
    target = np.array([1, 1, 0, 1, 0, 1, 0, 0])
    # at or above:  .9    .8    .7    .6    .5    .4    .3   .2
    # sensitivity  1/4   2/4   2/4   3/4   3/4    1     1    1
    # specificity   1     1    3/4   3/4   2/4   2/4   1/4   0
    assert clinical.choose_threshold(score, target) == 0.8  # J = .5, also at .6 and .4: the highest
    assert clinical.choose_threshold(score, target, "sensitivity", 0.7) == 0.6
    assert clinical.choose_threshold(score, target, "sensitivity", 1.0) == 0.4
    assert clinical.choose_threshold(score, target, "specificity", 0.7) == 0.6
    assert clinical.choose_threshold(score, target, "specificity", 1.0) == 0.8
    assert clinical.choose_threshold(score, target, "f1") == 0.4  # 2 * 4 / (4 + 6) = .8, more than 3/4 at .6
    above = clinical.choose_threshold(-score, target, "specificity", 1.0)
    assert not (-score >= above).any()  # the lowest score is a positive's: to miss no negative, nothing is positive


def test_youdens_threshold_is_the_best_of_scikit_learns_curve():
    score, target = scored(digits=8)
    false, true, thresholds = metrics.roc_curve(target, score, drop_intermediate=False)
    assert clinical.choose_threshold(score, target) == thresholds[np.argmax(true - false)]


@pytest.mark.parametrize("seed", range(3))
def test_agreement_scores_agree_with_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(4, size=200)
    predicted = np.clip(labels + rng.integers(-1, 2, size=200), 0, 4)  # class 4 is predicted but never true
    table, every = clinical.confusion(predicted, labels), list(range(5))
    assert (table == metrics.confusion_matrix(labels, predicted, labels=every)).all()
    macro, weighted = clinical.f1(table)
    assert macro == pytest.approx(metrics.f1_score(labels, predicted, average="macro", zero_division=0), abs=1e-12)
    assert weighted == pytest.approx(metrics.f1_score(labels, predicted, average="weighted"), abs=1e-12)
    recalls = metrics.recall_score(labels, predicted, labels=range(4), average="macro")
    assert clinical.balanced_accuracy(table) == pytest.approx(recalls, abs=1e-12)
    assert clinical.kappa(table) == pytest.approx(metrics.cohen_kappa_score(labels, predicted), abs=1e-12)
    expected = metrics.cohen_kappa_score(labels, predicted, weights="quadratic", labels=every)
    assert clinical.kappa(table, quadratic=True) == pytest.approx(expected, abs=1e-12)


def test_kappa_at_its_ends_and_by_hand():
    same = np.array([0, 1, 2, 2])
    assert clinical.kappa(clinical.confusion(same, same), quadratic=True) == 1
    assert clinical.kappa(clinical.confusion(np.zeros(4), np.array([0, 0, 1, 1]))) == 0
    # one of four is off by two grades: cost 4; by chance, of rows 2, 1, 1 and columns 1, 1, 2: 26 / 4
    table = clinical.confusion(np.array([0, 2, 1, 2]), np.array([0, 0, 1, 2]))
    assert clinical.kappa(table, quadratic=True) == pytest.approx(1 - 4 / (26 / 4), abs=1e-12)
    assert math.isnan(clinical.kappa(clinical.confusion(np.zeros(3), np.zeros(3))))


def test_brier_agrees_with_scikit_learn():
    score, target = scored()
    assert clinical.brier(score, target) == pytest.approx(metrics.brier_score_loss(target, score), abs=1e-12)
    probability, labels = graded()
    expected = metrics.brier_score_loss(labels, probability, scale_by_half=False)
    assert clinical.brier(probability, labels) == pytest.approx(expected, abs=1e-12)
    assert clinical.brier(np.eye(2), np.array([1, 0])) == 2


def test_calibration_error_by_hand():
    probability = np.array([0.05, 0.1, 0.15, 0.9, 1.0])
    target = np.array([0, 1, 0, 1, 0])
    # ten bins: (0, .1] holds .05 and .1 -> |1 - .15|; (.1, .2] |0 - .15|; (.8, .9] |1 - .9|; (.9, 1] |0 - 1|
    expected = (0.85 + 0.15 + 0.1 + 1) / 5
    assert clinical.calibration_error(probability, target, bins=10) == pytest.approx(expected)
    two = np.stack([1 - probability, probability], 1)
    high = (0.95 - 1) + (1.0 - 0)  # (.9, 1] holds predictions at .95, right, and at 1, wrong
    middle = (0.9 - 0) + (0.85 - 1) + (0.9 - 1)  # (.8, .9]: .9 wrong, .85 right, .9 right
    assert clinical.calibration_error(two, target, bins=10) == pytest.approx((high + middle) / 5)
    assert clinical.calibration_error(np.array([0.0, 1.0]), np.array([0, 1])) == 0


def test_calibration_error_agrees_with_a_sum_over_bins():
    probability, labels = graded()
    sure, right = probability.max(1), probability.argmax(1) == labels
    total = 0.0
    for k in range(15):
        inside = (sure > k / 15) & (sure <= (k + 1) / 15)
        total += abs(right[inside].sum() - sure[inside].sum()) / len(labels)
    assert clinical.calibration_error(probability, labels) == pytest.approx(total, abs=1e-12)


def test_every_binary_score_has_its_interval_over_patients():
    score, target = scored(400)
    patients = np.repeat(np.arange(100), 4)
    threshold = clinical.choose_threshold(*scored(400, seed=1))
    found = clinical.binary_scores(score, target, groups=patients, threshold=threshold, resamples=300)
    for value, low, high in found.values():
        assert low <= value <= high
    said = score >= threshold
    values = {name: value for name, (value, _, _) in found.items()}
    assert values["sensitivity"] == pytest.approx(metrics.recall_score(target, said))
    assert values["specificity"] == pytest.approx(metrics.recall_score(1 - target, ~said))
    assert values["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(target, said))
    assert values["accuracy"] == pytest.approx(metrics.accuracy_score(target, said))
    assert values["f1"] == pytest.approx(metrics.f1_score(target, said))
    assert values["weighted_f1"] == pytest.approx(metrics.f1_score(target, said, average="weighted"))
    assert values["kappa"] == pytest.approx(metrics.cohen_kappa_score(target, said))
    alone = bootstrap_groups((score, target), patients, clinical.auroc, resamples=300)
    assert found["auroc"] == pytest.approx(alone)
    assert all(type(v) is float for triple in found.values() for v in triple)


def test_slices_of_few_patients_make_wider_intervals_than_as_many_records():
    score, target = (np.repeat(v, 8) for v in scored(40))
    patients = np.repeat(np.arange(40), 8)
    by_patient = clinical.binary_scores(score, target, groups=patients, resamples=300)["auroc"]
    by_slice = clinical.binary_scores(score, target, resamples=300)["auroc"]
    assert by_patient[0] == by_slice[0]
    assert by_patient[2] - by_patient[1] > 2 * (by_slice[2] - by_slice[1])


def test_every_multi_class_score_has_its_interval():
    probability, labels = graded(200)
    found = clinical.multi_class_scores(probability, labels, groups=np.arange(200) // 2, resamples=200)
    for name, (value, low, high) in found.items():
        assert low <= value <= high or name == "ece"  # resampling only adds miscalibration
    assert found["top1"][0] == pytest.approx(metrics.accuracy_score(labels, probability.argmax(1)))
    assert found["balanced_accuracy"][0] == pytest.approx(
        metrics.balanced_accuracy_score(labels, probability.argmax(1))
    )


def test_what_cannot_be_scored_is_said():
    score, target = scored(20)
    with pytest.raises(DataError, match=r"\[20\] and targets \[19\] do not match"):
        clinical.auroc(score, target[1:])
    with pytest.raises(DataError, match="score of record 3 is not a number"):
        clinical.auroc(np.where(np.arange(20) == 3, np.nan, score), target)
    with pytest.raises(DataError, match="0 and 1; leave unknown"):
        clinical.auroc(score, target - 1)
    with pytest.raises(DataError, match="no records"):
        clinical.auroc(np.array([]), np.array([]))
    with pytest.raises(DataError, match="softmax"):
        clinical.brier(score * 3, target)
    with pytest.raises(DataError, match="outside 0 to 4"):
        clinical.multi_class_auroc(graded()[0], np.full(400, 5))
    with pytest.raises(DataError, match="outside 0 to 1"):
        clinical.confusion(np.array([0, 1]), np.array([0, -1]), 2)
    with pytest.raises(DataError, match="only one kind"):
        clinical.choose_threshold(score, np.ones(20))
    with pytest.raises(Unknown, match="Did you mean 'youden'"):
        clinical.choose_threshold(score, target, "yuden")
    with pytest.raises(DataError, match="undefined on these records"):
        clinical.binary_scores(score, np.zeros(20))
