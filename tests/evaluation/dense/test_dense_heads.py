import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsRegressor

from tacit.errors import DataError, RunFailed
from tacit.evaluation.dense import IGNORE, Linear, confusion, heads, miou, patch_knn


def painted(count=6, grid=4, side=16, width=5, seed=0, noise=0.3):
    """Features that know the class of their patch, and masks of whole patches."""
    rng = np.random.default_rng(seed)
    cells = rng.integers(3, size=(count, grid, grid))
    centres = np.random.default_rng(9).normal(size=(3, width))
    x = torch.from_numpy(centres[cells] + noise * rng.normal(size=(count, grid, grid, width))).float()
    y = np.repeat(np.repeat(cells, side // grid, 1), side // grid, 2).astype(np.int16)
    return x.permute(0, 3, 1, 2).contiguous(), torch.from_numpy(y)


def test_l_bfgs_finds_scikit_learns_optimum():
    """With masks at the grid itself nothing is upsampled, and the head is a logistic regression of patches."""
    x, y = painted(side=4, noise=2.0)
    y[0, 0, :3] = IGNORE
    s = Linear(iterations=300)
    head = heads.fit(x, y, 3, s, 1e-2, 0, "cpu")
    rows = (x - x.mean((0, 2, 3), keepdim=True)) / x.var((0, 2, 3), correction=0, keepdim=True).add(1e-5).sqrt()
    rows, labels = rows.permute(0, 2, 3, 1).reshape(-1, 5).double().numpy(), y.flatten().numpy()
    known = labels != IGNORE
    theirs = LogisticRegression(C=1 / (1e-2 * known.sum()), tol=1e-10, max_iter=5000).fit(rows[known], labels[known])
    ours = torch.softmax(head(x), 1).permute(0, 2, 3, 1).reshape(-1, 3).detach().numpy()
    np.testing.assert_allclose(ours, theirs.predict_proba(rows), atol=2e-3)


def test_l_bfgs_does_not_depend_on_its_blocks():
    x, y = painted(noise=2.0)
    y[:2, :5] = IGNORE
    one, other = (heads.fit(x, y, 3, Linear(batch_size=b, iterations=30), 1e-1, 0, "cpu") for b in (6, 4))
    torch.testing.assert_close(one.conv.weight, other.conv.weight, atol=2e-3, rtol=1e-2)


@pytest.mark.parametrize("solver", ["lbfgs", "sgd"])
@pytest.mark.parametrize("batch_norm", [True, False])
def test_heads_overfit_a_tiny_set(solver, batch_norm):
    x, y = painted(count=4)
    head, chosen = heads.swept(x, y, 3, Linear(solver=solver, batch_norm=batch_norm, steps=150, batch_size=4))
    assert chosen in (Linear().strengths if solver == "lbfgs" else Linear().lrs)
    predicted = heads.predict(head, x, (16, 16))
    cells = miou(confusion(predicted[:, 2::4, 2::4].numpy(), y[:, 2::4, 2::4].numpy(), 3))
    assert cells > 0.95  # at the centres of the patches; the borders between them are interpolated
    assert not head.training


def test_the_rate_is_chosen_on_held_out_images_alone():
    """A penalty that silences the head loses against one that lets it learn, and ties go to the first."""
    x, y = painted(count=8)
    _, chosen = heads.swept(x, y, 3, Linear(strengths=(1e6, 1e-3)))
    assert chosen == 1e-3
    assert heads.swept(x, y, 3, Linear(strengths=(1e6, 1e7)))[1] == 1e6


def test_the_pixel_loss_counts_labelled_pixels_of_upsampled_logits():
    logits = torch.zeros(1, 3, 2, 2)
    y = torch.full((1, 4, 4), IGNORE)
    assert heads.pixel_loss(logits, y) == 0
    y[0, 0, 0] = 2
    assert heads.pixel_loss(logits, y).item() == pytest.approx(math.log(3))
    logits[0, 2, 0, 0] = 10.0
    assert heads.pixel_loss(logits, y).item() == pytest.approx(math.log(1 + 2 * math.exp(-10)), rel=1e-2)
    ramp = torch.tensor([[[[0.0, 1.0]]]])
    torch.testing.assert_close(heads.upsample(ramp, (1, 4))[0, 0, 0], torch.tensor([0.0, 0.25, 0.75, 1.0]))


def test_heads_refuse_what_they_cannot_learn_from():
    x, y = painted(count=2)
    with pytest.raises(DataError, match="two training images"):
        heads.swept(x[:1], y[:1], 3, Linear())
    with pytest.raises(DataError, match="has a labelled pixel"):
        heads.swept(x, torch.full_like(y, IGNORE), 3, Linear())
    with pytest.raises(DataError, match="has a labelled pixel"):
        patch_knn.build_bank(x, torch.full_like(y, IGNORE), 3, 10)
    with pytest.raises(RunFailed, match="diverged with sgd at 1e"):
        heads.fit(x * 1e4, y, 3, Linear(solver="sgd", batch_norm=False, steps=200), 1e36, 0, "cpu")


def test_patch_labels_by_hand():
    y = torch.tensor([[[0, 0, 1, 2], [0, 1, IGNORE, 2]]])
    counts = patch_knn.patch_labels(y, (1, 2), 3)
    assert counts.tolist() == [[[[3, 1, 0], [0, 1, 2]]]]
    assert patch_knn.patch_labels(y, (2, 4), 3)[0, 1].tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 1]]
    uneven = patch_knn.patch_labels(torch.zeros(2, 5, 7, dtype=torch.long), (2, 3), 1)
    assert uneven[..., 0].tolist() == [[[9, 6, 6], [6, 4, 4]]] * 2


def test_a_bank_holds_labelled_patches_only():
    x, y = painted(count=3)
    y[0] = IGNORE
    bank, labels = patch_knn.build_bank(x, y, 3, 1000)
    assert bank.shape == (32, 5)
    torch.testing.assert_close(bank.norm(dim=1), torch.ones(32))
    assert torch.equal(labels.sum(1), torch.ones(32))
    drawn, _ = patch_knn.build_bank(x, y, 3, 10, seed=1)
    assert len(drawn) == 10
    assert torch.equal(drawn, patch_knn.build_bank(x, y, 3, 10, seed=1)[0])
    assert not torch.equal(drawn, patch_knn.build_bank(x, y, 3, 10, seed=2)[0])


def test_votes_agree_with_scikit_learn():
    (x, y), (query, _) = painted(noise=1.0), painted(count=2, seed=1, noise=1.0)
    bank, labels = patch_knn.build_bank(x, y, 3, 1000)
    ours = patch_knn.vote(bank, labels, query, k=7, temperature=0.1, block=5)
    unit = torch.nn.functional.normalize(query, dim=1).permute(0, 2, 3, 1).reshape(-1, 5)
    # of unit rows the squared distance is 2 - 2 cos; the shift by 1 keeps the weights of far ones from underflow
    theirs = KNeighborsRegressor(7, weights=lambda d: np.exp(-(d**2) / 2 / 0.1)).fit(bank.numpy(), labels.numpy())
    np.testing.assert_allclose(ours.permute(0, 2, 3, 1).reshape(-1, 3).numpy(), theirs.predict(unit.numpy()), atol=1e-5)
    same = patch_knn.vote(bank, labels, query, k=10_000, temperature=1e6)
    torch.testing.assert_close(same, labels.mean(0).view(1, 3, 1, 1).expand_as(same), atol=1e-5, rtol=0)
