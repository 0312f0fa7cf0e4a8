import math

import numpy as np
import pytest
import timm
import torch
from scipy.interpolate import CubicSpline
from torch import nn

from tacit.encoders.vatt import SIZES, Places, dropped, interpolated, relative_buckets

SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 4}
VIDEO = {"shape": (4, 16, 24), "patch_size": (2, 8, 8), **SMALL}  # 2 x 2 x 3 patches
AUDIO = {"shape": (640,), "patch_size": (64,), **SMALL}
TEXT = {"shape": (6,), "words": 20, "dims": 12, **SMALL}


def trunk(of: str, seed: int = 0, **kwargs) -> nn.Module:
    torch.manual_seed(seed)
    how = {"video": VIDEO, "audio": AUDIO, "text": TEXT}[of]
    return timm.create_model(f"vatt_{of}", **(how | kwargs))


def inputs(of: str, batch: int = 3) -> torch.Tensor:
    if of == "text":
        return torch.tensor([[3, 5, 7, 0, 0, 0], [1, 2, 3, 4, 5, 6], [0] * 6])[:batch]
    shape = {"video": (3, 4, 16, 24), "audio": (1, 640)}[of]
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("of", "tokens"), [("video", 12), ("audio", 10), ("text", 6)])
def test_shapes_and_gradients(of, tokens, shared):
    model = trunk(of, shared=shared, out=24 if shared else None)
    y = model.forward_features(inputs(of))
    width = 24 if shared else 32
    assert y.shape == (3, 1 + tokens, width)
    assert model.num_features == width
    torch.testing.assert_close(model.eval()(inputs(of)), model.forward_features(inputs(of))[:, 0])
    model.train()(inputs(of)).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == (["words.weight"] * (of == "text"))


def test_the_papers_sizes():
    with torch.device("meta"):
        video = timm.create_model("vatt_video", embed_dim=1024, depth=12, num_heads=16)
        audio, text = timm.create_model("vatt_audio"), timm.create_model("vatt_text", **SIZES["small"])
        assert video.forward_features(torch.empty(1, 3, 32, 224, 224)).shape == (1, 1 + 1568, 1024)
        assert audio.forward_features(torch.empty(1, 1, 153_600)).shape == (1, 1 + 1200, 768)
    assert [t.shape for t in video.places.tables] == [(8, 1024), (14, 1024), (14, 1024)]
    assert [t.shape for t in audio.places.tables] == [(1200, 768)]
    assert text.words.weight.shape == (65_536, 300)
    assert text.before[0].weight.shape == (512, 300)
    assert text.agg_token.shape == (1, 1, 300)  # among the word vectors, before the projection
    names = {name.rpartition(".")[2] for name, _ in text.named_parameters()}
    assert names == {"weight", "agg_token"}  # no bias anywhere


def test_dropped_tokens_in_training_only_and_agg_stays_first():
    counts = {}

    def note(name):
        return lambda block, args: counts.update({name: args[0].shape[1]})

    with torch.device("meta"):
        for name, x in (("vatt_video", torch.empty(1, 3, 32, 224, 224)), ("vatt_audio", torch.empty(1, 1, 153_600))):
            model = timm.create_model(name, embed_dim=64, depth=1, num_heads=1)
            model.keep = 0.5
            for mode in (True, False):
                handle = model.train(mode).stack.blocks[0].register_forward_pre_hook(note((name, mode)))
                model(x)
                handle.remove()
    assert counts == {
        ("vatt_video", True): 1 + 784, ("vatt_video", False): 1 + 1568,
        ("vatt_audio", True): 1 + 600, ("vatt_audio", False): 1 + 1200,
    }  # fmt: skip
    model = trunk("video")
    model.keep = 0.5
    seen = []
    model.stack.register_forward_pre_hook(lambda part, args: seen.append(args[0][:, 0]))
    model.train()(inputs("video"))
    torch.testing.assert_close(seen[0], model.agg_token[0].expand(3, -1))


@pytest.mark.parametrize("each", [False, True])
def test_which_tokens_are_kept_is_uniform(each):
    torch.manual_seed(0)
    counts, draws, tokens = torch.zeros(20), 0, torch.arange(20.0).view(1, 20, 1).expand(4, -1, 1)
    alike = 0
    for _ in range(500):
        kept = dropped(tokens, 0.5, each)[:, :, 0].long()
        assert kept.shape == (4, 10)
        assert all(len(set(row.tolist())) == 10 for row in kept)
        alike += int((kept == kept[0]).all())
        for row in kept if each else kept[:1]:
            counts += torch.bincount(row, minlength=20)
            draws += 1
    assert alike == (0 if each else 500)
    expected = draws / 2
    # Kept or not is a coin of 1/2: of a chi-square of 19 degrees one in 10,000 is above 50.
    assert float(((counts - expected).square() / (expected / 2)).sum()) * 19 / 20 < 50
    assert dropped(tokens, 1.0) is tokens


def test_a_dropped_token_has_no_gradient_and_others_have():
    model = trunk("video", drop_rate=0.0)
    model.keep = 0.5
    x = inputs("video").requires_grad_()
    torch.manual_seed(3)
    model.train()(x).square().sum().backward()
    torch.manual_seed(3)
    kept = set(dropped(torch.arange(12.0).view(1, 12, 1), 0.5)[0, :, 0].long().tolist())
    patches = x.grad.view(3, 3, 2, 2, 2, 8, 3, 8).abs().amax((0, 1, 3, 5, 7)).flatten()  # time, row, column
    assert {i for i in range(12) if patches[i] > 0} == kept
    assert len(kept) == 6


def test_places_are_summed_then_normalised_and_tokens_are_not():
    places = Places((2, 3, 4), 16)
    time, row, column = places.tables
    total = time[:, None, None] + row[None, :, None] + column[None, None]
    torch.testing.assert_close(places((2, 3, 4)), nn.functional.layer_norm(total, (16,), eps=1e-6).flatten(0, 2))
    model = trunk("video").eval()
    x = inputs("video")
    patches = nn.functional.conv3d(x, model.patch_embed.weight, model.patch_embed.bias, stride=(2, 8, 8))
    torch.testing.assert_close(model.embedded(x), patches.flatten(2).mT + model.places((2, 2, 3)))


def test_first_weights():
    model = trunk("video", embed_dim=256, num_heads=4)
    for table in model.places.tables:
        assert table.abs().max() <= 2 / 16
    assert trunk("audio", embed_dim=256).agg_token.std().item() == pytest.approx(1 / 16, rel=0.15)
    qkv = model.stack.blocks[0].attn.qkv.weight
    assert qkv.abs().max().item() == pytest.approx(math.sqrt(6 / 512), rel=0.01)  # three Linears of 256 x 256
    inside, out = 3 * 2 * 8 * 8, 256 * 2 * 8 * 8
    assert model.patch_embed.weight.abs().max().item() == pytest.approx(math.sqrt(6 / (inside + out)), rel=0.01)


@pytest.mark.parametrize(("of", "inside"), [("video", 3 * 2 * 8 * 8), ("audio", 64)])
def test_what_reads_pixels_and_samples_may_begin_larger(of, inside):
    weight = trunk(of, stem=3.0).patch_embed.weight
    assert weight.std().item() == pytest.approx(3 / inside**0.5, rel=0.1)


@pytest.mark.parametrize("count", [5, 8, 13, 24])
def test_positions_are_read_by_a_natural_cubic_spline(count):
    table = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    found = interpolated(table, count)
    at, to = np.arange(8) / 8, np.arange(count) / count
    curve = CubicSpline(at, table.numpy(), bc_type="natural")
    inside = to <= at[-1]
    np.testing.assert_allclose(found.numpy()[inside], curve(to[inside]), atol=1e-4)
    straight = curve(at[-1]) + (to[~inside, None] - at[-1]) * curve(at[-1], 1)
    np.testing.assert_allclose(found.numpy()[~inside], straight, atol=1e-4)
    assert (found is table) == (count == 8)


def test_another_size_is_read_with_the_same_weights():
    model = trunk("video").eval()
    assert model.forward_features(torch.randn(1, 3, 8, 32, 24)).shape[1] == 1 + 4 * 4 * 3
    assert trunk("audio").eval().forward_features(torch.randn(1, 1, 1300)).shape[1] == 1 + 20


def test_relative_buckets_are_t5s():
    from transformers.models.t5.modeling_t5 import T5Attention

    for tokens in (6, 17, 200):
        offset = torch.arange(tokens)[None] - torch.arange(tokens)[:, None]
        theirs = T5Attention._relative_position_bucket(offset, bidirectional=True, num_buckets=32, max_distance=64)
        assert torch.equal(relative_buckets(tokens, 32, 64), theirs)


@pytest.mark.parametrize("shared", [False, True])
def test_padding_is_not_read_and_the_order_of_words_is(shared):
    model = trunk("text", shared=shared).eval()
    x = torch.tensor([[3, 5, 7, 0, 0, 0]])
    torch.testing.assert_close(model(x)[0], model(x[:, :3] if not shared else x)[0], atol=1e-5, rtol=1e-4)
    other = model.words.weight[0].clone()
    with torch.no_grad():
        model.words.weight[0] += 10
        changed = model(x)
        model.words.weight[0] = other
    torch.testing.assert_close(changed, model(x))
    assert (model(x) - model(torch.tensor([[7, 5, 3, 0, 0, 0]]))).abs().max() > 1e-4


def test_the_scores_of_text_are_not_scaled():
    model = trunk("text", drop_rate=0.0).eval()
    x, block = torch.randn(2, 7, 32), model.stack.blocks[0]
    q, k, v = (block.attn.qkv(x)).unflatten(2, (3, 4, 8)).permute(2, 0, 3, 1, 4)
    y = ((q @ k.mT).softmax(-1) @ v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(block.attn(x), block.attn.proj(y), atol=1e-5, rtol=1e-4)


def test_several_sentences_are_the_mean_of_those_with_words():
    model = trunk("text").eval()
    x = torch.tensor([[[3, 5, 0, 0, 0, 0], [1, 2, 3, 0, 0, 0], [0] * 6]])
    y = model.forward_features(x)
    assert y.shape == (1, 1 + 18, 32)
    torch.testing.assert_close(y[0, 0], (model(x[:, 0]) + model(x[:, 1]))[0] / 2)
    assert model(torch.zeros_like(x)).abs().max() == 0  # nothing was said


@pytest.mark.parametrize("of", ["video", "audio", "text"])
def test_bf16(of):
    model = trunk(of).eval()
    with torch.autocast("cpu", torch.bfloat16):
        inside = model(inputs(of))
    torch.testing.assert_close(inside.float(), model(inputs(of)), atol=0.1, rtol=0.1)
