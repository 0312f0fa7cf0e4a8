"""EsViT's ViL against its official code, at the same weights, and against attention over all tokens under a mask."""

import pytest
import timm
import torch

from tacit import encoders
from tacit.encoders import any_size
from tacit.encoders.chunks import AROUND, Attention, ChunkAttention
from tacit.encoders.vil import ViL
from tacit.errors import BadSettings
from tacit.evaluation import choices
from tests.encoders.test_cvt import wave
from tests.encoders.test_encoders_sizes import sines

SHAPE = {
    "dims": (8, 16, 16, 32), "depths": (1, 1, 2, 2), "num_heads": (1, 2, 2, 4), "strides": (2, 2, 2, 2), "window": 3,
}  # fmt: skip


@pytest.mark.parametrize(
    ("size", "neighbours", "square", "first", "last"),
    [  # maps of 32, 16, 8 and 4 at the size it was built for; chunks of 3 fill none of them
        (64, "all", 1.1679397821, (-1.550757, 1.745198, -0.667861), (-1.581605, 1.800616, -0.690188)),
        (64, "one", 1.1679397821, (-1.550757, 1.745198, -0.667861), (-1.581605, 1.800616, -0.690188)),
        (64, "none", 1.1677231789, (-1.497463, 1.730391, -0.693373), (-1.709379, 1.866977, -0.638024)),
        (48, "all", 1.1748012304, (-1.769593, 1.725242, -0.501489), (-1.4426, 1.678829, -0.746054)),
        (80, "all", 1.1722351313, (-1.498268, 1.733643, -0.686987), (-1.257646, 1.647941, -0.820582)),
        (32, "none", 1.1899019480, (-1.607631, 1.827426, -0.676039), (-1.77122, 1.839871, -0.55191)),
    ],
)
def test_the_golden_features_of_the_official_code(size, neighbours, square, first, last):
    built = encoders.build("vil_2262_esvit", size=64, neighbours=neighbours, **SHAPE).eval()
    sines(built)
    pooled, tokens = any_size(built, by_pairs=True).features_and_tokens(wave(size))
    assert pooled.square().mean().item() == pytest.approx(square, rel=1e-4)
    assert pooled[0, :3].tolist() == pytest.approx(first, abs=3e-5)
    assert tokens[1, -1, :3].tolist() == pytest.approx(last, abs=3e-5)
    ours = any_size(built)(wave(size))
    if size == 64:
        torch.testing.assert_close(ours, pooled)
    else:
        assert (ours - pooled).abs().max() > 1e-3


def test_the_published_shape():
    with torch.device("meta"):
        encoder = encoders.build("vil_2262_esvit", size=224)
        assert isinstance(encoder.trunk, ViL)
        assert sum(p.numel() for p in encoder.parameters()) == 27_569_352  # as the official code's
        assert [encoder.tokens(torch.empty(1, 3, s, s)).shape[1] for s in (224, 96)] == [49, 9]
        maps = encoder.stages(torch.empty(1, 3, 224, 224))
        assert [tuple(m.shape[1:]) for m in maps] == [(96, 56, 56), (192, 28, 28), (384, 14, 14), (768, 7, 7)]
        last4 = choices.choose(encoder, torch.empty(1, 3, 224, 224), ["last4"])["last4"]
        assert (encoder.width, last4.shape[1]) == (768, 384 + 384 + 768 + 768)
    assert timm.is_model("vil_2262_esvit")
    kinds = [type(block.attn) for stage in encoder.trunk.layers for block in stage.blocks]
    assert kinds == [ChunkAttention] * 4 + [Attention] * 8
    assert [stage.cls_token is not None for stage in encoder.trunk.layers] == [True, True, True, False]


def test_last4_are_the_global_tokens_and_at_last_the_mean():
    """As the official evaluation reads them: raw before the last stage, after the last norm in it."""
    encoder = encoders.build("vil_mini", size=32).eval()
    x, trunk, seen = torch.randn(2, 3, 32, 32), encoder.trunk, []
    hook = trunk.layers[1].blocks[0].register_forward_hook(lambda _, __, y: seen.append(y))
    last4 = choices.choose(encoder, x, ["last4"])["last4"].split([64, 64, 128, 128], 1)
    hook.remove()
    torch.testing.assert_close(last4[0], seen[0][:, 0])
    torch.testing.assert_close(last4[3], encoder(x))


def by_mask(attention: ChunkAttention, x, grid, chunks):
    """The same over all pairs of tokens, of which a mask leaves those that may meet."""
    w, h = attention.window, attention.heads
    q, k, v = attention.qkv(x).unflatten(2, (3, h, -1)).permute(2, 0, 3, 1, 4)
    place = torch.cartesian_prod(*(torch.arange(n) for n in grid))
    difference = place[:, None] - place[None]
    chunk = place // w
    step = chunk[None] - chunk[:, None]  # from the chunk that asks to the one asked
    allowed = torch.stack([(step == torch.tensor(c)).all(-1) for c in chunks]).any(0)
    row = (difference + 2 * w - 1).clamp(0, 4 * w - 2)
    local = attention.relative_position_bias_table[row[..., 0] * (4 * w - 1) + row[..., 1]].permute(2, 0, 1)
    n = len(place)
    bias = torch.zeros(h, 1 + n, 1 + n)
    to_map, to_global, own = attention.global_relative_position_bias_table.detach()
    bias[:, 0, 0], bias[:, 0, 1:], bias[:, 1:, 0] = own, to_map[:, None], to_global[:, None]
    bias[:, 1:, 1:] = local.detach().masked_fill(~allowed, -torch.inf)
    p = (q @ k.transpose(2, 3) * q.shape[-1] ** -0.5 + bias).softmax(-1)
    return attention.proj((p @ v).transpose(1, 2).flatten(2))


@pytest.fixture
def attention():
    torch.manual_seed(0)
    made = ChunkAttention(8, 2, 3, "all").eval()
    for table in (made.relative_position_bias_table, made.global_relative_position_bias_table):
        torch.nn.init.normal_(table)
    return made


@pytest.mark.parametrize("grid", [(9, 9), (7, 5), (2, 8), (2, 2)])
def test_chunks_meet_those_around_them_and_the_global_token(attention, grid):
    x = torch.randn(2, 1 + grid[0] * grid[1], 8)
    torch.testing.assert_close(attention(x, grid), by_mask(attention, x, grid, [(0, 0), *AROUND]))
    attention.neighbours = "one"  # in eval mode, all
    torch.testing.assert_close(attention(x, grid), by_mask(attention, x, grid, [(0, 0), *AROUND]))
    attention.neighbours = "none"
    torch.testing.assert_close(attention.train()(x, grid), by_mask(attention, x, grid, [(0, 0)]))


def test_in_train_mode_one_neighbour_is_drawn_each_time(attention):
    attention.train().neighbours = "one"
    x = torch.randn(2, 1 + 81, 8)
    each = torch.stack([by_mask(attention, x, (9, 9), [(0, 0), chunk]) for chunk in AROUND])
    drawn = []
    for seed in range(40):
        torch.manual_seed(seed)
        distance = (each - attention(x, (9, 9))).abs().amax((1, 2, 3))
        drawn.append(int(distance.argmin()))
        assert distance.min() < 1e-5
        assert distance.sort().values[1] > 1e-3
        torch.manual_seed(seed)
        again = (each - attention(x, (9, 9))).abs().amax((1, 2, 3))
        assert int(again.argmin()) == drawn[-1]
    assert set(drawn) == set(range(8))


def test_biases_of_another_map_are_of_its_rows_and_columns():
    attention = Attention(4, 2, 6, with_global=False)
    rows = torch.arange(-5.0, 6.0)
    with torch.no_grad():
        attention.relative_position_bias_table.copy_(rows[:, None, None].expand(11, 11, 2).flatten(0, 1))
    bias = attention.on_map((3, 4)).detach().view(2, 3, 4, 3, 4)  # asking row and column, asked row and column
    torch.testing.assert_close(bias, bias[:, :, :1, :, :1].expand_as(bias))  # columns matter no more than before
    per_row = bias[0, :, 0, :, 0]
    torch.testing.assert_close(per_row, -per_row.T, atol=1e-5, rtol=0)
    assert per_row[2, 0] > per_row[1, 0] > 1.5
    attention.by_pairs = True
    mixed = attention.on_map((3, 4)).detach().view(2, 3, 4, 3, 4)
    assert (mixed - mixed[:, :, :1, :, :1]).abs().max() > 0.5
    own = attention.on_map((6, 6))
    attention.by_pairs = False
    assert torch.equal(attention.on_map((6, 6)), own)


@pytest.mark.parametrize("channels", [1, 4])
def test_mini_is_for_small_inputs_and_its_chunks_are_a_choice(channels):
    for size, side in ((28, 3), (32, 4)) + ((96, 12),) * (channels == 1):
        encoder = encoders.build("vil_mini", size=size, channels=channels, window=2, drop_path=0.1)
        assert encoder.tokens(torch.randn(2, channels, size, size)).shape == (2, side * side, 128)
    assert encoder.trunk.layers[0].blocks[0].attn.window == 2
    assert encoder.trunk.layers[2].blocks[1].drop_path2.drop_prob == pytest.approx(0.1)
    assert encoder.trunk.layers[0].blocks[0].drop_path1(torch.ones(1)) == 1
    assert encoder.feature == "mean of the tokens after the last norm"
    assert encoder.can == {"tokens", "stages"}
    assert any_size(encoder)(torch.randn(2, channels, 24, 40)).shape == (2, 128)
    with pytest.raises(BadSettings, match="the patch size of vil_mini cannot be chosen"):
        encoders.build("vil_mini", size=32, patch=4)
    with pytest.raises(BadSettings, match="neighbours = two: must be one of all, one, none"):
        encoders.build("vil_mini", size=32, neighbours="two")
    assert encoders.crop_problems("vil_mini", 9) == []
    (problem,) = encoders.crop_problems("vil_mini", 7)
    assert problem == "local_size = 7: one cell of the last map of vil_mini is 8 pixels. Set local_size=8."


def test_neighbours_are_set_of_every_chunk_and_come_back_from_the_folder(tmp_path):
    encoder = encoders.build("vil_mini", size=16, window=2).eval()
    x = torch.randn(2, 3, 16, 16)
    before = encoder(x)
    assert encoders.set_neighbours(encoder, "none") is encoder
    assert not torch.allclose(encoder(x), before)
    encoders.save(encoder, tmp_path)
    assert torch.equal(encoders.load(tmp_path)(x), encoder(x))
    swin = encoders.build("swin_mini", size=16)
    assert "neighbours" not in encoders.set_neighbours(swin, "none").kwargs


def test_every_weight_has_a_gradient_in_train_mode():
    """Several devices wait for one of each; the global token's own last biases have a gradient of zero."""
    encoder = encoders.build("vil_mini", size=16, neighbours="one").train()
    encoder(torch.randn(2, 3, 16, 16)).square().sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())
