"""Gradient spikes by layer and dips of the k-NN curve, and what is said of prototypes."""

import math

import pytest
import torch

from tacit import encoders
from tacit.engine.monitors import CollapseWatch, health
from tacit.engine.stability import DipWatch, SpikeWatch, layers_of


class _Holder(torch.nn.Module):
    def __init__(self, name: str, size: int = 32):
        super().__init__()
        self.encoder = encoders.build(name, size=size)


@pytest.mark.parametrize("name", ["vit_mini", "swin_mini", "resnet_mini"])
def test_the_stem_and_the_first_and_last_block_are_known(name):
    layers = layers_of(_Holder(name))
    assert list(layers) == ["stem", "first_block", "last_block"]
    assert not layers["first_block"] & layers["last_block"]
    assert not layers["stem"] & layers["first_block"]
    assert all(n.startswith("encoder.") for part in layers.values() for n in part)


def test_a_frozen_patch_embedding_is_no_layer_to_watch():
    holder = _Holder("vit_mini")
    holder.encoder.trunk.patch_embed.requires_grad_(False)
    assert layers_of(holder)["stem"] == {"encoder.trunk.cls_token", "encoder.trunk.pos_embed"}
    assert not any("token" in n for n in layers_of(_Holder("vit_mini"))["stem"])


def test_a_spike_is_called_by_its_layer_once():
    watch = SpikeWatch()
    assert all(watch.see({"stem": 1.0 + i % 3, "last_block": 1.0}) is None for i in range(30))
    said = watch.see({"stem": 40.0, "last_block": 1.0})
    assert "stem 20 times its usual" in said
    assert "last_block" not in said
    assert watch.see({"stem": 40.0, "last_block": 1.0}) is None  # said a moment ago, still counted
    assert watch.count == 2


def test_a_rate_fifty_times_too_high_is_seen_in_the_stem():
    """The first step at such a rate throws the weights off, and the next gradients show it."""
    torch.manual_seed(0)
    holder = _Holder("vit_mini", 16)
    head = torch.nn.Linear(holder.encoder.width, 4)
    x, y = torch.randn(16, 3, 16, 16), torch.arange(16) % 4
    solver = torch.optim.SGD([*holder.parameters(), *head.parameters()], lr=0.0)
    watch, layers, said = SpikeWatch(), layers_of(holder), None
    for step in range(40):
        solver.param_groups[0]["lr"] = 0.05 if step < 30 else 2.5
        loss = torch.nn.functional.cross_entropy(head(holder.encoder(x)), y)
        solver.zero_grad()
        loss.backward()
        norms = {
            part: float(torch.stack([p.grad.norm() for n, p in holder.named_parameters() if n in names]).norm())
            for part, names in layers.items()
        }
        said = said or watch.see(norms)
        solver.step()
    layers_named = said.removeprefix("Gradient spike: ").partition(". ")[0]
    assert layers_named.startswith("stem ")


def test_a_dip_is_called_and_noise_is_not():
    watch = DipWatch(400)
    assert watch.see(0.30) is None
    assert watch.see(0.29) is None
    assert "k-NN dip: 20.0 % after 30.0 %" in watch.see(0.20)
    assert [watch.see(x) for x in (0.21, 0.19, 0.20)] == [None] * 3  # said once
    assert "k-NN dip: 11.0 % after 30.0 %" in watch.see(0.11)  # it goes on falling
    assert watch.see(0.35) is None
    assert "k-NN dip: 20.0 % after 35.0 %" in watch.see(0.20)


def test_prototypes_are_too_sharp_too_flat_or_say_something():
    n, k = 64, 16
    one = torch.zeros(n, k)
    one[:, 3] = 1
    cases = {"one": one, "all": torch.full((n, k), 1 / k), "each": torch.eye(k).repeat(n // k, 1)}
    values = {name: health({"targets": p}) for name, p in cases.items()}
    assert values["one"]["prototype_entropy"] == pytest.approx(0, abs=1e-6)
    assert values["all"]["target_entropy"] == pytest.approx(math.log(k), rel=1e-5)
    assert values["each"]["target_information"] == pytest.approx(math.log(k), rel=1e-5)
    for name, word in (("one", "one prototype"), ("all", "all prototypes")):
        watch = CollapseWatch(patience=2)
        assert watch.see(values[name]) is None
        assert word in watch.see(values[name])
    watch = CollapseWatch(patience=2)
    assert watch.see(values["each"]) is None
    assert watch.see(values["each"]) is None
