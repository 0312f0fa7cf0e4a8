from dataclasses import replace

import numpy as np
import pytest
import torch

from tacit import encoders
from tacit.errors import DataError, RunFailed, Unknown, UsageError
from tacit.evaluation.detection import average_precision, build, predict, preset, read_coco, to_coco, train
from tacit.evaluation.detection.augment import augment, cut, flip, resize
from tacit.evaluation.detection.schedule import learning_rate, parameter_groups
from tacit.evaluation.detection.train import Order, _in_floats
from tacit.precision import autocast

WIDTHS = {"channels": 16, "hidden": 32, "rois": 16, "proposals": (40, 40)}


def tiny(**changes):
    settings = {
        "epochs": 2, "drops": (), "lr": 3e-3, "warmup_steps": 2, "batch_size": 2, "shorts": (48,), "long": 64,
        "test_size": (48, 64), "widths": WIDTHS,
    }  # fmt: skip
    return preset("small", **{**settings, **changes})


def encoder(name: str = "swin_mini", **kwargs) -> encoders.Encoder:
    torch.manual_seed(0)
    return encoders.build(name, size=32, **kwargs)


@pytest.mark.parametrize(
    ("name", "epoch", "factor"),
    [("1x", 7.99, 1), ("1x", 8, 0.1), ("1x", 10.99, 0.1), ("1x", 11, 0.01), ("3x", 26.99, 1), ("3x", 27, 0.1),
     ("3x", 32.99, 0.1), ("3x", 33, 0.01), ("3x", 35.99, 0.01)],
)  # fmt: skip
def test_rates_drop_where_the_published_ones_do(name, epoch, factor):
    per_epoch = 7330
    assert learning_rate(preset(name), int(epoch * per_epoch), per_epoch) == pytest.approx(1e-4 * factor)


def test_the_warm_up_and_the_numbers_of_the_protocol():
    s = preset("1x")
    rates = [learning_rate(s, step, 7330) for step in (0, 250, 499, 500)]
    assert rates == pytest.approx([1e-7, 1e-4 * 0.5005, 1e-4 * (1 - 0.999 / 500), 1e-4])
    assert (s.epochs, s.batch_size, s.weight_decay, s.long, s.test_size) == (12, 16, 0.05, 1333, (800, 1333))
    assert s.shorts == (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
    assert s.drop_path == {"mask_rcnn": 0.1, "cascade_mask_rcnn": 0.0}
    assert preset("3x").drop_path == {"mask_rcnn": 0.2, "cascade_mask_rcnn": 0.2}
    assert preset("3x").epochs == 36
    assert preset("1x", epochs=36).drops == (24, 33)
    assert preset("1x", epochs=36, drops=[27, 33]).drops == (27, 33)
    with pytest.raises(Unknown, match="1x, 3x, small"):
        preset("2x")


@pytest.mark.parametrize("name", ["swin_mini", "vit_mini"])
def test_norms_and_positions_are_not_decayed(name, shapes):
    model = build("cascade_mask_rcnn", encoder(name), read_coco(shapes), tiny())
    decayed, plain = parameter_groups(model, 0.05)
    names = {id(p): n for n, p in model.named_parameters()}
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.05, 0.0)
    spared = {names[id(p)] for p in plain["params"]}
    assert len(spared) + len(decayed["params"]) == len(names)
    norms = {n for n, m in model.named_modules() if "Norm" in type(m).__name__ and list(m.parameters(recurse=False))}
    tables = {n for n in names.values() if n.endswith(("relative_position_bias_table", "pos_embed"))}
    assert tables
    assert spared == tables | {f"{n}.{k}" for n in norms for k in ("weight", "bias")}
    frozen = build("mask_rcnn", encoder(name), read_coco(shapes), tiny(), frozen=True)
    groups = parameter_groups(frozen, 0.05)
    inside = {id(p) for p in frozen.backbone.encoder.parameters()}
    assert not any(id(p) in inside for g in groups for p in g["params"])


@pytest.mark.parametrize(("name", "frozen"), [("mask_rcnn", False), ("mask_rcnn", True), ("cascade_mask_rcnn", False)])
def test_the_loss_falls_and_a_frozen_encoder_does_not_move(name, frozen, shapes):
    data = read_coco(shapes).select(range(4))
    model = build(name, encoder(), data, tiny(), frozen=frozen)
    before = {k: v.clone() for k, v in model.backbone.encoder.state_dict().items()}
    history, bad = train(model, data, tiny(epochs=6))
    totals = [sum(losses.values()) for losses in history]
    assert len(totals) == 12
    assert np.mean(totals[-4:]) < 0.85 * np.mean(totals[:4])
    assert bad == []
    same = [torch.equal(v, before[k]) for k, v in model.backbone.encoder.state_dict().items()]
    assert all(same) if frozen else not all(same)


def test_the_same_seed_gives_the_same_training(shapes):
    data = read_coco(shapes).select(range(8))

    def losses(seed, **kwargs):
        model = build("mask_rcnn", encoder("vit_mini", depth=1), data, tiny())
        return train(model, data, tiny(epochs=1), seed=seed, **kwargs)[0]

    first = losses(0)
    assert losses(0, workers=1) == first
    assert losses(1) != first


def test_a_trained_detector_is_scored_and_better_than_an_untrained_one(shapes):
    pytest.importorskip("pycocotools")
    data = read_coco(shapes, masks=True).select(range(4))
    s = tiny(epochs=16)
    model = build("mask_rcnn", encoder("vit_mini", depth=1), data, s)
    seen = []
    train(model, data, s, progress=lambda *args: seen.append(args[:2]))
    assert seen[-1] == (32, 32)
    results, bad = predict(model, data)
    assert bad == []
    assert {r["image_id"] for r in results} <= {scene.id for scene in data.scenes}
    for kind in ("bbox", "segm"):
        score = average_precision(to_coco(data), results, kind=kind, resamples=50)
        assert score["low"] <= score["ap"] <= score["high"]
        assert score["ap50"] > 0.3, kind


def test_images_that_cannot_be_read_are_named(shapes, tmp_path):
    import shutil

    folder = shutil.copytree(shapes.parent, tmp_path / "copy")
    data = read_coco(folder / shapes.name).select(range(6))
    data.scenes[0].path.write_bytes(b"")
    s = tiny(epochs=1, batch_size=2)
    model = build("mask_rcnn", encoder("vit_mini", depth=1), data, s)
    history, bad = train(model, data, s)
    assert len(history) == 3
    assert bad == [(data.scenes[0].path.name, "empty file")]
    assert predict(model, data)[1] == bad
    broken = data.select([0])
    with pytest.raises(DataError, match=r"None of the 1 images can be read; the first: bild-é000\.png: empty file"):
        train(model, broken, s)
    with pytest.raises(DataError, match="can be read"):
        predict(model, broken)


def test_a_loss_that_is_no_number_stops_the_training(shapes):
    data = read_coco(shapes).select(range(4))
    model = build("mask_rcnn", encoder("vit_mini", depth=1), data, tiny())
    with torch.no_grad():
        model.roi_heads.box_predictor.cls_score.bias.fill_(float("nan"))
    with pytest.raises(RunFailed, match=r"step 0 is no number \(.*loss_classifier nan"):
        train(model, data, tiny())


class Killed(Exception):
    pass


def kill_at(step: int):
    def progress(done: int, *_) -> None:
        if done == step:
            raise Killed

    return progress


@pytest.mark.parametrize(
    ("name", "precision"), [("mask_rcnn", "32"), ("cascade_mask_rcnn", "32"), ("mask_rcnn", "bf16")]
)
def test_a_training_that_is_killed_goes_on_bit_for_bit(shapes, tmp_path, name, precision):
    data = read_coco(shapes).select(range(6))
    s = tiny(drop_path={name: 0.3})

    def run(of=data, seed=1, s=s, **how):
        model = build(name, encoder(depths=(1, 1, 1)), of, s)
        history, _ = train(model, of, s, seed=seed, precision=precision, **how)
        return model.state_dict(), history

    whole, history = run()
    path = tmp_path / "c.ckpt"
    with pytest.raises(Killed):
        run(checkpoint=path, save_steps=2, progress=kill_at(5))
    assert torch.load(path, weights_only=True)["step"] == 4
    for other in ({"seed": 2}, {"s": replace(s, lr=1e-3)}, {"of": data.select([1, 0, 2, 3, 4, 5])}):
        with pytest.raises(UsageError, match="of another fine-tuning"):
            run(**other, checkpoint=path)
    told = []
    again, same = run(checkpoint=path, progress=lambda *at: told.append(at[:2]))
    assert told == [(5, 6), (6, 6)]
    assert same == history
    assert all(torch.equal(v, whole[k]) for k, v in again.items())
    assert not path.exists()


@pytest.mark.parametrize("name", ["mask_rcnn", "cascade_mask_rcnn"])
def test_bf16_is_close_to_fp32(shapes, name):
    data = read_coco(shapes, masks=True).select(range(6))
    found = {}
    for precision in ("32", "bf16"):
        model = build(name, encoder("vit_mini", depth=1), data, tiny(epochs=1))
        found[precision], _ = train(model, data, tiny(epochs=1), precision=precision)
        assert {v.dtype for v in model.state_dict().values() if v.is_floating_point()} == {torch.float32}
    first, close = (found[p][0] for p in ("32", "bf16"))
    assert close == pytest.approx(first, rel=0.05, abs=1e-3)  # of few boxes a loss is a hundredth
    assert close != first
    totals = [[sum(losses.values()) for losses in found[p]] for p in ("32", "bf16")]
    assert totals[1] == pytest.approx(totals[0], rel=0.1)


def test_offsets_and_maps_are_handed_on_in_fp32(shapes):
    model = build("mask_rcnn", encoder("vit_mini", depth=1), read_coco(shapes, masks=True), tiny())
    heads = model.roi_heads

    def types() -> set[torch.dtype]:
        maps = model.backbone(torch.zeros(1, 3, 64, 64))
        logits, deltas = model.rpn.head(list(maps.values()))
        scores, offsets = heads.box_predictor(torch.zeros(2, WIDTHS["hidden"]))
        masks = heads.mask_predictor(torch.zeros(1, WIDTHS["channels"], 14, 14))
        return {x.dtype for x in (*maps.values(), *logits, *deltas, scores, offsets, masks)}

    with autocast("cpu", "bf16"):
        with _in_floats(model):
            assert types() == {torch.float32}
        assert torch.bfloat16 in types()


def test_every_epoch_sees_every_image_once_in_an_order_of_its_own():
    batches = list(Order(10, 3, 2, seed=0))
    assert [len(b) for b in batches] == [3] * 6
    first, second = ([row for b in batches[i : i + 3] for _, row in b] for i in (0, 3))
    assert len(set(first)) == len(set(second)) == 9
    assert first != second
    assert {epoch for b in batches[3:] for epoch, _ in b} == {1}


def scene():
    """A white rectangle on black, its box and its mask."""
    image, mask = torch.zeros(3, 40, 60), torch.zeros(1, 40, 60, dtype=torch.uint8)
    image[:, 10:30, 5:25] = 1
    mask[:, 10:30, 5:25] = 1
    return image, {"boxes": torch.tensor([[5.0, 10, 25, 30]]), "labels": torch.tensor([2]), "masks": mask}


def test_flips_sizes_and_crops_move_boxes_and_masks_together():
    image, target = scene()
    x, t = flip(image, target)
    assert t["boxes"].tolist() == [[35, 10, 55, 30]]
    assert torch.equal(x[0].byte(), t["masks"][0])
    x, t = resize(image, target, 80, 100)
    assert x.shape == (3, 67, 100)  # 80 would make the long side 120
    assert t["boxes"][0].tolist() == pytest.approx([5 * 100 / 60, 10 * 67 / 40, 25 * 100 / 60, 30 * 67 / 40])
    assert t["masks"].shape == (1, 67, 100)
    x, t = cut(image, target, 20, 15, 15, 30)
    assert x.shape == (3, 15, 30)
    assert t["boxes"].tolist() == [[0, 0, 10, 10]]
    assert torch.equal(x[0].byte(), t["masks"][0])
    assert target["boxes"].tolist() == [[5, 10, 25, 30]]
    x, t = cut(image, target, 0, 30, 10, 10)
    assert t["boxes"].shape == (0, 4)
    assert t["masks"].shape == (0, 10, 10)
    assert resize(x, t, 20, 40)[1]["masks"].shape == (0, 20, 20)


def test_the_published_augmentation_draws_its_sizes_and_crops():
    image, target = scene()
    image = torch.nn.functional.interpolate(image[None], size=(60, 90))[0]
    target = {"boxes": target["boxes"] * 1.5, "labels": target["labels"]}
    drawn = []
    for i in range(300):
        settings = {"shorts": (48, 80), "long": 133, "crop_shorts": (40, 60), "crop": (38, 60)}
        x, t = augment(image, target, np.random.default_rng(i), **settings)
        h, w = x.shape[-2:]
        assert min(h, w) in (48, 80) or max(h, w) == 133
        if len(t["boxes"]):
            assert t["boxes"].min() >= 0
            assert (t["boxes"][0] <= torch.tensor([w, h, w, h]) + 1e-3).all()
        drawn.append(((w / h) == 1.5, bool(len(t["boxes"])) and t["boxes"][0, 0] > w / 3))
    whole = np.mean([d[0] for d in drawn])
    assert 0.4 < whole < 0.6
    assert 0.35 < np.mean([d[1] for d in drawn]) < 0.6
