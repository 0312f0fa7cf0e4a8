import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.metrics import jaccard_score

from tacit import encoders
from tacit.encoders import Encoder
from tacit.errors import DataError, UsageError
from tacit.evaluation import intervals, video
from tacit.evaluation.regions import boundary_f, outline, region_j, statistics
from tacit.evaluation.video import Tracked, propagate, segment

PATCH = 4


def colours(image: torch.Tensor) -> torch.Tensor:
    """The mean colour of each patch, and a constant so that black has a direction: [C, H, W] -> [h, w, C + 1]."""
    mean = F.avg_pool2d(image.float()[None] / 255, PATCH)[0].permute(1, 2, 0)
    return torch.cat([mean, torch.full_like(mean[..., :1], 0.5)], dim=2)


def moving_square(frames: int, step: int = 4, side: int = 24, size: tuple[int, int] = (64, 128)):
    """A red square on blue that moves right: images [3, H, W] uint8, and masks [T, H, W]."""
    images, masks = [], np.zeros((frames, *size), dtype=np.uint8)
    for t in range(frames):
        masks[t, 20 : 20 + side, 8 + t * step : 8 + t * step + side] = 1
        image = torch.zeros(3, *size, dtype=torch.uint8)
        image[2] = 200
        image[:, torch.from_numpy(masks[t] == 1)] = torch.tensor([220, 30, 0], dtype=torch.uint8).view(3, 1)
        images.append(image)
    return images, masks


def write_davis(root: Path, images, masks, name: str = "square") -> Path:
    for folder in ("JPEGImages", "Annotations"):
        (root / folder / "480p" / name).mkdir(parents=True)
    for t, (image, mask) in enumerate(zip(images, masks, strict=True)):
        pixels = Image.fromarray(image.permute(1, 2, 0).numpy())
        pixels.save(root / "JPEGImages" / "480p" / name / f"{t:05d}.jpg", quality=95)
        palette = Image.fromarray(mask)
        palette.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
        palette.save(root / "Annotations" / "480p" / name / f"{t:05d}.png")
    (root / "ImageSets" / "2017").mkdir(parents=True, exist_ok=True)
    (root / "ImageSets" / "2017" / "val.txt").write_text(f"{name}\n")
    return root


def pixels(*at: tuple[int, int], size: tuple[int, int] = (5, 5)) -> np.ndarray:
    mask = np.zeros(size, dtype=bool)
    mask[tuple(zip(*at, strict=True))] = True
    return mask


def test_j_by_hand_and_by_scikit_learn():
    truth = np.stack([pixels((0, 0), (0, 1), (1, 0)), np.zeros((5, 5), bool), pixels((2, 2)), np.zeros((5, 5), bool)])
    predicted = np.stack(
        [pixels((0, 1), (1, 0), (1, 1)), np.zeros((5, 5), bool), np.zeros((5, 5), bool), pixels((0, 0))]
    )
    assert region_j(predicted, truth).tolist() == [0.5, 1.0, 0.0, 0.0]  # two of four pixels; both empty; one empty
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 4, 9, 7)) > 0.4
    theirs = [jaccard_score(y.ravel(), x.ravel()) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(region_j(a, b), theirs, atol=1e-12)


def test_the_outline_of_one_pixel_and_of_none_at_the_border():
    assert (outline(pixels((2, 2))) == pixels((1, 1), (1, 2), (2, 1), (2, 2))).all()
    assert (outline(pixels((4, 4))) == pixels((3, 3), (3, 4), (4, 3))).all()  # nothing lies beyond the last pixel
    assert not outline(np.ones((5, 5), bool)).any()


def test_f_by_hand():
    truth = pixels((2, 2))  # outline: rows 1 and 2 of columns 1 and 2
    one, two = pixels((2, 3)), pixels((2, 4))  # outlines: columns 2 and 3; columns 3 and 4
    frames = np.stack([one, two, truth, np.zeros((5, 5), bool)])
    # The disk of a 5 x 5 image has radius 1. Of columns 3 and 4 only the third is met, of 1 and 2 only the second.
    assert boundary_f(frames, np.stack([truth] * 4)).tolist() == [1.0, 0.5, 1.0, 0.0]
    assert boundary_f(frames[3:], frames[3:]).tolist() == [1.0]
    # On rows 1 and 2 the outline of a bar fills columns 0 to 3, that of its first pixel columns 0 and 1. All of the
    # latter is met, and of the bar's columns 0 to 2.
    bar = pixels((2, 1), (2, 2), (2, 3))
    precision, recall = 1.0, 6 / 8
    assert outline(bar).sum() == 8
    assert boundary_f(bar[None], pixels((2, 1))[None]).tolist() == [
        pytest.approx(2 * recall * precision / (recall + precision))
    ]


def test_the_bound_of_f_is_a_share_of_the_diagonal_rounded_up():
    truth = np.zeros((1, 300, 400), dtype=bool)  # diagonal 500, so 4 pixels
    truth[:, 100:200, 100:200] = True
    assert boundary_f(np.roll(truth, 4, axis=2), truth).tolist() == [1.0]
    off = boundary_f(np.roll(truth, 5, axis=2), truth)[0]
    assert 0.5 < off < 1
    assert boundary_f(np.roll(truth, 5, axis=2), truth, bound=5).tolist() == [1.0]
    # A disk and no square: 3 down and 3 right, of four pixels the far corner is 18 ** 0.5 away from the other four.
    single = np.zeros((1, 300, 400), dtype=bool)
    single[:, 50, 50] = True
    assert boundary_f(np.roll(single, (3, 3), axis=(1, 2)), single).tolist() == [0.75]


def test_mean_recall_and_decay_by_hand():
    values = np.array([1.0, 0.9, 0.8, 0.5, 0.6, 0.4, 0.2, 0.0])
    # Quarters of 8 frames meet at 1, 3, 5 (4.5 rounds up), 6 and 8: the first holds frames 1 to 3, the last 6 to 8.
    assert statistics(values) == pytest.approx((4.4 / 8, 4 / 8, 0.9 - 0.2))
    # Of 3 frames they meet at 1, 2 (1.5 rounds up), 2, 3 (2.5 rounds up) and 3.
    assert statistics(np.array([1.0, 0.4, 0.1])) == pytest.approx((0.5, 1 / 3, 0.7 - 0.1))
    assert statistics(np.array([0.7])) == pytest.approx((0.7, 1.0, 0.0))


def test_propagation_by_hand():
    first = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]])  # a 1 x 3 grid, two channels
    grid = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [3.0, 4.0]]])  # cosines to (1, 0): 1, 0 and 0.6
    (soft,) = propagate([grid, grid], first, top=2)
    kept = 1 / (1 + math.exp(-4))  # exp(1 / 0.1) against exp(0.6 / 0.1)
    assert soft[0, 0].tolist() == pytest.approx([kept, 1 - kept])
    assert soft[0, 1].tolist() == pytest.approx([0, 1])  # the nearest two, itself and (3, 4), are both of channel 2
    (soft,) = propagate([grid, grid], first, top=2, radius=1)
    kept = 1 / (1 + math.exp(-10))  # (3, 4) is two patches away, so the second is at cosine 0
    assert soft[0, 0].tolist() == pytest.approx([kept, 1 - kept])


def dense(grids, first, context, radius, top):
    """The same from the whole affinity matrix, source by target, as the sum is written."""
    h, w, c = first.shape
    at = torch.cartesian_prod(torch.arange(h), torch.arange(w))
    near = (at[:, None] - at[None]).abs().amax(2) <= radius
    unit = [F.normalize(g.flatten(0, 1), dim=1) for g in grids]
    masks = [first.flatten(0, 1)]
    for t in range(1, len(grids)):
        used = [0, *range(max(1, t - context), t)]
        affinity = torch.cat([torch.exp(unit[s] @ unit[t].T / 0.1) * near for s in used])
        affinity[affinity < affinity.topk(top, dim=0).values[-1]] = 0
        masks.append((affinity / affinity.sum(0)).T @ torch.cat([masks[s] for s in used]))
    return [m.view(h, w, c) for m in masks[1:]]


@pytest.mark.parametrize(("h", "w", "context", "radius"), [(5, 8, 7, 2), (8, 5, 2, 3), (4, 4, 7, 12)])
def test_propagation_is_that_of_the_whole_affinity_matrix(h, w, context, radius):
    generator = torch.Generator().manual_seed(0)
    grids = [torch.randn(h, w, 6, generator=generator) for _ in range(11)]
    first = F.one_hot(torch.randint(3, (h, w), generator=generator), 3).float()
    ours = list(propagate(grids, first, context=context, radius=radius))
    assert len(ours) == 10
    for mine, other in zip(ours, dense(grids, first, context, radius, 5), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(ours[-1], list(propagate(grids, first, context=1, radius=radius))[-1], atol=1e-3)


def test_features_that_are_all_the_same_average_the_neighbourhood():
    first = F.one_hot(torch.tensor([[0, 0, 1, 1, 1]]), 2).float()
    (soft,) = propagate([torch.ones(1, 5, 3)] * 2, first, radius=1)
    assert soft[0, :, 1].tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1, 1])


@pytest.mark.parametrize(("step", "least"), [(4, 0.98), (3, 0.8)])
def test_a_moving_square_is_followed_by_its_colour(step, least):
    images, masks = moving_square(14, step)
    found = segment(colours, iter(images), masks[0], radius=3)
    assert found.dtype == np.uint8
    assert (found[0] == masks[0]).all()
    assert region_j(found == 1, masks == 1).min() > least
    blind = segment(lambda image: torch.ones(16, 32, 2), iter(images), masks[0], radius=3)
    assert region_j(blind == 1, masks == 1)[-1] < 0.3


def test_each_channel_is_stretched_to_its_range_before_the_largest_wins():
    def alike(image: torch.Tensor) -> torch.Tensor:
        return torch.ones(*image.shape[1:], 2)  # a patch a pixel

    frames = [torch.zeros(3, 1, 7, dtype=torch.uint8)] * 2
    one = np.array([[0, 0, 0, 1, 0, 0, 0]], dtype=np.uint8)
    # The object gets 1/3 in three patches and the background 2/3, which are their largest and smallest.
    assert segment(alike, frames, one, radius=1)[1].tolist() == [[0, 0, 1, 1, 1, 0, 0]]
    assert segment(alike, frames, np.ones_like(one), radius=1)[1].all()  # nothing to stretch
    lost = one.repeat(5, axis=1) * 0
    lost[0, 0] = 1  # no patch's centre falls on it, so there is nothing to follow it by
    assert not segment(alike, frames, lost, radius=1)[1].any()


def test_objects_keep_their_numbers_void_is_background_and_other_sizes_are_scaled_back():
    images, masks = moving_square(5)
    masks = masks * 7
    masks[:, 20:24][masks[:, 20:24] == 7] = 3  # the upper edge is an object of its own, in a colour of its own
    for image, mask in zip(images, masks, strict=True):
        image[:, torch.from_numpy(mask == 3)] = torch.tensor([0, 250, 0], dtype=torch.uint8).view(3, 1)
    masks[:, 60:] = video.VOID
    large = masks.repeat(2, axis=1).repeat(2, axis=2)
    found = segment(colours, iter(images), large[0], radius=3)
    assert found.shape == large.shape
    assert set(np.unique(found)) == {0, 3, 7}
    for number in (3, 7):
        assert region_j(found == number, large == number).min() > 0.9


def test_nearest_is_pillows():
    mask = np.random.default_rng(0).integers(0, 9, (48, 85)).astype(np.uint8)
    for size in ((6, 10), (64, 104), (48, 83)):
        theirs = np.asarray(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST))
        assert (video.nearest(torch.from_numpy(mask), size).numpy() == theirs).all()


@pytest.mark.parametrize(
    ("full", "size"),
    [((480, 854), (480, 832)), ((854, 480), (832, 480)), ((1080, 1920), (480, 832)), ((480, 480), (480, 448))],
)
def test_the_size_to_work_at(full, size):
    assert video.working_size(*full) == size


def test_a_davis_folder_is_scored_without_its_first_and_last_frame(tmp_path):
    write_davis(tmp_path, *moving_square(6))
    (found,) = video.davis(tmp_path)
    assert found.name == "square"
    (tracked,) = video.track(colours, found, short=64, radius=3)
    assert (tracked.video, tracked.object, tracked.j.shape, tracked.f.shape) == ("square", 1, (4,), (4,))
    assert tracked.j.min() > 0.95
    assert tracked.f.min() > 0.95
    (half,) = video.track(colours, found, short=32, multiple=32, radius=3)
    assert 0.5 < half.j.mean() < tracked.j.mean()  # coarser patches


def test_the_sum_of_objects_has_a_value_for_each():
    tracked = [Tracked("a", 1, np.array([1.0, 0.4]), np.array([0.8, 0.6])), Tracked("a", 2, np.ones(3), np.zeros(3))]
    found = video.summary(tracked)
    assert found["j_mean"].tolist() == pytest.approx([0.7, 1])
    assert found["f_mean"].tolist() == pytest.approx([0.7, 0])
    assert found["jf_mean"].tolist() == pytest.approx([0.7, 0.5])
    assert found["j_recall"].tolist() == [0.5, 1]
    assert found["j_decay"].tolist() == pytest.approx([0.6, 0])  # of two frames the first and the last
    low, high = intervals.bootstrap(found["jf_mean"])
    assert 0.5 <= low <= high <= 0.7


def small(**kwargs) -> Encoder:
    torch.manual_seed(0)
    return encoders.build("vit_mini", **{"size": 32, "patch": 8, "embed_dim": 16, "num_heads": 2, "depth": 1, **kwargs})


def test_an_encoder_scores_a_folder(tmp_path):
    write_davis(tmp_path, *moving_square(4))
    told = []
    tracked = video.davis_scores(
        small(patch=4), tmp_path, short=64, device="cpu", progress=lambda *n: told.append(n), radius=3
    )
    assert [(t.video, t.object, len(t.j)) for t in tracked] == [("square", 1, 2)]
    assert 0 < tracked[0].j.mean() <= 1
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_tokens_lie_where_their_patches_lie():
    tokens = video.encoder_tokens(small(patch=8), "cpu")
    assert tokens(torch.zeros(3, 480, 832, dtype=torch.uint8)).shape == (60, 104, 16)
    encoder = small()
    image = torch.rand(3, 32, 32)
    x = encoder.inputs.prepare(image[None])
    with torch.no_grad():
        expected = encoder.tokens(x)[0].view(4, 4, 16)
    assert torch.equal(video.encoder_tokens(encoder, "cpu")(image), expected)
    # A change inside a patch moves that patch's token the most.
    tokens, base = video.encoder_tokens(encoder, "cpu"), torch.full((3, 32, 64), 0.5)
    changed = base.clone()
    changed[:, 8:16, 40:48] = torch.rand(3, 8, 8)
    moved = (tokens(changed) - tokens(base)).norm(dim=2)
    assert divmod(int(moved.argmax()), 8) == (1, 5)


def test_what_cannot_be_followed_is_said(tmp_path):
    images, masks = moving_square(4)
    with pytest.raises(DataError, match="holds no object"):
        segment(colours, iter(images), np.zeros_like(masks[0]))
    with pytest.raises(DataError, match=r"frame 0 are \[16, 32, 4\] and must be finite"):
        segment(lambda image: colours(image) * math.nan, iter(images), masks[0])
    with pytest.raises(DataError, match="must agree"):
        region_j(masks[:2], masks[:3])
    with pytest.raises(DataError, match="no tracked object"):
        video.summary([])
    with pytest.raises(UsageError, match="smaller multiple"):
        video.working_size(480, 854, short=32)
    with pytest.raises(DataError, match=r"val.txt does not exist.*ImageSets"):
        video.davis(tmp_path)


def test_what_is_wrong_with_a_davis_folder_is_said(tmp_path):
    images, masks = moving_square(4)
    root = write_davis(tmp_path / "a", images, masks)
    (found,) = video.davis(root)
    Image.new("RGB", (128, 64)).save(found.masks[1])
    with pytest.raises(DataError, match=r"00001.png is no palette mask"):
        video.track(colours, found, short=64)
    Image.fromarray(masks[1]).save(found.masks[1])
    Image.new("RGB", (120, 64)).save(found.frames[2])
    with pytest.raises(DataError, match=r"00002.jpg is 64 x 120, its mask 64 x 128"):
        video.track(colours, found, short=64)
    found.frames[2].write_bytes(b"")
    with pytest.raises(DataError, match=r"00002.jpg: empty file"):
        video.track(colours, found, short=64)
    found.masks[3].write_bytes(b"no")
    with pytest.raises(DataError, match=r"00003.png cannot be read"):
        video.track(colours, found, short=64)
    found.masks[3].unlink()
    with pytest.raises(DataError, match=r"00003.png does not exist \(1 of 4"):
        video.davis(root)
    short = write_davis(tmp_path / "b", images[:2], masks[:2])
    with pytest.raises(DataError, match="at least 3 are needed"):
        video.davis(short)
    (short / "ImageSets" / "2017" / "val.txt").write_text("\n")
    with pytest.raises(DataError, match="names no video"):
        video.davis(short)
