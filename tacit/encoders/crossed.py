"""Cross-modal transformers over feature sequences (MulT: Tsai et al. 2019, arXiv 1906.00295; Khare et al. 2021,
arXiv 2011.10652), as timm models.

For each ordered pair of modalities m <- n a stack of blocks in which m asks and n answers: keys and values are the same
low-level features of n in every block, never the states that other blocks have made of them. What the other modalities
told m is joined and goes through blocks of self-attention. Padding is masked everywhere, which MulT's code leaves out,
and nothing hides the future unless asked to, which MulT's commands have on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from tacit.data.sequences import MODALITIES
from tacit.views.sequences import unpack


def sinusoids(length: int, width: int, device: torch.device | None = None) -> Tensor:
    """[length, width] for positions from 1 on: sines in the first half of the dimensions, cosines in the second, their
    wavelengths from 2 pi to 20,000 pi (as in tensor2tensor; the last of an odd width is 0)."""
    half = width // 2
    rates = torch.exp(torch.arange(half, device=device) * -(math.log(10_000) / max(half - 1, 1)))
    angles = torch.arange(1, length + 1, device=device)[:, None] * rates
    return F.pad(torch.cat([angles.sin(), angles.cos()], 1), (0, width % 2))


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, dropout: float) -> Tensor:
    """PyTorch's fused attention of [B, H, T, D] to [B, H, S, D]; in fp32 on a CPU, where it is slow in bf16."""
    if q.device.type != "cpu" or q.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(q, k, v, mask, dropout)
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), mask, dropout).to(q.dtype)


class Block(nn.Module):
    """Attention of `x` to `memory` (to itself without one) and an MLP, each after a norm and beside a shortcut.

    One norm serves both `x` and `memory`. x: [B, T, D]; memory: [B, S, D]; mask: [B, 1, 1 or T, S] bool, True where
    there is something to attend to; there: [B, 1, 1] bool, whether there is anything, or nothing is told.
    """

    def __init__(self, width: int, heads: int, dropout: float, attention_dropout: float = 0.0):
        super().__init__()
        self.heads, self.dropout = heads, attention_dropout
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor, there: Tensor, memory: Tensor | None = None) -> Tensor:
        y = self.norm1(x)
        if memory is None:
            q, k, v = self.qkv(y).chunk(3, -1)
        else:
            width = x.shape[-1]
            weight, bias = self.qkv.weight, self.qkv.bias
            q = F.linear(y, weight[:width], bias[:width])
            k, v = F.linear(self.norm1(memory), weight[width:], bias[width:]).chunk(2, -1)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        told = attend(q, k, v, mask, self.dropout if self.training else 0.0)
        x = x + self.drop(self.proj(told.transpose(1, 2).flatten(2)) * there)
        return x + self.drop(self.mlp(self.norm2(x)))


class Stack(nn.Module):
    """Blocks over sequences times the root of their width, with positions added, and a norm: [B, T, D] -> [B, T, D].

    future_mask: no position attends to later ones; of sequences of T and S positions to those more than |T - S| later
    (MulT's code).
    """

    def __init__(
        self, width: int, heads: int, depth: int, *, dropout: float = 0.0, attention_dropout: float = 0.0,
        first_dropout: float = 0.0, future_mask: bool = False,
    ):  # fmt: skip
        super().__init__()
        self.future_mask = future_mask
        self.first = nn.Dropout(first_dropout)
        self.blocks = nn.ModuleList([Block(width, heads, dropout, attention_dropout) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)

    def forward(
        self, x: Tensor, valid: Tensor, memory: Tensor | None = None, memory_valid: Tensor | None = None
    ) -> Tensor:
        """x [B, T, D], memory [B, S, D], and which positions hold anything, bool [B, T] and [B, S]."""
        x, length = self.placed(x, valid), x.shape[1]
        if memory is not None:
            memory = self.placed(memory, memory_valid)
        attended = valid if memory is None else memory_valid
        there = attended.any(1)[:, None, None]
        mask = (attended | ~there[:, 0])[:, None, None]  # where there is nothing, attention to anything is well-defined
        if self.future_mask:
            other = attended.shape[1]
            past = torch.ones(length, other, dtype=torch.bool, device=x.device).tril(abs(other - length))
            mask = mask & past
        for block in self.blocks:
            x = block(x, mask, there, memory)
        return self.norm(x)

    def placed(self, x: Tensor, valid: Tensor) -> Tensor:
        places = sinusoids(x.shape[1], x.shape[2], x.device).to(x.dtype)
        return self.first(math.sqrt(x.shape[2]) * x + places * valid[..., None])


class CrossModal(nn.Module):
    """Packed sequences [B, 1, n] (see `SequenceInputs`) -> [B, D]: of each modality the mean of its positions, joined.

    A position's vector has width (M - 1) `width` for M modalities, D is M times that. NaN is padding: those positions
    are 0 in what `forward_features` gives, and a modality that a record lacks has mean 0.

    Args:
        lengths, dims, vocabulary: as of `SequenceInputs`; modalities of dimension 0 have no part here.
        width, heads, cross_depth, depth: of the stacks; `depth` blocks of self-attention follow `cross_depth`.
        single_stream: in their place one stack of `depth` blocks over all positions of all modalities (BERT).
        dropout: of blocks and of what enters them; attention_dropout: of attention's weights, which on a CPU takes as
            long as all else; text_dropout: of what enters as text.
        future_mask: see `Stack`; the single stream has none.
    """

    num_prefix_tokens = 0
    said = "means of the positions of every modality after the last norm, joined"

    def __init__(
        self, in_chans: int = 1, num_classes: int = 0, lengths: Sequence[int] = (8, 16, 16),
        dims: Sequence[int] = (4, 4, 4), vocabulary: int = 0, width: int = 32, heads: int = 4, cross_depth: int = 2,
        depth: int = 1, single_stream: bool = False, dropout: float = 0.1, attention_dropout: float = 0.0,
        text_dropout: float | None = None, future_mask: bool = False,
    ):  # fmt: skip
        super().__init__()
        self.lengths, self.dims, self.vocabulary = tuple(lengths), tuple(dims), vocabulary
        self.names = names = [name for name, dim in zip(MODALITIES, dims, strict=True) if dim]
        self.single_stream = single_stream
        joined = 1 if single_stream else max(len(names) - 1, 1)
        self.width, self.token_width = width, joined * width
        self.num_features = self.head_hidden_size = len(names) * self.token_width
        self.num_classes = num_classes
        self.project = nn.ModuleDict()
        for name, dim in zip(MODALITIES, dims, strict=True):
            if name == "text" and vocabulary:
                self.project[name] = nn.Embedding(vocabulary, width, padding_idx=0)
            elif dim:
                self.project[name] = nn.Linear(dim, width, bias=False)
        self.mask_vectors = nn.ParameterDict({name: nn.Parameter(torch.zeros(width)) for name in names})
        self.modality_bias = nn.ParameterDict({name: nn.Parameter(torch.zeros(width)) for name in names})

        def stack(wide: int, blocks: int, first: float = dropout) -> Stack:
            return Stack(
                wide, heads, blocks, dropout=dropout, attention_dropout=attention_dropout, first_dropout=first,
                future_mask=future_mask,
            )  # fmt: skip

        of_text = dropout if text_dropout is None else text_dropout
        if single_stream:
            self.whole = stack(width, depth)
        else:
            self.cross = nn.ModuleDict(
                {
                    f"{m}_from_{n}": stack(width, cross_depth, of_text if m == "text" else dropout)
                    for m in names for n in names if m != n
                }
            )  # fmt: skip
            self.own = nn.ModuleDict({name: stack(self.token_width, depth) for name in names})
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        self.apply(draw)
        for vectors in (self.mask_vectors, self.modality_bias):
            for vector in vectors.values():
                nn.init.normal_(vector, std=0.02)

    def low_level(self, x: Tensor, hidden: Tensor | None = None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Projected features [B, T, width] and which positions hold anything [B, T] bool, of every modality.

        hidden: [B, P] bool, positions of all modalities one after another (text, audio, vision) at which the mask
        vector stands in the place of whatever is there.
        """
        low, valid, start = {}, {}, 0
        parts = unpack(x, self.lengths, self.dims)
        for name, length in zip(MODALITIES, self.lengths, strict=True):
            if name in parts:
                values = parts[name]
                valid[name] = ~values.isnan().any(-1)
                values = values.nan_to_num(0.0)
                text = name == "text" and self.vocabulary
                y = self.project[name](values[..., 0].long() if text else values)
                if hidden is not None:
                    y = torch.where(hidden[:, start : start + length, None], self.mask_vectors[name].to(y.dtype), y)
                low[name] = (y + self.modality_bias[name]) * valid[name][..., None]
            start += length
        return low, valid

    def sequences(self, x: Tensor, hidden: Tensor | None = None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Last states [B, T, token width] and validity [B, T] of every modality; 0 at padding."""
        low, valid = self.low_level(x, hidden)
        if self.single_stream:
            lengths = [part.shape[1] for part in low.values()]
            # Positions begin anew in each modality, so they are added here by modality, and not over the whole.
            placed = torch.cat([self.whole.placed(low[n], valid[n]) for n in low], 1)
            y = self.whole_of(placed, torch.cat(list(valid.values()), 1))
            told = dict(zip(low, y.split(lengths, 1), strict=True))
        else:
            told = {}
            for m in self.names:
                heard = [
                    self.cross[f"{m}_from_{n}"](low[m], valid[m], low[n], valid[n]) for n in self.names if n != m
                ] or [low[m]]
                told[m] = self.own[m](torch.cat(heard, -1), valid[m])
        return {name: y * valid[name][..., None] for name, y in told.items()}, valid

    def whole_of(self, x: Tensor, valid: Tensor) -> Tensor:
        there = valid.any(1)[:, None, None]
        mask = (valid | ~there[:, 0])[:, None, None]
        for block in self.whole.blocks:
            x = block(x, mask, there)
        return self.whole.norm(x)

    def forward_features(self, x: Tensor, hidden: Tensor | None = None) -> Tensor:
        """[B, 1, n] -> [B, P, token width], position by position: text, audio, vision."""
        return torch.cat(list(self.sequences(x, hidden)[0].values()), 1)

    def forward_head(self, y: Tensor, pre_logits: bool = False) -> Tensor:
        """The mean of every modality's positions, those that are 0 (padding) left out."""
        means = []
        lengths = [length for length, dim in zip(self.lengths, self.dims, strict=True) if dim]
        for part in y.split(lengths, 1):
            count = (part != 0).any(-1).sum(1, keepdim=True).clamp_min(1)
            means.append(part.sum(1) / count)
        pooled = torch.cat(means, 1)
        return pooled if pre_logits else self.head(pooled)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def draw(part: nn.Module) -> None:
    """Linears by Xavier's uniform distribution, queries, keys and values as one; embeddings as wide as their root
    undoes."""
    if isinstance(part, nn.Linear):
        nn.init.xavier_uniform_(part.weight)
        if part.bias is not None:
            nn.init.zeros_(part.bias)
    elif isinstance(part, nn.Embedding):
        nn.init.normal_(part.weight, std=part.embedding_dim**-0.5)
        with torch.no_grad():
            part.weight[part.padding_idx] = 0


SIZES = {
    "emotion_xmodal_mini": {"width": 32, "heads": 4, "cross_depth": 2, "depth": 1},
    "emotion_xmodal_small": {"width": 128, "heads": 4, "cross_depth": 4, "depth": 2},
    "emotion_xmodal_base": {"width": 256, "heads": 8, "cross_depth": 4, "depth": 3},
}
default_cfgs = generate_default_cfgs({name: {"url": "", "input_size": (1, 1, 1), "num_classes": 0} for name in SIZES})


def _build(name: str, pretrained: bool, **kwargs) -> CrossModal:
    return build_model_with_cfg(CrossModal, name, pretrained, **(SIZES[name] | kwargs))


@register_model
def emotion_xmodal_mini(pretrained: bool = False, **kwargs) -> CrossModal:
    """For some thousand short clips: width 32."""
    return _build("emotion_xmodal_mini", pretrained, **kwargs)


@register_model
def emotion_xmodal_small(pretrained: bool = False, **kwargs) -> CrossModal:
    """Width 128, 4 blocks a pair and 2 a modality."""
    return _build("emotion_xmodal_small", pretrained, **kwargs)


@register_model
def emotion_xmodal_base(pretrained: bool = False, **kwargs) -> CrossModal:
    """Width 256, 4 blocks a pair and 3 a modality."""
    return _build("emotion_xmodal_base", pretrained, **kwargs)
