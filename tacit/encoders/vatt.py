"""VATT's transformers of video, waveforms and words (Akbari et al. 2021, arXiv 2104.11178), as timm models.

Each reads tokens behind a learned one, AGG, whose last state stands for the clip, the sound or the sentence. What is
meant by "the code" is google-research/vatt, and what it does otherwise than one would think is done here on purpose:

- Places are learned tables, one an axis, summed; the LayerNorm is of that sum alone, never of tokens.
- AGG of text lives among the word vectors, before the projection (a Linear without bias, and GELU).
- The transformer of text is T5's: RMS norms and Linears without biases, scores that are not divided by the root of the
  heads' width, one table of relative positions for all blocks. Handed a shared stack it has places as the others do.
- DropToken says which share is *kept*, and one draw serves the whole batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache, partial

import torch
import torch.nn.functional as F
from timm.layers import RmsNorm
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import Block
from torch import Tensor, nn

EPS = 1e-6
OUT = -1e9  # added to the scores of padding


class Stack(nn.Module):
    """Pre-norm blocks, a norm and dropout: [B, N, width] -> the same. The part that modalities may share.

    `t5`: neither biases nor means (RMS norms), and scores that are not scaled.
    """

    def __init__(self, width: int, depth: int, heads: int, mlp_ratio: float, dropout: float, t5: bool = False):
        super().__init__()
        norm = partial(Rms if t5 else nn.LayerNorm, eps=EPS)
        self.blocks = nn.ModuleList(
            Block(
                width, heads, mlp_ratio, qkv_bias=not t5, proj_bias=not t5, proj_drop=dropout, attn_drop=dropout,
                norm_layer=norm,
            )
            for _ in range(depth)
        )  # fmt: skip
        if t5:
            for block in self.blocks:
                block.attn.q_norm = Times(block.attn.scale**-1)
        self.norm, self.dropout = norm(width), nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for block in self.blocks:
            x = block(x, attn_mask=mask)
        return self.dropout(self.norm(x))


class Rms(RmsNorm):
    """In float32 under autocast, too, as LayerNorm is."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float())


class Times(nn.Module):
    """`x` times a number: undoes the scale of scores that timm's attention divides by."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


class Places(nn.Module):
    """A learned table an axis: their sum at every place of a grid, after a LayerNorm.

    `places(grid)` [N, width], the last axis fastest. A grid of another length than an axis' table has it interpolated
    by a natural cubic spline (`spline`).
    """

    def __init__(self, grid: Sequence[int], width: int):
        super().__init__()
        std = width**-0.5
        for axis, count in enumerate(grid):
            table = nn.init.trunc_normal_(torch.empty(count, width), std=std, a=-2 * std, b=2 * std)
            self.register_parameter(f"axis_{axis}_pos_embed", nn.Parameter(table))
        self.norm = nn.LayerNorm(width, eps=EPS)

    @property
    def tables(self) -> list[Tensor]:
        return [p for name, p in self.named_parameters(recurse=False) if name.endswith("pos_embed")]

    def forward(self, grid: Sequence[int]) -> Tensor:
        total = 0
        for axis, (table, count) in enumerate(zip(self.tables, grid, strict=True)):
            table = interpolated(table, count)
            total = total + table.view([count if a == axis else 1 for a in range(len(grid))] + [-1])
        return self.norm(total).flatten(0, -2)


def interpolated(table: Tensor, count: int) -> Tensor:
    """A table [n, D] of positions read at `count` places instead of n: [count, D], by a natural cubic spline.

    Entry i of n lies at i / n of the whole, as in the code, so the last places of a longer grid lie beyond the last
    entry, and go straight on from it.
    """
    if len(table) == count:
        return table
    return spline(len(table), count).to(table) @ table


@lru_cache(maxsize=64)
def spline(known: int, asked: int) -> Tensor:
    """The matrix [asked, known] that reads values known at i / known at the places j / asked.

    In one dimension the polyharmonic spline of r^3 with a straight line is the natural cubic spline.
    """
    at, to = (torch.arange(n, dtype=torch.float64) / n for n in (known, asked))
    if known == 1:
        return torch.ones(asked, 1)

    def distances(x: Tensor) -> Tensor:
        return torch.cat([(x[:, None] - at).abs() ** 3, torch.ones(len(x), 1), x[:, None]], dim=1)

    line = torch.stack([torch.ones_like(at), at])
    system = torch.cat([distances(at), torch.cat([line, torch.zeros(2, 2)], dim=1)])
    values = torch.cat([torch.eye(known, dtype=torch.float64), torch.zeros(2, known)])
    return (distances(to) @ torch.linalg.solve(system, values)).float()


class Trunk(nn.Module):
    """What the three have in common: AGG, dropped tokens, the stack, and what lies around one that is shared.

    `forward(x)` [B, width] is AGG's last state, `forward_features(x)` [B, 1 + N, width] all of them.

    Args:
        shared: of a stack for several modalities: a Linear and GELU come before places, and after the last norm.
        out: width after the latter, 1,024 in the paper; `embed_dim` when left out.
        stem: deviation of the first weights of what reads pixels or samples, times the root of their inputs; by default
            as Keras draws them, which is less than .1 at the paper's sizes: tokens begin small beside their places.
    """

    num_prefix_tokens = 1
    global_pool = "token"

    def __init__(
        self, embed_dim: int = 768, depth: int = 12, num_heads: int = 12, mlp_ratio: float = 4.0,
        drop_rate: float = 0.1, shared: bool = False, out: int | None = None, num_classes: int = 0, t5: bool = False,
        stem: float | None = None,
    ):  # fmt: skip
        super().__init__()
        self.stem = stem
        self.shared, self.keep, self.each = shared, 1.0, False
        self.width, self.num_features = embed_dim, (out or embed_dim) if shared else embed_dim
        self.head_hidden_size, self.num_classes = self.num_features, num_classes
        self.dropout = nn.Dropout(drop_rate)
        self.before = nn.Sequential(nn.Linear(embed_dim, embed_dim), nn.GELU()) if shared else nn.Identity()
        self.made = (embed_dim, depth, num_heads, mlp_ratio, drop_rate, t5)

    def finish(self, agg: int) -> None:
        """Once there is what makes tokens: AGG of that width, the stack, and first weights as Keras draws them."""
        std = agg**-0.5
        cut = std / 0.87962566  # a normal cut at two of these has the deviation `std`
        self.agg_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, agg), std=cut, a=-2 * cut, b=2 * cut))
        self.stack = Stack(*self.made)
        self.after = (
            nn.Sequential(nn.Linear(self.width, self.num_features), nn.GELU()) if self.shared else nn.Identity()
        )
        self.head = nn.Linear(self.num_features, self.num_classes) if self.num_classes else nn.Identity()
        self.apply(_as_keras)
        if self.stem is not None:
            weight = self.patch_embed.weight
            nn.init.normal_(weight, std=self.stem * weight[0].numel() ** -0.5)

    def embedded(self, x: Tensor) -> Tensor:
        """Tokens in their places: [B, N, width]."""
        raise NotImplementedError

    def forward_features(self, x: Tensor) -> Tensor:
        tokens = dropped(self.embedded(x), self.keep if self.training else 1.0, self.each)
        agg = self.agg_token.expand(tokens.shape[0], -1, -1)  # len() would fix the batch of a program
        return self.after(self.stack(torch.cat([agg.to(tokens), tokens], dim=1)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        return x[:, 0] if pre_logits else self.head(x[:, 0])

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


class VideoTransformer(Trunk):
    """[B, C, T, H, W] -> [B, width]; tokens are boxes of `patch_size` (frames, rows, columns), time slowest."""

    def __init__(self, shape: Sequence[int] = (32, 224, 224), patch_size=(4, 16, 16), in_chans: int = 3, **kwargs):
        super().__init__(**kwargs)
        self.patch_size, width = tuple(patch_size), self.width
        self.patch_embed = nn.Conv3d(in_chans, width, self.patch_size, self.patch_size)
        self.places = Places([n // p for n, p in zip(shape, self.patch_size, strict=True)], width)
        self.finish(width)

    def embedded(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        return self.dropout(self.before(x.flatten(2).mT) + self.places(x.shape[2:]))


class AudioTransformer(Trunk):
    """[B, 1, n] -> [B, width]; tokens are `patch_size` samples."""

    def __init__(self, shape: Sequence[int] = (153_600,), patch_size=(128,), in_chans: int = 1, **kwargs):
        super().__init__(**kwargs)
        self.patch_size, width = tuple(patch_size), self.width
        self.patch_embed = nn.Conv1d(in_chans, width, self.patch_size, self.patch_size)
        self.places = Places([shape[-1] // self.patch_size[0]], width)
        self.finish(width)

    def embedded(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        return self.dropout(self.before(x.mT) + self.places(x.shape[2:]))


class TextTransformer(Trunk):
    """Word numbers [B, W], 0 for padding, which nothing attends to -> [B, width].

    Of several sentences [B, L, W] the feature is the mean over those that have words, and tokens follow one another.

    Args:
        shape: (words of a sentence,), or (sentences, words).
        words: rows of the table of word vectors, the first one for padding; dims: their width.
        train_words: whether the table is trained; by default it stays as it is, and only AGG beside it learns.
    """

    def __init__(
        self, shape: Sequence[int] = (16,), words: int = 65_536, dims: int = 300, train_words: bool = False,
        buckets: int = 32, reach: int = 64, in_chans: int = 1, shared: bool = False, **kwargs,
    ):  # fmt: skip
        super().__init__(shared=shared, t5=not shared, **kwargs)
        width, heads = self.width, self.made[2]
        self.words = nn.Embedding(words, dims)
        nn.init.uniform_(self.words.weight, -0.05, 0.05)
        self.words.weight.requires_grad_(train_words)
        self.before = nn.Sequential(nn.Linear(dims, width, bias=shared), nn.GELU())
        if shared:
            self.places = Places([shape[-1]], width)
        else:
            self.bias = nn.Embedding(buckets, heads)
            nn.init.uniform_(self.bias.weight, -0.05, 0.05)
        self.buckets, self.reach = buckets, reach
        self.finish(width if shared else dims)

    def forward_features(self, x: Tensor) -> Tensor:
        if x.ndim == 3:
            y = self.forward_features(x.flatten(0, 1)).unflatten(0, x.shape[:2])  # [B, L, 1 + W, D]
            filled = (x != 0).any(2).to(y)[:, :, None]
            mean = (y[:, :, 0] * filled).sum(1) / filled.sum(1).clamp_min(1)
            return torch.cat([mean[:, None], y[:, :, 1:].flatten(1, 2)], dim=1)
        tokens, agg = self.words(x), self.agg_token.expand(x.shape[0], -1, -1)
        mask = torch.where(F.pad(x != 0, (1, 0), value=True), 0.0, OUT)[:, None, None]  # [B, 1, 1, 1 + W]
        if self.shared:
            tokens = self.dropout(self.before(tokens) + self.places(x.shape[1:]))
            tokens = torch.cat([agg.to(tokens), tokens], dim=1)
        else:
            tokens = self.dropout(self.before(torch.cat([agg, tokens], dim=1)))
            numbers = relative_buckets(tokens.shape[1], self.buckets, self.reach).to(x.device)
            mask = mask + self.bias(numbers).permute(2, 0, 1)
        return self.after(self.stack(tokens, mask))


def dropped(x: Tensor, keep: float, each: bool = False) -> Tensor:
    """DropToken: int(keep N) of the tokens [B, N, D], drawn anew at every call. keep 1 is all of them.

    One draw is for all of the batch, as in the code (a shortcut for TPUs); `each`: one for every sample.
    """
    batch, tokens, width = x.shape
    if keep >= 1:
        return x
    kept = max(int(keep * tokens), 1)
    if not each:
        return x.index_select(1, torch.randperm(tokens, device=x.device)[:kept])
    order = torch.rand(batch, tokens, device=x.device).argsort(1)[:, :kept]
    return x.gather(1, order[:, :, None].expand(-1, -1, width))


@lru_cache(maxsize=16)
def relative_buckets(tokens: int, buckets: int, reach: int) -> Tensor:
    """T5's bucket of every offset (key minus query), both ways (Raffel et al. 2019, section 2.1): int64 [N, N].

    Half of the buckets are for keys that come after. Of each half, the first half are offsets one by one, the others
    grow as a logarithm up to `reach`, from which on all are in the last.
    """
    offset = torch.arange(tokens)[None] - torch.arange(tokens)[:, None]
    half = buckets // 2
    exact, far = half // 2, offset.abs()
    grown = exact + (far.clamp_min(1) / exact).log() / math.log(reach / exact) * (half - exact)
    near = torch.where(far < exact, far, grown.long().clamp_max(half - 1))
    return near + half * (offset > 0)


def _as_keras(part: nn.Module) -> None:
    """Weights from U(-b, b), b^2 = 6 / (in + out), queries, keys and values each by themselves; biases 0."""
    if isinstance(part, Block):
        width = part.attn.qkv.in_features
        nn.init.uniform_(part.attn.qkv.weight, -math.sqrt(3 / width), math.sqrt(3 / width))
    elif isinstance(part, nn.Linear | nn.Conv1d | nn.Conv3d):
        nn.init.xavier_uniform_(part.weight)
        if part.bias is not None:
            nn.init.zeros_(part.bias)


default_cfgs = generate_default_cfgs(
    {
        "vatt_video": {"url": "", "input_size": (3, 224, 224), "num_classes": 0, "first_conv": "patch_embed"},
        "vatt_audio": {"url": "", "input_size": (1, 1, 153_600), "num_classes": 0, "first_conv": "patch_embed"},
        "vatt_text": {"url": "", "input_size": (1, 1, 16), "num_classes": 0},
    }
)


@register_model
def vatt_video(pretrained: bool = False, **kwargs) -> VideoTransformer:
    return build_model_with_cfg(VideoTransformer, "vatt_video", pretrained, **kwargs)


@register_model
def vatt_audio(pretrained: bool = False, **kwargs) -> AudioTransformer:
    return build_model_with_cfg(AudioTransformer, "vatt_audio", pretrained, **kwargs)


@register_model
def vatt_text(pretrained: bool = False, **kwargs) -> TextTransformer:
    return build_model_with_cfg(TextTransformer, "vatt_text", pretrained, **kwargs)


# Small is of the paper's for text alone; mini is for short clips of some ten pixels.
SIZES = {
    "mini": {"depth": 3, "embed_dim": 96, "num_heads": 3},
    "small": {"depth": 6, "embed_dim": 512, "num_heads": 8},
    "base": {"depth": 12, "embed_dim": 768, "num_heads": 12},
    "medium": {"depth": 12, "embed_dim": 1024, "num_heads": 16},
    "large": {"depth": 24, "embed_dim": 1024, "num_heads": 16},
}
NAMES = {f"vatt_{of}_{size}": (f"vatt_{of}", how) for of in ("video", "audio", "text") for size, how in SIZES.items()}


def set_drop_token(encoder: nn.Module, keep: float, each: bool = False) -> None:
    """Keep this share of the tokens of a video or an audio transformer in training; see `dropped`.

    It is a setting of the training, not of the encoder: neither `save` nor `like` passes it on.
    """
    encoder.trunk.keep, encoder.trunk.each = keep, each


def share_stack(encoders: Sequence[nn.Module]) -> None:
    """Have all of them use the first one's stack (the modality-agnostic VATT). Each is still saved whole."""
    for encoder in encoders[1:]:
        encoder.trunk.stack = encoders[0].trunk.stack
