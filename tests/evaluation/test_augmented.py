"""Views for LiDAR: drawn by record and number, and the label-free protocol with and without them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tacit import encoders, evaluation
from tacit.data import open_source
from tacit.evaluation.augmented import augmented_features
from tacit.evaluation.label_free import lidar


@pytest.fixture(scope="module")
def encoder() -> encoders.Encoder:
    torch.manual_seed(0)
    return encoders.build("vit_mini", size=16, patch=8, depth=1)


def test_views_belong_to_the_record_and_the_encoder_is_in_eval_mode(encoder, digits):
    source = open_source(digits).select(np.arange(0, 60))
    found = augmented_features(encoder.train(), source, views=4, seed=3)
    assert found.shape == (60, 4, encoder.width)
    assert not encoder.training
    again = augmented_features(encoder, source, views=4, seed=3, workers=1)
    torch.testing.assert_close(found, again)
    fewer = augmented_features(encoder, source, views=2, seed=3)
    torch.testing.assert_close(found[:, :2], fewer, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(found, augmented_features(encoder, source, views=4, seed=4))
    spread = found.std(1).mean()
    assert spread > 0.01  # views of a record differ
    assert found.mean(1).std(0).mean() > 0.01  # and so do records


def test_an_encoder_that_sees_brightness_alone_has_one_direction(digits):
    encoder = encoders.build("vit_mini", size=16, patch=8, depth=1)

    class Brightness(torch.nn.Module):
        def forward(self, x):
            return x.mean((1, 2, 3))[:, None] * torch.tensor([[1.0, -2.0, 0.5]])

    encoder.trunk = Brightness()
    found = augmented_features(encoder, open_source(digits).select(np.arange(0, 40)), views=5)
    assert lidar(found).item() == pytest.approx(1, abs=1e-3)


def test_the_label_free_protocol_looks_at_views_unless_told_not_to(encoder, digits):
    data = open_source(digits)
    rows = evaluation.evaluate(encoder, data, data, ["label_free"])["results"]
    of = {(r["of"], r["metric"]): r for r in rows}
    assert {m for o, m in of if o == "run"} == {"rankme", "alpha_req", "feature_std", "uniformity", "lidar"}
    assert "lidar" not in {m for o, m in of if o == "raw-input"}
    one = of["run", "lidar"]
    assert one["n"] == 200
    assert one["settings"]["lidar_views"] == 10
    assert one["low"] < one["value"] < one["high"]
    views = augmented_features(encoder, data, views=10)
    assert one["value"] == pytest.approx(lidar(views).item(), rel=1e-4)
    assert 1 < one["value"] < 128
    without = evaluation.evaluate(encoder, data, data, ["label_free:lidar=no"], baselines=False)["results"]
    assert [r["metric"] for r in without] == ["rankme", "alpha_req", "feature_std", "uniformity"]
    assert without[0]["value"] == of["run", "rankme"]["value"]
    assert without[0]["settings"]["left_out"] == {"lidar": "lidar=no"}


def test_measures_that_few_records_do_not_allow_are_left_out_and_said(encoder, digits):
    data = open_source(digits)
    rows = evaluation.evaluate(encoder, data, data.select(np.array([0, 90])), ["label_free"], baselines=False)
    left_out = rows["results"][0]["settings"]["left_out"]
    assert [r["metric"] for r in rows["results"]] == ["rankme", "feature_std", "uniformity"]
    assert left_out["lidar"] == "it takes three records or more"
    assert "fits three eigenvalues" in left_out["alpha_req"]
    one = evaluation.evaluate(encoder, data, data.select(np.array([0])), ["label_free"], baselines=False)
    assert one["results"][0]["settings"]["left_out"]["uniformity"] == "undefined for 1 records"
