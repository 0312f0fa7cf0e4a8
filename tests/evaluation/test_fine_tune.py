"""Fine-tuning: layer-wise rates, the schedule, augmentation by record, and that it learns and leaves the encoder."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from tacit import encoders, evaluation
from tacit.data import open_source
from tacit.errors import UsageError
from tacit.evaluation.fine_tune import RECIPES, Classifier, Recipe, _key, fine_tune, parameter_groups, rate
from tacit.precision import bf16_is_fast


def vit(**kwargs) -> encoders.Encoder:
    torch.manual_seed(0)
    return encoders.build("vit_mini", **{"size": 16, "patch": 8, **kwargs})


def scales(encoder: encoders.Encoder, decay: float) -> dict[str, tuple[float, float]]:
    model = Classifier(encoder, 3)
    names = {id(p): name for name, p in model.named_parameters()}
    groups = parameter_groups(model, Recipe(layer_decay=decay, weight_decay=0.05))
    found = {names[id(p)]: (g["scale"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert found.keys() == set(names.values())
    return found


def test_rates_fall_by_the_decay_from_block_to_block():
    encoder = vit(depth=4)
    found = scales(encoder, 0.5)
    assert found["head.weight"] == (1.0, 0.05)
    assert found["head.bias"] == (1.0, 0.0)
    assert found["encoder.trunk.norm.weight"] == (1.0, 0.0)
    for block in range(4):
        assert found[f"encoder.trunk.blocks.{block}.attn.qkv.weight"] == (0.5 ** (4 - block), 0.05)
    assert found["encoder.trunk.patch_embed.proj.weight"] == (0.5**5, 0.05)
    assert found["encoder.trunk.pos_embed"] == (0.5**5, 0.0)


def test_a_swins_layers_are_its_blocks_through_all_stages():
    encoder = encoders.build("swin_mini", size=32)
    found = scales(encoder, 0.5)
    depths = [len(stage.blocks) for stage in encoder.trunk.layers]
    last = sum(depths) + 1
    assert found[f"encoder.trunk.layers.{len(depths) - 1}.blocks.{depths[-1] - 1}.mlp.fc1.weight"][0] == 0.5
    assert found["encoder.trunk.layers.1.blocks.0.mlp.fc1.weight"][0] == 0.5 ** (last - depths[0] - 1)
    assert found["encoder.trunk.layers.1.downsample.reduction.weight"][0] == 0.5 ** (last - depths[0] - 1)
    assert found["encoder.trunk.layers.0.blocks.0.attn.relative_position_bias_table"] == (0.5 ** (last - 1), 0.0)


def test_the_schedule_at_its_corners():
    r = Recipe(epochs=10, batch_size=512, lr=1e-3, warmup_epochs=2, lr_end=1e-6)
    assert rate(0, 100, 10, r) == pytest.approx(2e-3 / 20)
    assert rate(19, 100, 10, r) == pytest.approx(2e-3)
    assert rate(60, 100, 10, r) == pytest.approx((2e-3 + 1e-6) / 2)
    assert rate(100, 100, 10, r) == pytest.approx(1e-6)


@pytest.mark.parametrize(("changes", "least"), [({}, 0.3), ({"mixup": 0.8, "cutmix": 1.0, "ema": 0.5}, 0.2)])
def test_it_learns_and_leaves_the_encoder_alone(digits, changes, least):
    encoder = vit(depth=2)
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    source = open_source(digits)
    recipe = replace(RECIPES["small"], epochs=20, batch_size=32, lr=8e-3, augment=None, **changes)
    predicted, index = fine_tune(encoder, source, source, classes=10, recipe=recipe)
    assert index.tolist() == list(range(200))
    assert (predicted.numpy() == source.labels).mean() > least  # small crops of digits are hard to tell apart
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())
    again, _ = fine_tune(encoder, source, source, classes=10, recipe=recipe)
    assert torch.equal(predicted, again)


def test_a_part_of_a_projection_head_may_stand_between(digits):
    encoder, source = vit(depth=1), open_source(digits)
    neck = nn.Sequential(nn.Linear(encoder.width, 24), nn.BatchNorm1d(24), nn.ReLU())
    weight = neck[0].weight.clone()
    recipe = replace(RECIPES["small"], epochs=2, batch_size=32)
    predicted, _ = fine_tune(encoder, source, source, classes=10, recipe=recipe, neck=neck, neck_width=24)
    assert predicted.shape == (200,)
    assert torch.equal(weight, neck[0].weight)


def test_fine_tuning_is_a_protocol_beside_training_from_scratch(digits):
    result = evaluation.evaluate(vit(depth=1), open_source(digits), None, ["fine_tune:epochs=2:batch_size=32"])
    assert [(r["protocol"], r["of"]) for r in result["results"]] == [("fine_tune", "run"), ("fine_tune", "random-init")]
    assert result["results"][0]["n"] == 40


class Stopped(Exception):
    pass


def stop_at(step: int):
    def tell(done: int, total: int) -> None:
        if done == step:
            raise Stopped

    return tell


WHOLE = replace(RECIPES["deit"], epochs=3, batch_size=48, lr=1e-3, warmup_epochs=1, ema=0.5)


def test_a_broken_off_training_goes_on_bit_for_bit(digits, tmp_path, monkeypatch):
    encoder, source = vit(depth=1), open_source(digits)
    neck = nn.Sequential(nn.Linear(encoder.width, 24), nn.BatchNorm1d(24), nn.ReLU())
    how = {"classes": 10, "recipe": WHOLE, "neck": neck, "neck_width": 24}
    ends = []
    whole = torch.optim.swa_utils.AveragedModel.update_parameters

    def kept(self, model):
        whole(self, model)
        ends.append({**model.state_dict(), **{f"mean {k}": v for k, v in self.state_dict().items()}})
        ends[-1] = {k: v.clone() for k, v in ends[-1].items()}

    monkeypatch.setattr(torch.optim.swa_utils.AveragedModel, "update_parameters", kept)
    expected, _ = fine_tune(encoder, source, source, **how)
    unbroken, path = ends[-1], tmp_path / "x.ckpt"
    steps = len(ends)
    for stop in (5, 8):  # within the second epoch, and at its end
        torch.randn(stop)  # a process of its own has another state
        with pytest.raises(Stopped):
            fine_tune(encoder, source, source, checkpoint=path, save_steps=1, progress=stop_at(stop), **how)
        assert torch.load(path, weights_only=True)["step"] == stop
    found, _ = fine_tune(encoder, source, source, checkpoint=path, **how)
    assert len(ends) == 2 * steps
    assert all(torch.equal(v, ends[-1][k]) for k, v in unbroken.items())
    assert torch.equal(found, expected)
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_another_training_is_refused(digits, tmp_path):
    encoder, source = vit(depth=1), open_source(digits)
    path = tmp_path / "x.ckpt"
    how = {"classes": 10, "recipe": replace(RECIPES["small"], epochs=1), "checkpoint": path, "save_steps": 1}
    with pytest.raises(Stopped):
        fine_tune(encoder, source, source, progress=stop_at(1), **how)
    with pytest.raises(UsageError, match=r"x\.ckpt is of another fine-tuning: its settings, precision, data"):
        fine_tune(encoder, source, source, seed=1, **how)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(UsageError, match="is no checkpoint"):
        fine_tune(encoder, source, source, **how)


def test_the_protocol_goes_on_where_it_was_and_leaves_nothing_behind(digits, tmp_path, monkeypatch):
    monkeypatch.setenv("TACIT_CACHE", str(tmp_path))
    monkeypatch.setattr("tacit.evaluation.resume.MINUTES", 0)
    encoder, source = vit(depth=1), open_source(digits)
    spec = ["fine_tune:epochs=2:batch_size=32"]

    def stop(what: str, done: int, total: int) -> None:
        if what == "fine_tune, run" and done == 4:
            raise Stopped

    with pytest.raises(Stopped):
        evaluation.evaluate(encoder, source, source, spec, baselines=False, cache=True, progress=stop)
    (left,) = (tmp_path / "training").iterdir()
    seen: list[int] = []
    found = evaluation.evaluate(
        encoder, source, source, spec, baselines=False, cache=True,
        progress=lambda what, done, total: seen.append(done) if what.startswith("fine") else None,
    )  # fmt: skip
    assert seen[0] == 5
    assert not left.exists()
    assert found["results"] == evaluation.evaluate(encoder, source, source, spec, baselines=False)["results"]


def test_a_trainings_key_changes_with_all_that_it_depends_on(digits):
    source, small = open_source(digits), RECIPES["small"]

    def made(neck=None, width=None, **kwargs) -> Classifier:
        return Classifier(vit(**{"depth": 1, **kwargs}), 10, neck, width)

    torch.manual_seed(3)
    first, second = (nn.Sequential(nn.Linear(128, 8), f()) for f in (nn.ReLU, nn.GELU))
    second[0].load_state_dict(first[0].state_dict())
    keys = [
        _key(made(), source, small, 0, "32"),
        _key(made(depth=2), source, small, 0, "32"),
        _key(made(), source.select(np.arange(100)), small, 0, "32"),
        _key(made(), source, RECIPES["deit"], 0, "32"),
        _key(made(), source, small, 1, "32"),
        _key(made(), source, small, 0, "bf16"),
        _key(made(first, 8), source, small, 0, "32"),
        _key(made(second, 8), source, small, 0, "32"),
    ]
    assert len(set(keys)) == 8
    assert _key(made(), source, small, 0, "32") == keys[0]


def test_mixed_precision_trains_alike_and_is_said(digits):
    encoder, source = vit(depth=1), open_source(digits)
    rows = {
        how: evaluation.evaluate(
            encoder, source, source, [f"fine_tune:epochs=1:precision={how}"], baselines=False
        )["results"][0]
        for how in ("32", "bf16", "auto")
    }  # fmt: skip
    assert rows["32"]["settings"]["precision"] == "32"
    assert rows["bf16"]["settings"]["precision"] == "bf16"
    assert abs(rows["32"]["value"] - rows["bf16"]["value"]) < 0.1
    assert rows["auto"] == rows["bf16" if bf16_is_fast(torch.device("cpu")) else "32"]
    with pytest.raises(UsageError, match="precision '16'"):
        evaluation.evaluate(encoder, source, source, ["fine_tune:precision=16"], baselines=False)


def test_where_mixed_precision_pays():
    assert not bf16_is_fast(torch.device("meta"))
    flags = [f() for f in (torch.cpu._is_amx_tile_supported, torch.cpu._is_avx512_bf16_supported)]
    assert bf16_is_fast(torch.device("cpu")) == any(flags)
