"""Cross-modal transformers: as MulT's code computes them, no leak of what is hidden, padding without effect."""

import numpy as np
import pytest
import torch

from tacit import encoders
from tacit.encoders.crossed import CrossModal, Stack, sinusoids
from tacit.errors import BadSettings
from tacit.views import SequenceInputs

LENGTHS, DIMS = (4, 12, 6), (1, 5, 3)
MODALITIES = ("text", "audio", "vision")


def made(**changes) -> CrossModal:
    torch.manual_seed(0)
    how = {"lengths": LENGTHS, "dims": DIMS, "vocabulary": 9, "width": 16, "heads": 2, "cross_depth": 2, "depth": 1}
    return CrossModal(**(how | changes)).eval()


def rows(count: int = 3, lengths=LENGTHS, seed: int = 0) -> torch.Tensor:
    """Packed rows, all positions there."""
    g = torch.Generator().manual_seed(seed)
    words = torch.randint(1, 9, (count, lengths[0]), generator=g).float()
    rest = sum(n * d for n, d in zip(lengths[1:], DIMS[1:], strict=True))
    return torch.cat([words, torch.randn(count, rest, generator=g)], 1)[:, None]


def at(modality: str, position: int) -> slice:
    """Where a position of a modality lies in a row."""
    m = MODALITIES.index(modality)
    start = sum(n * d for n, d in zip(LENGTHS[:m], DIMS[:m], strict=True)) + position * DIMS[m]
    return slice(start, start + DIMS[m])


def place(modality: str, position: int) -> int:
    m = MODALITIES.index(modality)
    return sum(LENGTHS[:m]) + position


@pytest.mark.parametrize(
    ("future", "other", "cross", "own"),
    [
        (True, 6, [0.411952, 0.758909, 1.6178, 1.120246], [0.410671, 0.758975, 1.618915, 1.118392]),
        (True, 3, [0.412614, 0.763305, 1.611857, 1.122246], [0.410671, 0.758975, 1.618915, 1.118392]),
        (False, 6, [0.412285, 0.759291, 1.617029, 1.120821], [0.411914, 0.757212, 1.61988, 1.11979]),
    ],
)
def test_a_stack_computes_what_the_transformer_of_mult_does(future, other, cross, own):
    """Values of its modules/transformer.py for the same weights, width 30, five heads, two layers."""
    stack = Stack(30, 5, 2, future_mask=future).eval()
    with torch.no_grad():
        for i, (name, p) in enumerate(stack.named_parameters()):
            value = 0.15 * torch.sin(torch.arange(p.numel(), dtype=torch.float64) * 0.7 + i).reshape(p.shape)
            p.copy_(value + 1 if "norm" in name and name.endswith("weight") else value)

    def wave(length: int, phase: float) -> torch.Tensor:
        return (
            torch.cos(torch.arange(2 * length * 30, dtype=torch.float64) * 0.31 + phase).reshape(2, length, 30).float()
        )

    x, memory = wave(4, 0.0), wave(other, 1.0)
    valid, there = torch.ones(2, 4, dtype=torch.bool), torch.ones(2, other, dtype=torch.bool)
    torch.testing.assert_close(stack(x, valid, memory, there)[1, 2, :4], torch.tensor(cross), atol=1e-5, rtol=0)
    torch.testing.assert_close(stack(x, valid)[1, 2, :4], torch.tensor(own), atol=1e-5, rtol=0)


def test_positions_begin_at_one_and_padding_has_none():
    table = sinusoids(3, 6)
    assert table[0, 0] == pytest.approx(np.sin(1))
    assert table[0, 3] == pytest.approx(np.cos(1))
    assert table[2, 2] == pytest.approx(np.sin(3e-4))
    stack = Stack(6, 1, 1).eval()
    placed = stack.placed(torch.zeros(1, 3, 6), torch.tensor([[True, False, True]]))
    assert torch.equal(placed[0, 1], torch.zeros(6))
    assert torch.equal(placed[0, 2], table[2])


def test_keys_and_values_are_the_same_low_level_features_at_every_layer():
    """Block after block asks the untouched memory; states of the other modality would make a difference."""
    trunk, seen = made(), []
    for block in trunk.cross["text_from_audio"].blocks:
        block.register_forward_pre_hook(lambda _, args: seen.append(args[3]))
    x = rows()
    trunk(x)
    low, valid = trunk.low_level(x)
    assert len(seen) == 2
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], trunk.cross["text_from_audio"].placed(low["audio"], valid["audio"]))


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("modality", MODALITIES)
def test_what_is_hidden_reaches_no_stream(modality, single):
    """Noise in the place of a hidden feature changes no output, of any modality, and every stack alone bears it out."""
    trunk, x = made(single_stream=single), rows()
    hidden = torch.zeros(3, sum(LENGTHS), dtype=torch.bool)
    hidden[:, place(modality, 2)] = True
    other = x.clone()
    other[..., at(modality, 2)] = 5.0 if modality == "text" else torch.randn(3, 1, DIMS[MODALITIES.index(modality)])
    assert torch.equal(trunk.forward_features(x, hidden), trunk.forward_features(other, hidden))
    assert not torch.equal(trunk.forward_features(x), trunk.forward_features(other))  # it would matter if it were seen
    if single:
        return
    heard = []
    for name, stack in trunk.cross.items():
        stack.register_forward_hook(lambda _, args, out, name=name: heard.append((name, out)))
    trunk.forward_features(x, hidden)
    trunk.forward_features(other, hidden)
    assert len(heard) == 12
    for (name, a), (again, b) in zip(heard[:6], heard[6:], strict=True):
        assert name == again
        assert torch.equal(a, b), name


@pytest.mark.parametrize("single", [False, True])
def test_more_padding_changes_nothing(single):
    short, x = made(single_stream=single), rows()
    longer = tuple(n + 5 for n in LENGTHS)
    long = made(single_stream=single, lengths=longer)
    long.load_state_dict(short.state_dict())
    padded, start = [], 0
    for length, dim in zip(LENGTHS, DIMS, strict=True):
        part = x[..., start : start + length * dim]
        padded += [part, torch.full((3, 1, 5 * dim), float("nan"))]
        start += length * dim
    wide = torch.cat(padded, -1)
    torch.testing.assert_close(long(wide), short(x), atol=1e-6, rtol=1e-5)
    told, again = short.sequences(x)[0], long.sequences(wide)[0]
    for name in MODALITIES:
        kept = told[name].shape[1]
        torch.testing.assert_close(again[name][:, :kept], told[name], atol=1e-6, rtol=1e-5)
        assert not again[name][:, kept:].any()


def test_a_missing_modality_is_finite_and_says_nothing():
    trunk, x = made(), rows()
    x[..., at("audio", 0).start : at("audio", 11).stop] = float("nan")
    x[2] = float("nan")  # nothing at all
    y = trunk(x)
    assert torch.isfinite(y).all()
    means = y.unflatten(1, (3, -1))
    assert not means[:, 1].any()
    assert means[:2, 0].any()
    assert not y[2].any()


def test_gradients_cross_modalities_where_there_is_something():
    trunk = made()
    for gone in ((), ("audio",)):
        x = rows().requires_grad_()
        seen = SequenceInputs(LENGTHS, DIMS, 9).without(x, gone)
        hidden = torch.zeros(3, sum(LENGTHS), dtype=torch.bool)
        hidden[:, : LENGTHS[0]] = True  # all of the text
        trunk.sequences(seen, hidden)[0]["text"].square().sum().backward()
        audio = x.grad[..., at("audio", 0).start : at("audio", 11).stop]
        vision = x.grad[..., at("vision", 0).start :]
        assert vision.abs().sum() > 0
        assert (audio.abs().sum() > 0) == (not gone)


def test_the_future_is_seen_unless_it_is_hidden():
    x, other = rows(), rows()
    other[..., at("text", 3)] = 1 + x[..., at("text", 3)] % 8
    for future in (False, True):
        trunk = made(future_mask=future)
        low, valid = trunk.low_level(x)
        changed, _ = trunk.low_level(other)
        stack = trunk.cross["vision_from_text"]
        a, b = (stack(low["vision"], valid["vision"], one["text"], valid["text"]) for one in (low, changed))
        assert torch.equal(a[:, 0], b[:, 0]) == future


def test_fewer_modalities_make_a_narrower_encoder():
    assert made().num_features == 3 * 2 * 16
    assert made(dims=(1, 5, 0)).num_features == 2 * 16
    only = made(dims=(1, 0, 0))
    assert (only.num_features, len(only.cross)) == (16, 0)
    assert made(single_stream=True).num_features == 3 * 16


def test_it_is_saved_and_loaded_as_any_encoder(tmp_path):
    inputs = SequenceInputs(LENGTHS, DIMS, 9, tuple("abcdefg"), (0.5,) * 8, (2.0,) * 8)
    torch.manual_seed(0)
    encoder = encoders.build("emotion_xmodal_mini", inputs=inputs).eval()
    encoders.save(encoder, tmp_path)
    again = encoders.load(tmp_path)
    assert again.inputs == inputs
    x = rows()
    assert torch.equal(again(x), encoder(x))
    assert again(x).shape == (3, again.width)
    fresh = encoders.like(again).eval()
    assert not torch.equal(fresh(x), encoder(x))
    assert "means of the positions" in again.feature
    assert again.tokens(x).shape == (3, sum(LENGTHS), 64)


def test_pictures_are_not_for_it():
    with pytest.raises(BadSettings, match="reads feature sequences"):
        encoders.build("emotion_xmodal_mini", size=32)
