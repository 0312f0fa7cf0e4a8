"""Fine-tuning: layer-wise rates, the schedule, augmentation by record, and that it learns and leaves the encoder."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from tacit import encoders, evaluation
from tacit.data import open_source
from tacit.evaluation.fine_tune import RECIPES, Classifier, Recipe, _Augmented, fine_tune, parameter_groups, rate
from tacit.views import Crop, Views


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


def test_augmentation_belongs_to_the_record(digits):
    encoder = vit()
    views = Views(open_source(digits), [Crop(inputs=encoder.inputs, name="x")], 0)
    data = _Augmented(views, 2, 20)
    torch.manual_seed(1)
    first = data[0, 5]["crops"][0]
    before = torch.get_rng_state()
    torch.manual_seed(2)
    assert np.array_equal(first, data[0, 5]["crops"][0])
    assert not np.array_equal(first, data[1, 5]["crops"][0])
    changed = [not np.array_equal(data[0, i]["crops"][0], views[0, i]["crops"][0]) for i in range(20)]
    assert sum(changed) > 10
    torch.manual_seed(1)
    data[0, 5]
    assert torch.equal(before, torch.get_rng_state())


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
