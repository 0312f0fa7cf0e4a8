"""Swin V2 against its paper and official code: norms that come after, cosines, and positions as a function."""

import math
import re

import pytest
import torch
from timm.models.swin_transformer_v2 import WindowAttention

from tacit import encoders
from tacit.encoders import any_size, at_size, step, token_grid, trained_windows
from tacit.errors import BadSettings, UsageError
from tacit.evaluation import choices
from tacit.evaluation.dense.maps import maps
from tacit.evaluation.detection.pyramid import maps_of
from tacit.evaluation.fine_tune import Classifier, Recipe, depth_of, parameter_groups
from tacit.export import export

SHAPE = {"embed_dim": 8, "depths": (2, 2, 2), "num_heads": (1, 2, 4)}


@pytest.fixture
def fresh():
    torch.manual_seed(0)
    return encoders.build("swinv2_mini", size=32)


@pytest.fixture
def encoder(fresh):
    """With gains that let every block do something."""
    with torch.no_grad():
        for name, p in fresh.named_parameters():
            if "norm1" in name or "norm2" in name:
                p.add_(0.5 * torch.randn_like(p))
    return fresh.eval()


def images(*size: int) -> torch.Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))


def test_blocks_start_as_the_identity_and_the_gains_learn_first(fresh):
    trunk = fresh.trunk
    x = trunk.patch_embed(images(32, 32))
    for stage in trunk.layers:
        merged = stage.downsample(x)
        x = stage(x)
        torch.testing.assert_close(x, merged)
    fresh(images(32, 32)).square().sum().backward()
    block = trunk.layers[2].blocks[1]
    assert block.norm1.weight.grad.abs().sum() + block.norm2.weight.grad.abs().sum() > 0
    assert block.attn.qkv.weight.grad.abs().sum() == 0
    assert block.mlp.fc1.weight.grad.abs().sum() == 0


def test_norms_come_after_the_branches_and_after_the_merging(encoder):
    block, x = encoder.trunk.layers[0].blocks[0], torch.randn(1, 16, 16, 32)
    y = x + block.norm1(block._attn(x))
    torch.testing.assert_close(block(x), y + block.norm2(block.mlp(y)))
    merge = encoder.trunk.layers[1].downsample
    assert (merge.norm.normalized_shape, merge.reduction.bias) == ((64,), None)
    parts = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], -1)
    torch.testing.assert_close(merge(x), merge.norm(parts @ merge.reduction.weight.T))


def logits(attention: WindowAttention, x: torch.Tensor) -> torch.Tensor:
    seen = []
    handle = attention.softmax.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    attention(x)
    handle.remove()
    return seen[0]


def test_logits_are_cosines_up_to_a_temperature_that_is_held_at_a_hundred():
    torch.manual_seed(0)
    attention = WindowAttention(8, (3, 3), 2)
    x = torch.randn(2, 9, 8)
    before = logits(attention, x)
    with torch.no_grad():  # queries and keys have no bias now, so they scale with their weights
        attention.qkv.weight[:16] *= 7
    torch.testing.assert_close(logits(attention, x), before)
    with torch.no_grad():
        attention.logit_scale.fill_(50.0)  # its exponential would be 5e21
    large = logits(attention, x)
    assert large.max() <= 100 + 16
    assert (large.diagonal(dim1=2, dim2=3) < 101 + 16).all()
    q, k, _ = attention.qkv(x).view(2, 9, 3, 2, 4).permute(2, 0, 3, 1, 4)
    cosines = torch.nn.functional.cosine_similarity(q[:, :, :, None], k[:, :, None], dim=-1)
    difference = large - 100 * cosines  # what is left are positions, the same in every window
    torch.testing.assert_close(difference[0], difference[1], atol=1e-4, rtol=0)
    assert attention.q_bias is not None
    assert attention.k_bias.eq(0).all()
    assert not isinstance(attention.k_bias, torch.nn.Parameter)
    assert WindowAttention(8, (3, 3), 2).logit_scale.exp().flatten().tolist() == pytest.approx([10, 10])


@pytest.mark.parametrize(("window", "trained", "end"), [(12, 0, 1.05664), (12, 12, 1.05664), (14, 12, 1.12869)])
def test_coordinates_are_logarithms_of_the_offset_in_windows_of_pre_training(window, trained, end):
    attention = WindowAttention(8, (window, window), 2, pretrained_window_size=(trained, trained))
    table = attention.relative_coords_table[0]
    assert table.shape == (2 * window - 1, 2 * window - 1, 2)
    assert table.max().item() == pytest.approx(end, abs=1e-5)
    torch.testing.assert_close(table.flip(0, 1), -table)
    assert table[window - 1, window - 1].eq(0).all()
    u = 8 * 3 / ((trained or window) - 1)
    assert table[window + 2, 0, 0].item() == pytest.approx(math.log2(1 + u) / 3, rel=1e-5)


def test_positions_depend_on_the_offset_alone_and_start_near_eight():
    torch.manual_seed(0)
    attention = WindowAttention(8, (4, 4), 2)
    with torch.no_grad():
        attention.qkv.weight[:16] = 0
        attention.qkv.weight[0] = 1e-3  # cosines of vectors that are the same everywhere
        bias = logits(attention, torch.ones(1, 16, 8))[0]
    by_offset: dict[tuple[int, int], set[float]] = {}
    for i in range(16):
        for j in range(16):
            by_offset.setdefault((i // 4 - j // 4, i % 4 - j % 4), set()).add(round(bias[0, i, j].item(), 3))
    assert len(by_offset) == 49
    assert all(len(values) == 1 for values in by_offset.values())
    assert len({v for values in by_offset.values() for v in values}) > 20
    assert 4 < float(bias.mean()) < 12


def test_windows_shrink_to_small_grids_which_are_not_shifted():
    blocks = [stage.blocks for stage in encoders.build("swinv2_mini", size=16).trunk.layers]
    assert [[b.window_size for b in stage] for stage in blocks] == [[(4, 4)] * 2, [(4, 4)] * 2, [(2, 2)] * 2]
    assert [[b.shift_size for b in stage] for stage in blocks] == [[(0, 0), (2, 2)], [(0, 0)] * 2, [(0, 0)] * 2]


def test_it_is_an_encoder_like_others(encoder):
    assert {"tokens", "stages", "mask_tokens"} <= encoder.can
    assert encoder.feature == "mean of the tokens after the last norm"
    x = images(32, 32)
    torch.testing.assert_close(encoder(x), encoder.tokens(x).mean(1))
    assert [tuple(m.shape[1:]) for m in encoder.stages(x)] == [(32, 16, 16), (64, 8, 8), (128, 4, 4)]
    assert step(encoder) == 2
    assert choices.choose(encoder, x, ["last4"])["last4"].shape == (2, 2 * 64 + 2 * 128)
    assert maps(encoder, x).shape == (2, 128, 4, 4)
    assert maps_of(encoder) == ([32, 64, 128], [2, 4, 8], 8)
    dropping = encoders.build("swinv2_mini", size=16, drop_path=0.2)
    rates = [getattr(b.drop_path2, "drop_prob", 0.0) for b in dropping.modules() if hasattr(b, "drop_path2")]
    assert rates == pytest.approx([0.0, 0.04, 0.08, 0.12, 0.16, 0.2])
    assert encoders.problems("swinv2_mini", 24) == [
        "size = 24: in stage 2 the grid is 6 x 6 and the window 4: 6 = 1 x 4 + 2. "
        "Set size=16 or size=32 or window=3 or window=6."
    ]
    assert encoders.problems("swinv2_base_window12to16_192to256", 256) == []  # in windows of 16
    with pytest.raises(BadSettings, match="no blocks with a LayerNorm before an MLP"):
        encoders.build("swinv2_mini", size=32, norm_before_mlp="bn")


def test_fine_tuning_knows_its_depth_and_spares_what_the_paper_spares(encoder):
    assert depth_of("layers.1.blocks.1.attn.cpb_mlp.0.weight", encoder) == (4, 7)
    assert depth_of("norm.weight", encoder) == (7, 7)
    model = Classifier(encoder, 3)
    groups = [g for g in parameter_groups(model, Recipe(weight_decay=0.05)) if g["weight_decay"] == 0]
    spared = {id(p) for g in groups for p in g["params"]}
    for name, p in model.named_parameters():
        if "cpb_mlp" in name or "logit_scale" in name:
            assert id(p) in spared


def test_it_is_stored_and_read(encoder, tmp_path):
    encoders.save(encoder, tmp_path)
    x = images(32, 32)
    torch.testing.assert_close(encoders.load(tmp_path)(x), encoder(x))


def test_at_any_size_it_keeps_its_windows_and_does_at_its_own_what_it_did(encoder):
    x = images(32, 32)
    torch.testing.assert_close(any_size(encoder)(x), encoder(x), atol=1e-5, rtol=1e-5)
    built = encoders.build("swinv2_mini", size=64).eval()
    built.trunk.load_state_dict(encoder.trunk.state_dict())
    x = images(64, 64)
    torch.testing.assert_close(any_size(encoder)(x), built(x), atol=1e-5, rtol=1e-5)
    assert token_grid(any_size(encoder), images(36, 20)).shape == (2, 5, 3, 128)


def test_masked_padding_takes_no_part(encoder):
    """A grid of 4 x 2 under windows of 4 x 4 is attention in one window of 4 x 2 with coordinates in units of 4."""
    block = any_size(encoder).trunk.layers[0].blocks[1]
    x = torch.randn(2, 4, 2, 32, generator=torch.Generator().manual_seed(1))
    small = WindowAttention(32, (4, 2), 2, pretrained_window_size=(4, 4)).eval()
    small.load_state_dict(block.attn.state_dict())
    torch.testing.assert_close(block._attn(x), small(x.flatten(1, 2)).view_as(x), atol=1e-5, rtol=1e-5)


def test_another_window_reads_the_same_function_of_positions_further_out(encoder):
    larger = at_size(encoder, 48, 6)
    assert (larger.inputs.size, larger.kwargs["img_size"], larger.kwargs["window_size"]) == (48, 48, 6)
    assert trained_windows(larger.trunk) == trained_windows(encoder.trunk) == (4, 4, 4)
    old, new = (e.trunk.layers[0].blocks[0].attn for e in (encoder, larger))
    torch.testing.assert_close(new.relative_coords_table[:, 2:-2, 2:-2], old.relative_coords_table)
    for (name, a), b in zip(encoder.state_dict().items(), larger.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    again = at_size(larger, 32, 4)
    assert trained_windows(again.trunk) == (4, 4, 4)
    x = images(32, 32)
    torch.testing.assert_close(again(x), encoder(x))


def test_the_windows_of_pre_training_are_those_in_use_and_smaller_where_the_grid_is():
    with torch.device("meta"):
        encoder = encoders.build("swinv2_tiny", size=192, window=12)
    assert trained_windows(encoder.trunk) == (12, 12, 12, 6)
    assert sum(p.numel() for p in encoder.parameters()) == 28_347_154 - 769_000  # with the published classifier 28 M


@pytest.mark.parametrize(
    ("size", "window", "trained", "square", "first"),
    [
        (24, 3, None, 0.8469980359077454, (-0.304890, 0.086212, -0.077730)),
        (48, 6, (3, 3, 3), 0.8325769305229187, (-0.355528, 0.038661, -0.000448)),
    ],
)
def test_the_golden_features_of_the_official_code(size, window, trained, square, first):
    """`SwinTransformerV2` of microsoft/Swin-Transformer (f82860b) at these weights; 48 pixels after training at 24."""
    built = encoders.build("swinv2_tiny", size=24, patch=2, window=3, **SHAPE).eval()
    with torch.no_grad():
        for k, (name, p) in enumerate(sorted(built.trunk.named_parameters())):
            x = torch.sin(torch.arange(p.numel(), dtype=torch.float64) * 1.7 + k).float().view(p.shape)
            if name.endswith("logit_scale"):
                p.copy_(math.log(10) + 2.5 * x)  # some above the clamp
            else:
                p.copy_(1 + 0.2 * x if "norm" in name and name.endswith("weight") else 0.3 * x)
    encoder = at_size(built, size, window)
    assert (trained or (3, 3, 3)) == trained_windows(encoder.trunk)
    x = torch.sin(torch.arange(2 * 3 * size**2, dtype=torch.float64) * 0.37).float().view(2, 3, size, size)
    tokens = encoder.tokens(x)
    assert tokens.square().mean().item() == pytest.approx(square, rel=1e-5)
    assert tokens[0, 0, :3].tolist() == pytest.approx(first, abs=2e-5)


def test_an_official_checkpoint_is_read_whole(encoder, tmp_path):
    """Merging at the end of a stage, coordinates and masks among the tensors, the network's name of before 2022."""
    state = {k.replace("cpb_mlp", "rpe_mlp"): v for k, v in encoder.trunk.state_dict().items()}
    state = {re.sub(r"layers\.(\d)\.down", lambda m: f"layers.{int(m[1]) - 1}.down", k): v for k, v in state.items()}
    attention = encoder.trunk.layers[0].blocks[1].attn
    state["layers.0.blocks.1.attn.relative_coords_table"] = attention.relative_coords_table
    state["layers.0.blocks.1.attn.relative_position_index"] = attention.relative_position_index
    state["mask_token"] = torch.zeros(1, 1, 32)
    torch.save({"model": {f"encoder.{k}": v for k, v in state.items()}}, tmp_path / "simmim.pth")
    target = encoders.build("swinv2_mini", size=32).eval()
    report = encoders.initialise(target, tmp_path / "simmim.pth")
    assert (report.missing, report.unexpected, report.interpolated) == ([], ["mask_token"], [])
    assert "windows (4 in the first stage)" in str(report)
    x = images(32, 32)
    torch.testing.assert_close(target(x), encoder(x))


@pytest.mark.parametrize("to", ["timm", "torch", "onnx"])
def test_exports_agree(to, tmp_path):
    encoder = at_size(encoders.build("swinv2_mini", size=16, depths=(1, 2), num_heads=(2, 4)).eval(), 32, 8)
    found = export(encoder, to, tmp_path / "out")
    assert found["difference"] <= found["tolerance"]
    with pytest.raises(UsageError, match="nor a plain ViT with a class token"):
        export(encoder, "transformers", tmp_path / "other")
