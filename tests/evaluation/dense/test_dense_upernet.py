from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from tacit import encoders
from tacit.data import Picture
from tacit.encoders import any_size
from tacit.errors import BadSettings, RunFailed, Unknown, UsageError
from tacit.evaluation.dense import IGNORE, PRESETS, FineTune, UPerNet, finetune, open_segmentation
from tacit.evaluation.dense.finetune import MULTI_SCALE, batches, learning_rate, model_for, optimiser
from tacit.evaluation.dense.heads import pixel_loss
from tacit.evaluation.dense.inference import segment_picture, tiled
from tacit.settings import from_dict, to_dict

TINY = {"channels": 16, "aux_channels": 8}


def build(name, size=32, **kwargs):
    torch.manual_seed(0)
    return any_size(encoders.build(name, size=size, **kwargs))


def test_the_parameters_of_the_published_network():
    """Swin-T with 150 classes: 59.94 million, as published for UPerNet; the parts counted by hand."""
    with torch.device("meta"):
        model = UPerNet(encoders.build("swin_tiny", size=224), 150)
    count = lambda m: sum(p.numel() for p in m.parameters())  # noqa: E731
    conv = lambda i, o, k: i * o * k * k + 2 * o  # without bias, with BatchNorm  # noqa: E731
    pools = 4 * conv(768, 512, 1) + conv(768 + 4 * 512, 512, 3)
    pyramid = sum(conv(w, 512, 1) for w in (96, 192, 384)) + 3 * conv(512, 512, 3) + conv(4 * 512, 512, 3)
    assert count(model.head) == pools + pyramid + 512 * 150 + 150
    assert count(model.aux) == conv(384, 256, 3) + 256 * 150 + 150
    assert count(model.neck) == 2 * (96 + 192 + 384 + 768)
    assert count(model.encoder) == 27_519_354 - 2 * 768  # Swin-T (MoBY dossier, section 3) without its last norm
    assert round(count(model) / 1e6, 2) == 59.94
    assert model.head.classify[1].weight.shape == (150, 512, 1, 1)
    assert [p[0].output_size for p in model.head.pools] == [1, 2, 3, 6]


@pytest.mark.parametrize(
    ("name", "widths", "grids"),
    [
        ("swin_mini", [32, 64, 128], [32, 16, 8]),
        ("vit_mini", [32, 64, 128, 128], [64, 32, 16, 8]),
        ("resnet18", [64, 128, 256, 512], [16, 8, 4, 2]),
    ],
)
def test_levels_and_logits(name, widths, grids):
    model = UPerNet(build(name), 5, **TINY).eval()
    levels = model.neck(model.encoder.stages(torch.zeros(2, 3, 64, 64)))
    assert model.neck.widths == widths
    assert [(x.shape[1], x.shape[2]) for x in levels] == list(zip(widths, grids, strict=True))
    for x in (torch.zeros(1, 3, 64, 64), torch.zeros(2, 3, 37, 50)):
        logits, aux = model(x)
        assert logits.shape == aux.shape == (len(x), 5, *x.shape[2:])


@pytest.mark.parametrize("name", ["swin_mini", "vit_mini"])
def test_one_step_reaches_every_parameter_and_lowers_the_loss(name):
    model = UPerNet(build(name), 3, **TINY, dropout=0.0).train()
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(4, 3, 64, 64, generator=g), torch.randint(3, (4, 64, 64), generator=g)
    y[:, :8] = IGNORE
    solver = optimiser(model, FineTune())
    for group in solver.param_groups:
        group["lr"] = 1e-3

    def loss():
        logits, aux = model(x)
        return pixel_loss(logits, y) + 0.4 * pixel_loss(aux, y)

    before = loss()
    before.backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    solver.step()
    assert loss() < before


def test_a_frozen_encoder_stays_in_eval_mode_and_as_it_is():
    encoder = build("swin_mini")
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    model = model_for(encoder, 3, FineTune(frozen=True, **TINY)).train()
    assert not model.encoder.training
    assert model.head.training
    (model(torch.randn(2, 3, 32, 32))[0].sum()).backward()
    assert all(p.grad is None for p in model.encoder.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.encoder.state_dict().items())


def test_the_published_recipe_and_its_schedule():
    s = PRESETS["ade20k_160k"]
    assert (s.crop, s.ratio, s.short, s.long, s.steps, s.batch_size) == (512, (0.5, 2.0), 512, 2048, 160_000, 16)
    assert (s.lr, s.weight_decay, s.warmup, s.power, s.drop_path, s.aux_weight) == (6e-5, 0.01, 1500, 1.0, 0.3, 0.4)
    assert MULTI_SCALE == {"test_ratios": (0.5, 0.75, 1.0, 1.25, 1.5, 1.75), "test_flip": True}
    assert learning_rate(0, s) == pytest.approx(6e-11)
    assert learning_rate(750, s) == pytest.approx(6e-5 * (1 - 750 / 160_000) * 0.5, rel=1e-5)
    assert learning_rate(1500, s) == pytest.approx(6e-5 * (1 - 1500 / 160_000))
    assert learning_rate(80_000, s) == pytest.approx(3e-5)
    assert learning_rate(159_999, s) == pytest.approx(6e-5 / 160_000)
    assert all(from_dict(FineTune, to_dict(p)) == p for p in PRESETS.values())


def test_what_is_not_decayed():
    model = model_for(build("swin_mini"), 3, FineTune(**TINY))
    decayed, spared = ({id(p) for p in g["params"]} for g in optimiser(model, FineTune()).param_groups)
    for name, p in model.named_parameters():
        if "encoder" in name:
            assert (id(p) in spared) == ("norm" in name or "bias_table" in name), name
    assert {id(m.weight) for m in model.modules() if isinstance(m, nn.BatchNorm2d)} <= spared
    assert id(model.head.classify[1].bias) in decayed


def test_every_record_is_drawn_equally_often():
    s = FineTune(steps=10, batch_size=4)
    drawn = [item for batch in batches(5, s, seed=0) for item in batch]
    assert len(drawn) == 40
    assert np.bincount([i for _, i in drawn]).tolist() == [8] * 5
    assert [sorted(i for e, i in drawn if e == epoch) for epoch in range(8)] == [[0, 1, 2, 3, 4]] * 8


def test_tiles_cover_the_picture_and_average_where_they_overlap():
    x = torch.arange(20.0).view(1, 1, 4, 5).repeat(1, 1, 5, 4)
    seen = []

    def logits(part):
        seen.append(tuple(part.shape[2:]))
        return torch.cat([part, -part], dim=1)

    torch.testing.assert_close(tiled(logits, x, 9), torch.cat([x, -x], dim=1))
    assert set(seen) == {(9, 9)}
    position = iter(range(1, 10))
    counted = tiled(lambda p: torch.full((1, 1, *p.shape[2:]), float(next(position))), torch.zeros(1, 1, 4, 6), 4)
    assert counted[0, 0, 0].tolist() == [1, 1, 1.5, 1.5, 2, 2]  # at 0 and 2, four wide


def test_testing_averages_scales_and_mirror_images(shapes):
    _, test = open_segmentation(shapes)
    picture, mask = test[0]
    s = PRESETS["small"]
    model = model_for(build("vit_mini"), 4, s).eval()
    for changes in ({}, {"test": "slide", "crop": 40}, {"test_ratios": (0.5, 1.0), "test_flip": True}):
        predicted = segment_picture(model, picture, replace(s, **changes))
        assert predicted.shape == mask.shape
    flat = picture.array()[:, ::-1]
    mirrored = Picture(np.ascontiguousarray(flat))
    both = replace(s, test_flip=True)
    ours, theirs = segment_picture(model, picture, both), segment_picture(model, mirrored, both)
    assert (ours == theirs[:, ::-1]).mean() > 0.999  # a network averaged over mirror images does not know left


def test_fine_tuning_learns_and_repeats(shapes):
    train, _ = open_segmentation(shapes)
    s = replace(
        PRESETS["small"], steps=12, batch_size=4, crop=32, short=32, long=64, channels=16, aux_channels=8, warmup=2
    )
    encoder = encoders.build("swin_mini", size=32)
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    model, losses, bad = finetune(encoder, train, s, seed=1)
    assert not model.training
    assert bad == []
    assert len(losses) == 12
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())
    short = replace(s, steps=2, batch_size=2, warmup=0)
    one, again, other = (finetune(encoder, train, short, seed=seed)[1] for seed in (1, 1, 2))
    assert one == again != other


class Killed(Exception):
    pass


def kill_at(step: int):
    def progress(done: int, _: int) -> None:
        if done == step:
            raise Killed

    return progress


QUICK = FineTune(
    steps=6, batch_size=2, crop=32, short=32, long=64, lr=1e-3, warmup=2, drop_path=0.3, dropout=0.3, **TINY
)  # fmt: skip


def test_a_fine_tuning_that_is_killed_goes_on_bit_for_bit(shapes, tmp_path):
    train = open_segmentation(shapes)[0].select(range(6))
    (tmp_path / "empty.png").write_bytes(b"")
    train = replace(train, images=(*train.images[:5], tmp_path / "empty.png"))
    encoder = encoders.build("swin_mini", size=32)
    how = {"seed": 1, "precision": "32"}
    whole, losses, bad = finetune(encoder, train, QUICK, **how)
    path = tmp_path / "c.ckpt"
    with pytest.raises(Killed):
        finetune(encoder, train, QUICK, **how, checkpoint=path, save_steps=2, progress=kill_at(5))
    kept = torch.load(path, weights_only=True)
    assert kept["step"] == 4
    assert kept["more"]["losses"] == losses[:4]
    for changes, other in (({"lr": 2e-3}, {}), ({}, {"seed": 2})):
        with pytest.raises(UsageError, match="of another fine-tuning"):
            finetune(encoder, train, replace(QUICK, **changes), **{**how, **other}, checkpoint=path)
    with pytest.raises(UsageError, match="of another fine-tuning"):
        finetune(encoder, train.select(range(5)), QUICK, **how, checkpoint=path)
    told = []
    again, same, named = finetune(
        encoder, train, QUICK, **how, checkpoint=path, progress=lambda *at: told.append(at)
    )  # fmt: skip
    assert told == [(5, 6), (6, 6)]
    assert same == losses
    assert named == bad
    assert bad == [(train.names[5], "the image is an empty file")]
    assert all(torch.equal(v, whole.state_dict()[k]) for k, v in again.state_dict().items())
    assert not path.exists()


def test_bf16_is_close_to_fp32_and_keeps_its_weights_and_statistics(shapes):
    train, _ = open_segmentation(shapes)
    encoder = encoders.build("swin_mini", size=32)
    s = replace(QUICK, drop_path=0.0, dropout=0.0)
    _, exact, _ = finetune(encoder, train, s, precision="32")
    model, close, _ = finetune(encoder, train, s, precision="bf16")
    assert np.isfinite(close).all()
    assert close == pytest.approx(exact, rel=0.03)
    assert close != exact
    assert {v.dtype for v in model.state_dict().values() if v.is_floating_point()} == {torch.float32}
    with pytest.raises(Unknown, match="precision 'half'"):
        finetune(encoder, train, s, precision="half")


def test_settings_that_cannot_work_are_all_named(shapes):
    train, _ = open_segmentation(shapes)
    encoder = encoders.build("swin_mini", size=32)
    with pytest.raises(BadSettings, match=r"(?s)3 settings.*batch_size = 1.*ratio = 2,1.*short = 512: must not exceed"):
        finetune(encoder, train, FineTune(batch_size=1, ratio=(2.0, 1.0), long=256))
    s = FineTune(steps=5, batch_size=2, crop=32, short=32, long=64, lr=1e30, warmup=0, **TINY)
    with pytest.raises(RunFailed, match=r"The loss is nan at step \d of 5. Lower lr \(1e\+30\)"):
        finetune(encoder, train, s)
