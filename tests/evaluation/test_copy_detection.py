from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.decomposition import PCA

from tacit import encoders
from tacit.data import open_source
from tacit.errors import DataError, UsageError
from tacit.evaluation import features, intervals
from tacit.evaluation.copy_detection import (
    copy_detection,
    describe,
    descriptors,
    fit_whitening,
    gem,
    multi_scale,
    whiten,
)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make(name: str, size: int, **kwargs) -> encoders.Encoder:
    torch.manual_seed(0)
    return encoders.build(name, size=size, **kwargs).eval()


def on_circle(*degrees: float) -> torch.Tensor:
    angle = torch.deg2rad(torch.tensor(degrees))
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def test_gem_lies_between_mean_and_maximum():
    tokens = torch.tensor([[[3.0, -1.0], [4.0, -2.0]]])
    assert gem(tokens, p=2)[0, 0].item() == pytest.approx(12.5**0.5)
    assert gem(tokens, p=4)[0, 0].item() == pytest.approx(((3**4 + 4**4) / 2) ** 0.25)
    assert gem(tokens)[0, 1].item() == pytest.approx(1e-6)  # negative tokens are clamped
    x = draw(3, 49, 8)
    torch.testing.assert_close(gem(x, p=1), x.clamp_min(1e-6).mean(1))
    torch.testing.assert_close(gem(x, p=2000), x.amax(1), atol=1e-2, rtol=1e-2)
    pooled = F.avg_pool2d(x.clamp_min(1e-6).transpose(1, 2).reshape(3, 8, 7, 7) ** 4, 7) ** 0.25
    torch.testing.assert_close(gem(x), pooled.flatten(1))
    torch.testing.assert_close(gem(x * 1e15), gem(x) * 1e15)  # the fourth power would be infinite


@torch.no_grad()
def test_descriptors_are_class_token_and_gem_where_there_is_a_class_token():
    x = draw(2, 3, 16, 16)
    for encoder in (make("vit_mini", 16), make("vit_mini", 16, reg_tokens=4)):
        found = describe(encoder, x)
        torch.testing.assert_close(found, torch.cat([encoder(x), gem(encoder.tokens(x))], dim=1))
    for encoder in (make("swin_mini", 16, window=2), make("resnet18", 32)):
        x = draw(2, 3, encoder.inputs.size, encoder.inputs.size)
        torch.testing.assert_close(describe(encoder, x), gem(encoder.tokens(x)))
    mean = make("vit_mini", 16, global_pool="avg")  # the class token is there, though it is not what forward gives
    y = mean.trunk.forward_features(draw(2, 3, 16, 16))
    torch.testing.assert_close(describe(mean, draw(2, 3, 16, 16))[:, :128], y[:, 0])


def test_whitening_is_scikit_learns_when_the_covariance_is_centred():
    x = draw(400, 6) @ draw(6, 6, seed=1) + 3
    ours = fit_whitening(x, centred_covariance=True, dim=4)
    theirs = PCA(4, whiten=True).fit(x.numpy())
    y = (x - ours.mean) @ ours.directions
    expected = torch.from_numpy(theirs.transform(x.numpy())) * (400 / 399) ** 0.5  # scikit-learn divides by N - 1
    torch.testing.assert_close(y.abs(), expected.abs().float(), atol=1e-3, rtol=1e-3)  # directions have no sign
    torch.testing.assert_close(y.T @ y / 400, torch.eye(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(whiten(x, ours), F.normalize(y, dim=1))


def test_whitening_as_published_centres_the_features_but_not_the_covariance():
    x = draw(400, 6) @ draw(6, 6, seed=1) + 3
    ours = fit_whitening(x)
    torch.testing.assert_close(ours.mean, x.mean(0))
    raw = x @ ours.directions
    torch.testing.assert_close(raw.T @ raw / 400, torch.eye(6), atol=1e-4, rtol=0)
    centred = (x - ours.mean) @ ours.directions
    assert centred.T.cov(correction=0).diagonal()[0] < 0.5  # the mean took most of the first direction's energy


def test_exponent_zero_only_turns_and_weak_directions_are_held_up():
    x = draw(50, 5)
    turned = fit_whitening(x, exponent=0.0)
    torch.testing.assert_close(turned.directions.T @ turned.directions, torch.eye(5), atol=1e-5, rtol=0)
    flat = torch.cat([x, torch.zeros(50, 2)], dim=1)  # two directions without any variance
    lengths = fit_whitening(flat).directions.norm(dim=0)
    top = torch.linalg.eigvalsh(flat.T @ flat / 50)[-1]
    torch.testing.assert_close(lengths[-2:], (top * 1e-5).rsqrt().expand(2))
    assert (lengths.diff() >= 0).all()


def test_copies_by_hand():
    gallery, ids = on_circle(10, 20, 30, 90), ["a", "b", "a", "c"]
    found = copy_detection(on_circle(0, 88, 50), ["a", "c", "d"], gallery, ids)
    # a is found at places 0 and 2 of two, c at place 0; d has no original and no score.
    assert found.queries.tolist() == [0, 1]
    assert found.values["AP"] == pytest.approx([(1 + (1 / 2 + 2 / 3) / 2) / 2, 1])
    assert found.values["R@1"].tolist() == [1, 1]
    short = copy_detection(on_circle(0, 88, 50), ["a", "c", "d"], gallery, ids, k=2)
    assert short.values["AP"] == pytest.approx([1 / 2, 1])  # the second a comes after the second place
    pushed = copy_detection(on_circle(0, 88), ["a", "c"], gallery, ids, on_circle(5, 15))
    # 5 10 15 20 30: a is found at places 1 and 4.
    assert pushed.values["AP"] == pytest.approx([((0 + 1 / 2) / 2 + (1 / 4 + 2 / 5) / 2) / 2, 1])
    assert pushed.mean["R@1"] == 0.5
    low, high = intervals.bootstrap(pushed.values["AP"])
    assert low < pushed.mean["AP"] < high


def test_only_the_first_twenty_count():
    query, gallery = on_circle(0), on_circle(30)
    for distractors, score in ((19, (0 + 1 / 20) / 2), (20, 0)):
        nearer = on_circle(*torch.linspace(1, 29, distractors).tolist())
        found = copy_detection(query, torch.tensor([7]), gallery, torch.tensor([7]), nearer)
        assert found.mean["AP"] == pytest.approx(score)


def test_whitening_finds_copies_that_a_loud_direction_hides():
    originals, distractors, others = draw(30, 16), draw(200, 16, seed=1), draw(500, 16, seed=2)
    copies = originals + 0.3 * draw(30, 16, seed=3)
    for i, part in enumerate((originals, distractors, others, copies)):
        part[:, 0] = 60 * draw(len(part), seed=10 + i)  # says nothing of what the image shows
    given = (copies, np.arange(30), originals, np.arange(30), distractors)
    assert copy_detection(*given).mean["AP"] < 0.5
    assert copy_detection(*given, whitening=fit_whitening(others)).mean["AP"] > 0.9


@torch.no_grad()
def test_scales_are_averaged_where_the_encoder_takes_other_sizes():
    x = draw(2, 3, 64, 64)
    for encoder, sides in ((make("resnet18", 64), (45, 32)), (make("vit_mini", 64, dynamic_img_size=True), (44, 32))):
        parts = [encoder(x)]  # 64 / sqrt 2 = 45.25, to the nearest whole patch of 4 for the ViT
        parts += [encoder(F.interpolate(x, size=(n, n), mode="bilinear", align_corners=False)) for n in sides]
        torch.testing.assert_close(multi_scale(encoder, x), sum(parts) / 3)
        torch.testing.assert_close(multi_scale(encoder, x, (1,)), encoder(x))


@torch.no_grad()
@pytest.mark.parametrize(("name", "kwargs"), [("vit_mini", {}), ("swin_mini", {"window": 2})])
def test_an_encoder_of_one_size_says_so(name, kwargs):
    encoder = make(name, 16, **kwargs)
    x = draw(2, 3, 16, 16)
    with pytest.raises(UsageError, match=rf"{name} does not take inputs of 1\d x 1\d, .*dynamic_img_size=True"):
        multi_scale(encoder, x)
    torch.testing.assert_close(multi_scale(encoder, x, (1,)), encoder(x))
    with pytest.raises(UsageError, match="all above 0"):
        multi_scale(encoder, x, (1, 0))


@torch.no_grad()
def test_the_way_out_that_the_error_names_works():
    fixed, free = make("vit_mini", 16), make("vit_mini", 16, dynamic_img_size=True)
    for value in fixed.parameters():
        value.add_(0.1 * torch.randn_like(value))
    free.load_state_dict(fixed.state_dict())
    x = draw(2, 3, 16, 16)
    torch.testing.assert_close(free(x), fixed(x))
    assert multi_scale(free, x).shape == (2, 128)


def test_copies_of_digits_are_found_from_files(digits, tmp_path):
    encoder, source = make("vit_mini", 16), open_source(digits)
    found = descriptors(encoder.train(), source, batch_size=64)
    assert found.x.shape == (200, 256)
    assert not encoder.training
    torch.testing.assert_close(found.x[:, :128], features(encoder, source).x, atol=1e-5, rtol=1e-4)
    for i in range(0, 200, 4):
        image = Image.open(digits / source.name(i)).convert("RGB")
        image.point(lambda v: 20 + 0.8 * v).save(tmp_path / f"{Path(source.name(i)).stem}.jpg", quality=60)
    copies = open_source(tmp_path, labels=None)
    query, original = ([Path(s.name(i)).stem for i in range(len(s))] for s in (copies, source))
    score = copy_detection(descriptors(encoder, copies).x, query, found.x[:100], original[:100], found.x[100:])
    assert len(score.queries) == 25
    assert score.mean["AP"] > 0.8
    several = descriptors(make("resnet18", 32), source.select(np.arange(4)), scales=(1, 0.5))
    assert several.x.shape == (4, 512)


def test_what_cannot_be_scored_is_said():
    x = draw(10, 4)
    with pytest.raises(UsageError, match="query_ids must hold 10 ids"):
        copy_detection(x, [1], x, range(10))
    with pytest.raises(UsageError, match="both be strings"):
        copy_detection(x, range(10), x, [str(i) for i in range(10)])
    with pytest.raises(UsageError, match=r"distractors must be \[X, 4\]"):
        copy_detection(x, range(10), x, range(10), x[:, :2])
    with pytest.raises(DataError, match="nothing in common"):
        copy_detection(x, range(10), x, range(20, 30))
    with pytest.raises(DataError, match="Row 2 of the query"):
        copy_detection(torch.where(torch.arange(10)[:, None] == 2, torch.nan, x), range(10), x, range(10))
    with pytest.raises(UsageError, match="at least two rows"):
        fit_whitening(x[:1])
    with pytest.raises(UsageError, match="dim = 5: must be from 1 to 4"):
        fit_whitening(x, dim=5)
    with pytest.raises(DataError, match="are the same"):
        fit_whitening(torch.ones(10, 4))
    with pytest.raises(DataError, match="not numbers"):
        fit_whitening(x / 0)
    with pytest.raises(UsageError, match=r"takes features \[N, 4\]"):
        whiten(x[:, :3], fit_whitening(x))
