import math
from itertools import product

import numpy as np
import pytest
from scipy import stats

from tacit import evaluation
from tacit.errors import DataError
from tacit.evaluation.clinical import auroc
from tacit.evaluation.paired import average_ranks, holm, mcnemar, paired_bootstrap, sign_flip_test


def rights(count: int = 200, seed: int = 0):
    """What two encoders have right: mostly the same records, a somewhat more often."""
    rng = np.random.default_rng(seed)
    hard = rng.random(count)
    return hard + 0.1 * rng.normal(size=count) < 0.8, hard + 0.1 * rng.normal(size=count) < 0.7


def test_the_difference_of_means_is_that_of_records():
    a, b = rights()
    found = paired_bootstrap(a, b, seed=4)
    assert found == pytest.approx(evaluation.difference(a, b, seed=4), abs=1e-12)
    d = a.astype(float) - b
    half = 1.96 * d.std() / math.sqrt(len(d))
    assert found == pytest.approx((d.mean(), d.mean() - half, d.mean() + half), abs=0.01)
    back = paired_bootstrap(b, a, seed=4)
    assert back == pytest.approx((-found[0], -found[2], -found[1]))


def test_pairing_makes_the_interval_narrower_than_two_separate_ones():
    a, b = rights()
    _, low, high = paired_bootstrap(a, b)
    separate = 2 * 1.96 * math.sqrt((a.var() + b.var()) / len(a))
    assert high - low < 0.7 * separate


def test_encoders_are_compared_over_patients():
    a, b = (np.repeat(v, 10) for v in rights(50))
    patients = np.repeat(np.arange(50), 10)
    by_patient, by_record = paired_bootstrap(a, b, groups=patients), paired_bootstrap(a, b)
    assert by_patient[0] == by_record[0]
    assert (by_patient[2] - by_patient[1]) / (by_record[2] - by_record[1]) == pytest.approx(math.sqrt(10), rel=0.2)


def test_the_difference_of_any_statistic_on_the_same_resamples():
    rng = np.random.default_rng(0)
    target = np.repeat([0, 1], 60)
    a, b = target + rng.normal(size=120), 0.2 * target + rng.normal(size=120)
    value, low, high = paired_bootstrap(a, b, target=target, statistic=auroc, resamples=300)
    assert value == pytest.approx(auroc(a, target) - auroc(b, target))
    assert 0 < low < value < high
    assert paired_bootstrap(a, a * 3, target=target, statistic=auroc, resamples=50) == (0, 0, 0)
    with pytest.raises(DataError, match="give `target`"):
        paired_bootstrap(a, b, statistic=auroc)


@pytest.mark.parametrize("seed", range(4))
def test_the_exact_mcnemar_test_agrees_with_scipys_binomial_test(seed):
    a, b = rights(40 + 30 * seed, seed)
    p, only_a, only_b = mcnemar(a, b)
    assert only_a == (a & ~b).sum()
    assert only_b == (b & ~a).sum()
    assert p == pytest.approx(stats.binomtest(int(only_a), int(only_a + only_b)).pvalue, abs=1e-12)
    assert mcnemar(b, a) == (pytest.approx(p, abs=1e-12), only_b, only_a)


def test_mcnemar_by_hand():
    a = np.array([1] * 15 + [0] * 5 + [1] * 30 + [0] * 10)
    b = np.array([0] * 15 + [1] * 5 + [1] * 30 + [0] * 10)
    p, only_a, only_b = mcnemar(a, b, exact=False)
    assert (only_a, only_b) == (15, 5)
    assert p == pytest.approx(math.erfc(math.sqrt((10 - 1) ** 2 / 20 / 2)), abs=1e-12)  # chi-square of 4.05
    assert mcnemar(a, b)[0] == pytest.approx(2 * sum(math.comb(20, k) for k in range(6)) / 2**20, abs=1e-12)
    assert mcnemar(a, a) == mcnemar(a, a, exact=False) == (1.0, 0, 0)
    assert mcnemar([1, 0], [0, 1])[0] == mcnemar([1, 0], [0, 1], exact=False)[0] == 1


def test_sign_flips_by_hand_and_against_scipy():
    a, b = np.array([3.0, 1.0, 2.0, 4.0]), np.array([1.0, 2.0, 1.0, 1.0])  # d = 2, -1, 1, 3
    sums = [abs(np.dot(s, [2, -1, 1, 3])) for s in product((-1, 1), repeat=4)]
    assert sign_flip_test(a, b) == sum(s >= 5 for s in sums) / 16 == 6 / 16  # 7 both ways, 5 four ways
    assert sign_flip_test(a, a) == 1
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=30) + 0.4, rng.normal(size=30)
    theirs = stats.permutation_test(
        (a, b), lambda x, y: (x - y).mean(), permutation_type="samples", n_resamples=2000, vectorized=False, rng=1
    )
    assert sign_flip_test(a, b) == pytest.approx(theirs.pvalue, abs=0.03)
    assert sign_flip_test(a + 100, b) == pytest.approx(1 / 10_000)


def test_holms_correction_by_hand():
    # sorted .01 .02 .03 .04 times 4 3 2 1 is .04 .06 .06 .04; no later one is smaller than an earlier
    np.testing.assert_allclose(holm([0.03, 0.01, 0.04, 0.02]), [0.06, 0.04, 0.06, 0.06])
    np.testing.assert_allclose(holm([0.5, 0.4, 0.9]), [1, 1, 1])
    assert holm([0.2]).tolist() == [0.2]
    with pytest.raises(DataError, match="between 0 and 1"):
        holm([0.2, 1.2])
    with pytest.raises(DataError, match="one or more"):
        holm([])


def test_average_ranks_by_hand():
    scores = np.array([[0.9, 0.8, 0.7], [0.5, 0.5, 0.6], [0.3, 0.3, 0.3]])
    # 1 2 3; 2.5 2.5 1; 2 2 2
    np.testing.assert_allclose(average_ranks(scores), np.array([5.5, 6.5, 6]) / 3)
    np.testing.assert_allclose(average_ranks(scores, higher_is_better=False), np.array([6.5, 5.5, 6]) / 3)
    with pytest.raises(DataError, match="full table"):
        average_ranks(np.array([[0.9, np.nan]]))


def test_results_that_are_no_pair_are_refused():
    with pytest.raises(DataError, match="same records, in the same order"):
        paired_bootstrap(np.ones(3), np.ones(4))
    with pytest.raises(DataError, match="not numbers"):
        sign_flip_test(np.array([1.0, np.nan]), np.ones(2))
    with pytest.raises(DataError, match=r"right \(1\) or wrong \(0\)"):
        mcnemar(np.array([0.5, 1.0]), np.ones(2))
