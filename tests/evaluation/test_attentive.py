"""The attentive probe: what the query begins with, the official numbers, and an encoder that is left alone."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import tacit
from tacit import encoders, evaluation
from tacit.data import open_source
from tacit.errors import BadSettings, RunFailed
from tacit.evaluation.attentive import PAPER, AttentiveProbe, all_tokens, attentive, heads_of
from tacit.evaluation.linear_sgd import rate


def wave(*shape: int, start: int = 0) -> torch.Tensor:
    return torch.arange(start, start + math.prod(shape), dtype=torch.float64).sin().float().view(*shape)


@pytest.fixture(scope="module")
def encoder() -> encoders.Encoder:
    torch.manual_seed(0)
    return encoders.build("vit_mini", size=16, patch=8, drop_path=0.2)


def test_a_query_of_zero_averages_the_values():
    torch.manual_seed(0)
    probe = AttentiveProbe(12, 3, heads=2)
    assert not probe.query.any()
    tokens = torch.randn(4, 7, 12)
    mean = F.layer_norm(tokens, (12,), eps=1e-6).mean(1)
    torch.testing.assert_close(probe.read(tokens), probe.attn.proj(probe.attn.v(mean)))
    assert torch.equal(probe.norm_q(probe.query), torch.zeros(1, 1, 12))


def test_the_official_attention():
    """`AttentiveBlock` of Atten4Vis/CAE a7fd162, all weights sines."""
    probe = AttentiveProbe(24, 3, heads=2)
    with torch.no_grad():
        for name, p in probe.named_parameters():
            p.copy_(0.2 * wave(*p.shape) + float("norm" in name and name.endswith("weight")))
        query = probe.norm_q(wave(2, 1, 24, start=1))
        tokens = wave(2, 5, 24, start=2)
        found = probe.attn(query, probe.norm_k(tokens), probe.norm_v(tokens))[:, 0]
    official = [-3.6925843, 1.9270463, 5.3664956, -5.2357531, -1.1343609, 4.3124948]
    assert found[:, :3].flatten().tolist() == pytest.approx(official, abs=2e-5)
    assert (found * wave(2, 1, 24)[:, 0]).sum().item() == pytest.approx(44.937317, abs=1e-3)


def test_what_is_read_is_normalised_without_weights():
    probe = AttentiveProbe(12, 3, heads=2)
    assert not list(probe.norm.parameters())
    probe.head.weight.data.copy_(torch.eye(3, 12))
    probe.attn.proj.weight.data.copy_(torch.eye(12))
    probe.attn.v.weight.data.copy_(torch.eye(12))
    said = probe.train()(5 + 3 * torch.randn(64, 4, 12))
    torch.testing.assert_close(said.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(said.std(0, correction=0), torch.ones(3), atol=0.05, rtol=0)


def test_class_token_and_patches_are_read(encoder):
    x = torch.randn(2, 3, 16, 16)
    tokens = all_tokens(encoder.eval(), x)
    assert tokens.shape == (2, 5, 128)
    torch.testing.assert_close(tokens[:, 0], encoder(x))
    swin = encoders.build("swin_mini", size=32)
    assert all_tokens(swin, torch.randn(2, 3, 32, 32)).shape == (2, 16, 128)
    assert (heads_of(encoder), heads_of(swin), heads_of(encoder, 8)) == (4, 2, 8)
    with pytest.raises(BadSettings, match="heads = 5: must divide the width of vit_mini, 128"):
        heads_of(encoder, 5)


def test_the_published_rates():
    found = [rate(PAPER, 0.4, step, 9000, 100, 8192) for step in (0, 500, 1000, 4500, 9000)]
    assert found == pytest.approx([0, 0.2, 0.4 * (1 + math.cos(math.pi / 9)) / 2, 0.2, 1e-6], abs=2e-6)
    assert (PAPER.epochs, PAPER.nesterov, PAPER.smoothing, PAPER.clip) == (90, True, 0.0, None)


def test_it_learns_and_leaves_the_encoder_alone(encoder, digits):
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    source = open_source(digits)
    p = replace(PAPER, lrs=(20.0,), epochs=6, batch_size=25, warmup_epochs=1)
    found = attentive(encoder, source, source, classes=10, preset=p)
    right = found.predicted == torch.from_numpy(source.labels[found.index.numpy()])
    assert right.float().mean() > 0.3
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())
    assert not encoder.training


def test_an_encoder_that_changes_is_called_out(encoder, digits, monkeypatch):
    kept = encoder.trunk.norm.weight.clone()

    def forward_features(x):
        with torch.no_grad():
            encoder.trunk.norm.weight.add_(1e-3)
        return type(encoder.trunk).forward_features(encoder.trunk, x)

    monkeypatch.setattr(encoder.trunk, "forward_features", forward_features)
    source = open_source(digits)
    with pytest.raises(RunFailed, match="changed the encoder"):
        attentive(encoder, source, source, classes=10, preset=replace(PAPER, epochs=1, batch_size=100))
    encoder.trunk.norm.weight.data.copy_(kept)


def test_it_is_asked_for_by_name(encoder, digits):
    assert evaluation.parse("attentive:epochs=2:lr=1.5").options == {"epochs": 2, "lr": 1.5}
    spec = "attentive:epochs=1:batch_size=80:lr=2"
    result = tacit.evaluate(encoder, digits, protocol=spec, workers=0, cache=False)
    assert [r["of"] for r in result["results"]] == ["run", "random-init"]
    said = result["results"][0]["settings"]
    assert (said["epochs"], said["batch_size"], said["lr"], said["heads"]) == (1, 80, 2.0, 4)
