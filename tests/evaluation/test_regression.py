import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics
from sklearn.linear_model import Ridge

from tacit.errors import DataError, Unknown
from tacit.evaluation import regression
from tacit.evaluation.groups import grouped_split
from tacit.evaluation.regression import errors, redshift_errors, ridge


def measured(count: int = 120, width: int = 10, noise: float = 1.0, seed: int = 0):
    """Features of unequal scale, and two targets: one noisy, one clean."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, width)) * np.arange(1, width + 1) + 3
    w = np.random.default_rng(99).normal(size=(width, 2)) / np.arange(1, width + 1)[:, None]
    return x, x @ w + (noise, 0.01) * rng.normal(size=(count, 2)) + 100


def standard(x, by):
    return (x - by.mean(0)) / by.std(0)


@pytest.mark.parametrize(("count", "strength"), [(120, 1e-3), (120, 1.0), (120, 30.0), (8, 1e-3), (8, 1.0)])
def test_ridge_agrees_with_scikit_learn(count, strength):
    (x, y), (x_test, _) = measured(count), measured(30, seed=1)
    ours = ridge(x, y, x_test, strengths=[strength])
    theirs = Ridge(alpha=strength * count).fit(standard(x, x), y).predict(standard(x_test, x))
    np.testing.assert_allclose(ours.predicted, theirs, atol=1e-8)
    assert ours.strength.tolist() == [strength] * 2
    assert ours.left_out.tolist() == [0, 0]


@pytest.mark.parametrize("count", [120, 9])
def test_generalised_cross_validation_is_the_one_of_the_hat_matrix(count):
    x, y = measured(count, noise=3.0)
    f = standard(x, x)

    def slow(strength):
        hat = f @ np.linalg.inv(f.T @ f + strength * count * np.eye(10)) @ f.T + 1 / count  # and the intercept
        residual = np.square(y - hat @ y).sum(0)
        return count * residual / (count - np.trace(hat)) ** 2

    solver = regression._Solver(f, y)
    for strength in (1e-2, 1e-1, 1.0):
        np.testing.assert_allclose(solver.gcv(strength), slow(strength), rtol=1e-6)
    strengths = [1e-3, 1e-2, 1e-1, 1.0]
    expected = np.array(strengths)[np.argmin([slow(s) for s in strengths], axis=0)]
    assert ridge(x, y, x, strengths=strengths).strength.tolist() == expected.tolist()


def test_each_target_gets_its_own_strength():
    x, y = measured(60, noise=20.0)
    for select in ("gcv", "held-out"):
        noisy, clean = ridge(x, y, x, select=select).strength
        assert noisy > 10 * clean


def test_the_held_out_choice_is_the_best_on_that_part_and_fitted_on_all():
    (x, y), (x_test, _) = measured(noise=10.0), measured(30, seed=1)
    parts = grouped_split(np.arange(120) // 4, None, 0.2, 0)
    keep, held = parts
    f = standard(x, x)
    loss = []
    for s in regression.STRENGTHS:
        fit = Ridge(alpha=s * len(keep)).fit(f[keep], y[keep])
        loss.append(np.square(fit.predict(f[held]) - y[held]).mean(0))
    expected = np.array(regression.STRENGTHS)[np.argmin(loss, axis=0)]
    ours = ridge(x, y, x_test, select="held-out", parts=parts)
    np.testing.assert_allclose(ours.strength, expected)
    theirs = Ridge(alpha=expected * 120).fit(f, y).predict(standard(x_test, x))
    np.testing.assert_allclose(ours.predicted, theirs, atol=1e-7)
    again = ridge(x, y, x_test[:3] * 100, select="held-out", parts=parts)
    assert again.strength.tolist() == ours.strength.tolist()


@pytest.mark.parametrize("select", ["gcv", "held-out"])
def test_unknown_targets_are_left_out_one_by_one(select):
    x, y = measured()
    y = np.concatenate([y, y[:, :1]], axis=1)
    y[::3, 1] = np.nan
    y[5, 2] = np.nan
    found = ridge(x, y, x, select=select)
    assert found.left_out.tolist() == [0, 40, 1]
    whole = ridge(x, y[:, 0], x, select=select)
    np.testing.assert_allclose(found.predicted[:, :1], whole.predicted, atol=1e-10)
    known = np.arange(120) % 3 > 0
    theirs = Ridge(alpha=found.strength[1] * 80).fit(standard(x, x)[known], y[known, 1]).predict(standard(x, x))
    np.testing.assert_allclose(found.predicted[:, 1], theirs, atol=1e-8)


def test_more_features_than_records_and_constant_features():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(40, 200)), np.ones((40, 1))], axis=1)
    y = x[:, 0] + 0.1 * rng.normal(size=40)
    found = ridge(x, y, x)
    assert np.isfinite(found.predicted).all()
    assert found.predicted.shape == (40, 1)


def test_errors_agree_with_scikit_learn_and_scipy():
    rng = np.random.default_rng(0)
    target = rng.normal(size=200)
    predicted = (target + 0.5 * rng.normal(size=200)).round(1)
    found = errors(predicted, target)
    assert found["r2"] == pytest.approx(metrics.r2_score(target, predicted), abs=1e-12)
    assert found["mae"] == pytest.approx(metrics.mean_absolute_error(target, predicted), abs=1e-12)
    assert found["rmse"] == pytest.approx(metrics.root_mean_squared_error(target, predicted), abs=1e-12)
    assert found["pearson"] == pytest.approx(stats.pearsonr(predicted, target).statistic, abs=1e-12)
    assert found["spearman"] == pytest.approx(stats.spearmanr(predicted, target).statistic, abs=1e-12)
    scale = stats.median_abs_deviation(predicted - target, scale="normal")
    assert found["nmad"] == pytest.approx(scale, rel=1e-4)
    assert (found["n"], found["left_out"]) == (200, 0)


def test_errors_of_five_records_by_hand():
    target = np.array([0.0, 1.0, 2.0, 3.0, np.nan])
    found = errors(np.array([0.0, 1.0, 2.0, 7.0, 9.0]), target)
    assert (found["n"], found["left_out"]) == (4, 1)
    assert found["mae"] == 1
    assert found["rmse"] == 2
    assert found["r2"] == pytest.approx(1 - 16 / 5)
    assert found["nmad"] == 0  # one wild prediction does not move a median
    assert found["spearman"] == 1
    constant = errors(np.full(5, 1.5), target)
    assert constant["r2"] == 0
    assert math.isnan(constant["pearson"])
    assert math.isnan(constant["spearman"])


def test_nmad_of_a_normal_distribution_is_its_standard_deviation():
    d = 5 + 3 * np.random.default_rng(0).normal(size=100_000)
    assert regression.nmad(d) == pytest.approx(3, rel=0.01)
    assert regression.nmad(np.array([1.0, 2.0, 4.0, 7.0, 20.0])) == pytest.approx(1.4826 * 3)  # median 4: 3 2 0 3 16
    assert regression.nmad(np.array([1.0, 2.0, 4.0, 7.0, 20.0]), 1.48) == pytest.approx(1.48 * 3)


def test_redshift_errors_by_hand():
    z = np.array([0.0, 1.0, 3.0, 0.5, np.nan])
    predicted = z + np.array([0.1, -0.2, 0.6, 0.0, 0.0]) + 0  # d = .1, -.1, .15, 0
    predicted[4] = 1.0
    found = redshift_errors(predicted, z, limit=0.1499)
    assert (found["n"], found["left_out"]) == (4, 1)
    assert found["bias"] == pytest.approx(0.15 / 4)
    assert found["nmad"] == pytest.approx(1.4826 * 0.075)  # median .05: .05 .15 .1 .05
    assert found["outlier_rate"] == 1 / 4
    low, high = np.percentile([0.1, -0.1, 0.15, 0.0], [15.9, 84.1])
    assert found["sigma68"] == pytest.approx((high - low) / 2)
    d = 0.02 * np.random.default_rng(0).normal(size=100_000)
    assert redshift_errors(0.7 + 1.7 * d, np.full(100_000, 0.7))["sigma68"] == pytest.approx(0.02, rel=0.01)


def test_a_table_has_every_target():
    _, y = measured()
    found = regression.table(y + 1, y, names=["mass", "age"])
    assert list(found) == ["mass", "age"]
    assert found["age"] == errors(y[:, 1] + 1, y[:, 1])


def test_what_cannot_be_fitted_or_scored_is_said():
    x, y = measured()
    with pytest.raises(DataError, match="one target row a training record"):
        ridge(x, y[1:], x)
    with pytest.raises(DataError, match="features of one width"):
        ridge(x, y, x[:, 1:])
    with pytest.raises(DataError, match="features are not numbers"):
        ridge(x * np.nan, y, x)
    with pytest.raises(DataError, match="infinite"):
        ridge(x, y * np.inf, x)
    with pytest.raises(DataError, match="Target 1 is known for fewer than 5"):
        ridge(x, np.where([True, False], y, np.nan), x)
    with pytest.raises(Unknown, match="Did you mean 'gcv'"):
        ridge(x, y, x, select="cv")
    with pytest.raises(DataError, match="one of the two parts"):
        ridge(
            x, np.where(np.arange(120) < 20, y[:, 0], np.nan), x, select="held-out", parts=(range(60), range(60, 120))
        )
    with pytest.raises(DataError, match="same value for every record"):
        errors(np.arange(3.0), np.ones(3))
    with pytest.raises(DataError, match="No record has this target"):
        errors(np.arange(3.0), np.full(3, np.nan))
    with pytest.raises(DataError, match="not finite"):
        errors(np.full(3, np.nan), np.arange(3.0))
    with pytest.raises(DataError, match=r"\[3\] and targets \[2\]"):
        errors(np.arange(3.0), np.arange(2.0))
    with pytest.raises(DataError, match="redshift of -2"):
        redshift_errors(np.zeros(2), np.array([-2.0, 0.0]))
