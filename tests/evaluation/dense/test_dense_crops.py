import numpy as np
import pytest
import torch
from PIL import Image

from tacit import encoders
from tacit.data import Picture
from tacit.evaluation.dense import IGNORE, PRESETS, FineTune, open_segmentation
from tacit.evaluation.dense.crops import Crops, distort, hsv_saturation, scaled
from tacit.views import rng


def test_scaled_sizes_keep_the_ratio_under_both_limits():
    assert scaled(300, 600, 512, 2048) == (512, 1024)
    assert scaled(100, 1000, 512, 2048) == (205, 2048)
    assert scaled(64, 64, 32.0, 128.0) == (32, 32)


def test_crops_keep_image_and_mask_together(tmp_path, write):
    """On a picture whose red says its class, the crop's red still does."""
    root = write(tmp_path, train=2, test=1)
    mask = np.zeros((64, 64), np.uint8)
    mask[20:50, 5:30] = 1
    Image.fromarray(np.stack([mask * 255] * 3, 2)).save(root / "train" / "images" / "train_000.png")
    Image.fromarray(mask).save(root / "train" / "masks" / "train_000.png")
    s = FineTune(crop=48, short=64, long=256, distort=False)
    inputs = encoders.build("vit_mini", size=32, mean=(0.0,) * 3, std=(1.0,) * 3).inputs
    data = Crops(open_segmentation(root, classes=4)[0], inputs, s, seed=0)
    flips, padded = set(), 0
    for epoch in range(12):
        made = data[(epoch, 0)]
        image, y = made["image"], made["mask"]
        assert image.shape == (3, 48, 48)
        known = y != IGNORE
        agree = (image[0] > 0.5) == (y == 1)
        assert agree[known].float().mean() > 0.95
        assert (image[0][~known] == 0).all()
        padded += int(not known.all())
        again = data[(epoch, 0)]
        assert torch.equal(again["image"], image)
        flips.add(tuple(y.flatten().tolist()))
    assert len(flips) == 12
    assert 0 < padded < 12


def test_a_crop_of_one_class_is_avoided():
    class OneRecord:
        names = ("a",)

        def __len__(self):
            return 1

        def __getitem__(self, i):
            mask = np.zeros((64, 64), np.int16)
            mask[:, 56:] = 1
            return Picture(np.zeros((64, 64, 3), np.uint8)), mask

    inputs = encoders.build("vit_mini", size=32).inputs
    found = {}
    for share in (1.0, 0.75):
        s = FineTune(crop=16, short=64, long=64, ratio=(1.0, 1.0), largest_share=share, distort=False)
        crops = [Crops(OneRecord(), inputs, s, seed=0)[(e, 0)]["mask"] for e in range(80)]
        found[share] = np.mean([len(c.unique()) > 1 for c in crops])
    # Of 49 places 8 show both classes, 5 of them the smaller with a quarter or more: one try, or up to ten.
    assert found[1.0] == pytest.approx(8 / 49, abs=0.13)
    assert found[0.75] == pytest.approx(1 - (44 / 49) ** 10, abs=0.17)


def test_records_that_cannot_be_read_are_replaced_and_reported(tmp_path, write):
    root = write(tmp_path, train=3, test=1)
    (root / "train" / "masks" / "train_001.png").write_bytes(b"")
    train, _ = open_segmentation(root)
    made = Crops(train, encoders.build("vit_mini", size=32).inputs, PRESETS["small"], seed=0)[(0, 1)]
    assert made["bad"] == [("train_001.png", "the mask is an empty file")]
    assert made["image"].shape == (3, 64, 64)


def test_the_statistics_of_the_distortion():
    grey = torch.full((1, 3, 4, 4), 0.5)
    values = np.array([float(distort(grey, rng(0, 0, i, 0)).mean()) for i in range(2000)])
    assert np.mean(np.abs(values - 0.5) < 1e-6) == pytest.approx(1 / 4, abs=0.03)  # neither brightness nor contrast
    only = values[(abs(values - 0.5) < 0.13)]
    assert abs(only.mean() - 0.5) < 0.02
    assert values.min() == pytest.approx((0.5 - 32 / 255) * 0.5, abs=0.03)
    assert values.max() == pytest.approx((0.5 + 32 / 255) * 1.5, abs=0.05)


def test_saturation_in_hsv_by_hand():
    x = torch.tensor([0.8, 0.4, 0.6]).view(1, 3, 1, 1)  # value .8, saturation .5
    torch.testing.assert_close(hsv_saturation(x, 0.5).flatten(), torch.tensor([0.8, 0.6, 0.7]))
    torch.testing.assert_close(hsv_saturation(x, 9.0).flatten(), torch.tensor([0.8, 0.0, 0.4]))
    grey = torch.full((1, 3, 1, 1), 0.3)
    assert torch.equal(hsv_saturation(grey, 1.5), grey)
