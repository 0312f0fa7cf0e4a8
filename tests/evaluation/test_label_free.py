import math

import numpy as np
import pytest
import torch
from scipy import stats

from tacit.errors import DataError
from tacit.evaluation.label_free import alpha_req, lidar, rank_correlation, rankme


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def spectrum(exponent: float, count: int = 400, width: int = 60) -> torch.Tensor:
    """Features whose covariance has the eigenvalues i^-exponent, in random directions."""
    centred = drawn(count, width)
    centred = torch.linalg.qr(centred - centred.mean(0))[0] * count**0.5
    turn = torch.linalg.qr(drawn(width, width, seed=1))[0]
    return centred * torch.arange(1, width + 1) ** (-exponent / 2) @ turn + 5


def test_lidar_counts_the_directions_in_which_records_differ():
    for directions in (1, 3, 10):
        centre = torch.zeros(500, 16, dtype=torch.float64)
        centre[:, :directions] = 100 * drawn(500, directions)
        x = centre[:, None] + drawn(500, 10, 16, seed=1)
        assert lidar(x).item() == pytest.approx(directions, rel=0.03)


def test_lidar_of_records_on_the_axes_is_their_number_less_one():
    x = torch.eye(6, 8, dtype=torch.float64)[:, None].repeat(1, 3, 1)  # a simplex: five directions, all alike
    assert lidar(x).item() == pytest.approx(5, rel=1e-4)


def test_lidar_of_identical_records_is_one():
    views = drawn(1, 7, 12)
    assert lidar(views.repeat(20, 1, 1)).item() == pytest.approx(1, abs=1e-4)
    assert lidar(views.repeat(20, 1, 1).float()).item() == pytest.approx(1, abs=1e-4)


def test_lidar_measures_directions_by_how_well_they_tell_records_apart():
    # two directions of equal variance between records; the views scatter sqrt(3) times as far along the second
    n = 4000
    centre, noise = torch.zeros(n, 4, dtype=torch.float64), drawn(n, 40, 4, seed=1)
    centre[:, :2] = 10 * drawn(n, 2)
    noise[..., 1] *= 3**0.5
    p = torch.tensor([3 / 4, 1 / 4], dtype=torch.float64)
    expected = torch.exp(-(p * p.log()).sum()).item()
    assert lidar(centre[:, None] + noise).item() == pytest.approx(expected, rel=0.02)
    assert rankme(centre).item() == pytest.approx(2, rel=0.01)  # which does not see the views


def test_lidar_is_the_rank_of_the_matrix_of_the_paper():
    x = drawn(30, 5, 6) * torch.tensor([3.0, 2.0, 1.0, 0.5, 0.2, 0.1]) + drawn(30, 1, 6, seed=1)
    mean, delta = x.mean(1), 1e-4
    between = sum(torch.outer(m - mean.mean(0), m - mean.mean(0)) for m in mean) / 30
    within = sum(torch.outer(v - m, v - m) for m, r in zip(mean, x, strict=True) for v in r) / 150
    within += delta * torch.eye(6)
    values, vectors = torch.linalg.eigh(within)
    root = vectors @ torch.diag(values**-0.5) @ vectors.T
    p = torch.linalg.eigvalsh(root @ between @ root)
    p = p / p.abs().sum()
    assert lidar(x).item() == pytest.approx(torch.exp(-(p * p.log()).sum()).item(), rel=1e-4)
    turn = torch.linalg.qr(drawn(6, 6, seed=2))[0]
    assert lidar(x @ turn + 7).item() == pytest.approx(lidar(x).item(), rel=1e-8)


def test_delta_bounds_what_a_direction_without_scatter_counts():
    x = torch.zeros(200, 4, 2, dtype=torch.float64)
    x[..., 0] = drawn(200, 1)
    x[..., 1] = drawn(200, 1, seed=1) + drawn(200, 4, seed=2)
    assert lidar(x, delta=1e-6).item() < 1.01  # the first tells records apart without fail
    assert lidar(x, delta=1e3).item() > 1.9  # where delta rules, both count by their variance alone


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0])
def test_alpha_req_gives_back_the_exponent(exponent):
    x = spectrum(exponent)
    assert alpha_req(x).item() == pytest.approx(exponent, abs=1e-6)
    assert alpha_req(x * 1000, first=10, last=30).item() == pytest.approx(exponent, abs=1e-6)
    assert alpha_req(x.float()).item() == pytest.approx(exponent, abs=1e-3)


def test_alpha_req_fits_its_range_alone():
    x = spectrum(1.0)
    values, vectors = torch.linalg.eigh(torch.cov(x.T, correction=0))
    values = values.flip(0).clone()
    values[20:] *= torch.arange(21, 61) ** -2.0 * 20**2  # i^-1 up to 20, i^-3 beyond
    bent = (x - x.mean(0)) @ vectors.flip(1) * (values / torch.arange(1, 61) ** -1.0).sqrt()
    assert alpha_req(bent, first=1, last=20).item() == pytest.approx(1, abs=1e-6)
    assert alpha_req(bent, first=21, last=60).item() == pytest.approx(3, abs=1e-6)
    assert 1 < alpha_req(bent, first=1, last=60).item() < 3


def test_alpha_req_stops_where_the_eigenvalues_do():
    x = spectrum(1.0)
    assert alpha_req(torch.cat([x, torch.ones(400, 30)], 1)).item() == pytest.approx(1, abs=1e-6)
    flat = spectrum(1.0, width=20) @ torch.linalg.qr(drawn(50, 20))[0].T  # twenty directions in fifty
    assert alpha_req(flat).item() == pytest.approx(1, abs=1e-6)
    assert alpha_req(flat.float()).item() == pytest.approx(1, abs=1e-3)
    with pytest.raises(DataError, match="0 that are not zero"):
        alpha_req(torch.ones(50, 8))
    with pytest.raises(DataError, match="smaller `first`"):
        alpha_req(x, first=59)


def test_rank_correlations_agree_with_scipy():
    rng = np.random.default_rng(0)
    probe = rng.random(20).round(1)
    quality = {"rankme": probe + 0.3 * rng.normal(size=20), "lidar": (probe + 0.1 * rng.normal(size=20)).round(1)}
    found = rank_correlation(quality, probe)
    for name, values in quality.items():
        ours = found[name]
        assert ours.spearman == pytest.approx(stats.spearmanr(values, probe).statistic, abs=1e-12)
        assert ours.kendall == pytest.approx(stats.kendalltau(values, probe).statistic, abs=1e-12)
        assert ours.spearman_p == pytest.approx(stats.spearmanr(values, probe).pvalue, abs=0.02)
        assert ours.kendall_p == pytest.approx(stats.kendalltau(values, probe).pvalue, abs=0.02)
        assert ours.n == 20
    assert found["lidar"].spearman > found["rankme"].spearman
    assert found == rank_correlation(quality, probe)


def test_few_runs_are_permuted_exactly():
    found = rank_correlation({"up": [1, 2, 3, 4, 5], "down": [9, 7, 5, 3, 1]}, [0.1, 0.2, 0.3, 0.4, 0.5])
    assert found["up"].spearman == pytest.approx(1)
    assert found["down"].kendall == pytest.approx(-1)
    for one in found.values():
        assert one.spearman_p == one.kendall_p == pytest.approx(2 / math.factorial(5))
    values, probe = [3, 1, 4, 2, 5], [0.1, 0.2, 0.3, 0.4, 0.5]
    found = rank_correlation({"q": values}, probe)["q"]
    assert found.kendall_p == pytest.approx(stats.kendalltau(values, probe, method="exact").pvalue, abs=1e-12)
    theirs = stats.permutation_test(
        (values,), lambda v: stats.spearmanr(v, probe).statistic, permutation_type="pairings", n_resamples=np.inf
    )
    assert found.spearman_p == pytest.approx(theirs.pvalue, abs=1e-12)


def test_what_has_no_rank_is_said():
    with pytest.raises(DataError, match=r"\[records, views, width\]"):
        lidar(torch.ones(5, 4))
    with pytest.raises(DataError, match="of numbers"):
        lidar(torch.full((5, 4, 3), torch.nan))
    with pytest.raises(DataError, match="all numbers"):
        alpha_req(torch.full((50, 8), torch.inf))
    with pytest.raises(DataError, match="two records and two views"):
        lidar(torch.ones(5, 1, 4))
    with pytest.raises(DataError, match="'lidar' orders no runs"):
        rank_correlation({"lidar": [1, 1, 1, 1]}, [1, 2, 3, 4])
    with pytest.raises(DataError, match="'rankme' orders no runs"):
        rank_correlation({"rankme": [1, 2, 3, math.nan]}, [1, 2, 3, 4])
    with pytest.raises(DataError, match="'probe' has"):
        rank_correlation({}, [1, 2, 3])
    with pytest.raises(DataError, match="'lidar' has"):
        rank_correlation({"lidar": [1, 2, 3]}, [1, 2, 3, 4])
