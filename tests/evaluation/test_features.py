"""Choices of feature from one pass, and features that are kept."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from tacit import encoders, evaluation
from tacit.data import open_source
from tacit.errors import BadSettings, Unknown
from tacit.evaluation import cache, choices
from tests.conftest import write_digits


@pytest.fixture(scope="module")
def vit() -> encoders.Encoder:
    torch.manual_seed(0)
    return encoders.build("vit_mini", size=16, patch=8).eval()


@pytest.fixture(scope="module")
def swin() -> encoders.Encoder:
    torch.manual_seed(0)
    return encoders.build("swin_mini", size=32).eval()


@torch.no_grad()
def test_a_vits_choices_are_what_they_say(vit):
    x = torch.randn(3, 3, 16, 16)
    found = choices.choose(vit, x, choices.available(vit))
    assert set(found) == set(choices.CHOICES)
    d = vit.width
    torch.testing.assert_close(found["pooled"], vit(x))
    torch.testing.assert_close(found["cls"], vit(x))
    torch.testing.assert_close(found["mean"], vit.tokens(x).mean(1))
    torch.testing.assert_close(found["cls_mean"], torch.cat([found["cls"], found["mean"]], 1))
    assert found["last4"].shape == (3, 4 * d)
    torch.testing.assert_close(found["last4"][:, -d:], found["cls"])
    torch.testing.assert_close(vit.trunk.norm(found["cls_raw"]), found["cls"])
    assert found["last4_mean"].shape == (3, 5 * d)
    depth = len(vit.trunk.blocks)
    assert found["blocks"].shape == (3, 2 * depth * d)
    torch.testing.assert_close(found["blocks"][:, -2 * d :], found["cls_mean"])
    of_blocks = found["blocks"].unflatten(1, (depth, 2, d))
    torch.testing.assert_close(of_blocks[:, -4:, 0].flatten(1), found["last4"])
    first = vit.trunk.norm(
        vit.trunk.forward_intermediates(x, indices=[0], intermediates_only=True, output_fmt="NLC")[0]
    )
    torch.testing.assert_close(of_blocks[:, 0, 1], first.mean(1))
    assert not any(block._forward_hooks for block in vit.trunk.blocks)


@torch.no_grad()
def test_a_swins_choices_are_what_they_say(swin):
    x = torch.randn(2, 3, 32, 32)
    found = choices.choose(swin, x, choices.available(swin))
    assert "cls" not in found
    torch.testing.assert_close(found["pooled"], swin(x))
    torch.testing.assert_close(found["mean"], swin(x))
    torch.testing.assert_close(found["last4"][:, -swin.width :], swin(x))
    widths = [stage.shape[1] for stage in swin.stages(x)]
    assert found["stages"].shape == (2, sum(widths))
    depths = [len(layer.blocks) for layer in swin.trunk.layers]
    of_last = min(depths[-1], 4)
    assert found["last4"].shape[1] == of_last * widths[-1] + (4 - of_last) * widths[-2]


def test_the_last_four_blocks_of_swin_tiny_are_esvits_2304_numbers():
    encoder = encoders.build("swin_tiny", size=224).eval()
    with torch.no_grad():
        found = choices.choose(encoder, torch.zeros(1, 3, 224, 224), ("last4",))
    assert found["last4"].shape == (1, 384 + 384 + 768 + 768)


def test_what_an_encoder_has_not_is_refused(swin):
    with pytest.raises(BadSettings, match=r"feature = cls: swin_mini has no class token.*It has pooled"):
        choices.check(swin, ["cls"])
    with pytest.raises(Unknown, match="'pooled'"):
        choices.check(swin, ["poold"])


def test_features_are_kept_and_taken_again(vit, digits, monkeypatch):
    source = open_source(digits)
    names = ("pooled", "mean")
    first = evaluation.features(vit, source, names=names, cache=True)
    plain = evaluation.features(vit, source, names=names)
    for name in names:
        assert torch.equal(first.more[name], plain.more[name])

    def fail(*_):
        raise AssertionError("computed again")

    monkeypatch.setattr(choices, "choose", fail)
    again = evaluation.features(vit, open_source(digits), names=names, cache=True)
    assert torch.equal(again.x, first.x)
    assert torch.equal(again.y, first.y)
    with pytest.raises(AssertionError, match="computed again"):
        evaluation.features(vit, source, names=("mean",), cache=True)
    with torch.no_grad():
        vit.trunk.norm.bias.add_(1e-6)
    with pytest.raises(AssertionError, match="computed again"):  # other weights
        evaluation.features(vit, source, names=names, cache=True)


def test_changed_files_are_not_taken_for_the_old_ones(vit, tmp_path):
    folder = write_digits(tmp_path / "d", 30)
    before = evaluation.features(vit, open_source(folder), cache=True)
    file = sorted(folder.rglob("*.png"))[0]
    other = sorted(folder.rglob("*.png"))[-1]
    stamp = file.parent.stat()
    file.write_bytes(other.read_bytes())
    os.utime(file.parent, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    after = evaluation.features(vit, open_source(folder), cache=True)
    assert not torch.equal(before.x[0], after.x[0])
    assert torch.equal(before.x[1:], after.x[1:])


def test_a_broken_off_extraction_goes_on_where_it_was(vit, tmp_path, monkeypatch):
    folder = write_digits(tmp_path / "d", 100)
    (sorted(folder.rglob("*.png"))[5]).write_bytes(b"")
    source = open_source(folder)
    whole = evaluation.features(vit, source)
    monkeypatch.setattr(evaluation.features.__globals__["kept"], "VERSION", 99)
    monkeypatch.setitem(evaluation.features.__globals__, "PART", 20)
    chosen = choices.choose
    seen = []

    def some(encoder, x, names):
        seen.append(len(x))
        if sum(seen) > 60:
            raise KeyboardInterrupt
        return chosen(encoder, x, names)

    monkeypatch.setattr(choices, "choose", some)
    with pytest.raises(KeyboardInterrupt):
        evaluation.features(vit, source, batch_size=10, cache=True)
    seen.clear()
    told = []
    found = evaluation.features(vit, source, batch_size=10, cache=True, progress=lambda done, _: told.append(done))
    assert sum(seen) == 40
    assert told[0] == 70
    torch.testing.assert_close(found.x, whole.x, atol=1e-5, rtol=1e-4)
    assert torch.equal(found.index, whole.index)
    assert found.bad == whole.bad
    for part in (Path(os.environ["TACIT_CACHE"]) / "features").rglob("*.safetensors"):
        part.write_bytes(b"half")  # a disk that lied
    seen.clear()
    monkeypatch.setattr(choices, "choose", chosen)
    assert torch.equal(evaluation.features(vit, source, cache=True).index, whole.index)


def test_old_features_make_room(tmp_path, vit, digits, monkeypatch):
    monkeypatch.setenv("TACIT_CACHE", str(tmp_path))
    source = open_source(digits)
    evaluation.features(vit, source, cache=True)
    monkeypatch.setattr(cache, "LIMIT", 1)
    evaluation.features(vit, source, names=("mean",), cache=True)
    assert len(list((tmp_path / "features").iterdir())) == 1


def test_several_devices_share_a_batch(vit, digits):
    source = open_source(digits)
    one = evaluation.features(vit, source, names=("cls_mean", "last4"))
    three = evaluation.features(vit, source, names=("cls_mean", "last4"), devices=["cpu"] * 3, batch_size=64)
    for name in ("cls_mean", "last4"):
        torch.testing.assert_close(one.more[name], three.more[name], atol=1e-5, rtol=1e-4)
