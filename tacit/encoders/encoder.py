"""Any timm trunk behind one small protocol: pooled feature, tokens, stage maps, and how its inputs are prepared."""

from __future__ import annotations

from typing import Any

from timm.layers import DropPath, PatchEmbed
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from tacit.encoders.chunks import ChunkAttention
from tacit.encoders.class_token import class_token, reads_class_token
from tacit.encoders.cvt import CvT
from tacit.encoders.mask_tokens import MASKABLE, masked_features
from tacit.encoders.skip_rows import skip_dropped_rows
from tacit.encoders.vatt import Trunk
from tacit.encoders.vil import ViL
from tacit.views import Inputs

MEAN_PATCH = {"global_pool": "avg", "fc_norm": False}  # timm would otherwise pool first and normalise then


class Encoder(nn.Module):
    """A trunk without a classifier.

    `encoder(x)` [B, C, H, W] -> [B, width]: the mean of the tokens after the last norm for Swin, CvT and ViL, the class
    token for ViT and DeiT (or, built with `MEAN_PATCH`, the mean of the patch tokens after the last norm, for methods
    that train no class token), and timm's own pooling for other trunks. `can` says what else it does: "tokens",
    "stages", "cls", "mask_tokens" (a mask token may take a patch's place), "drop_tokens" (it runs on some of them).
    """

    def __init__(self, trunk: nn.Module, *, name: str, arch: str, kwargs: dict[str, Any], norm: str, inputs: Inputs):
        super().__init__()
        self.trunk = trunk
        self.name, self.arch, self.kwargs, self.norm_before_mlp = name, arch, kwargs, norm
        self.inputs = inputs
        self.start: tuple[str, ...] = ()  # how its first weights were drawn, where not as timm draws them
        self.width: int = getattr(trunk, "head_hidden_size", trunk.num_features)

    @property
    def can(self) -> frozenset[str]:
        able = {"tokens"}
        if hasattr(self.trunk, "forward_intermediates"):
            able.add("stages")
        if getattr(self.trunk, "cls_token", None) is not None:
            able.add("cls")
        if isinstance(self.trunk, MASKABLE):
            able.add("mask_tokens")
        if isinstance(self.trunk, VisionTransformer):
            able.add("drop_tokens")
        return frozenset(able)

    @property
    def feature(self) -> str:
        """What `forward` returns, in words."""
        if said := getattr(self.trunk, "said", None):
            return said
        if isinstance(self.trunk, SwinTransformer | SwinTransformerV2 | CvT | ViL):
            return "mean of the tokens after the last norm"
        if isinstance(self.trunk, Trunk):
            return "state of the aggregating token after the last norm"
        if "cls" in self.can and getattr(self.trunk, "global_pool", "") == "token":
            return "class token after the last norm"
        if getattr(self.trunk, "global_pool", "") == "avg" and isinstance(
            getattr(self.trunk, "fc_norm", None), nn.Identity
        ):
            return "mean of the patch tokens after the last norm"
        return "timm's pooled feature"

    def forward(
        self, x: Tensor, with_tokens: bool = False, hidden: tuple[Tensor, Tensor] | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        if not with_tokens:
            return class_token(self.trunk, x) if reads_class_token(self.trunk) else self.trunk(x)
        y = self.trunk.forward_features(x) if hidden is None else masked_features(self.trunk, x, *hidden)
        return self.trunk.forward_head(y), self._rows(y)

    def tokens(self, x: Tensor) -> Tensor:
        """Patch tokens after the last norm, row by row: [B, C, H, W] -> [B, N, D]."""
        return self._rows(self.trunk.forward_features(x))

    def features_and_tokens(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`forward(x)` [B, width], to rounding, and `tokens(x)` [B, N, D], from one pass."""
        return self(x, with_tokens=True)  # a call of the module, which torch.compile and hooks see

    def _rows(self, y: Tensor) -> Tensor:
        if y.ndim == 3:
            return y[:, getattr(self.trunk, "num_prefix_tokens", 0) :]
        if getattr(self.trunk, "output_fmt", "NCHW") != "NHWC":
            y = y.permute(0, 2, 3, 1)
        return y.flatten(1, 2)

    def stages(self, x: Tensor) -> list[Tensor]:
        """Maps [B, C_i, H_i, W_i]: one a stage of a hierarchical trunk, one a block of a plain one."""
        return self.trunk.forward_intermediates(x, intermediates_only=True, output_fmt="NCHW")


_SLOTS = ("drop_path", "drop_path1", "drop_path2")


def blocks_with_drop_path(encoder: nn.Module) -> list[nn.Module]:
    """Blocks in the order of the data that can drop their residual branches; some hold None for "never"."""
    return [m for m in encoder.modules() if _slots(m)]


def _slots(block: nn.Module) -> list[str]:
    return [n for n in _SLOTS if hasattr(block, n) and isinstance(getattr(block, n), nn.Module | None)]


def set_drop_path(encoder: Encoder, rate: float) -> Encoder:
    """Stochastic depth, per sample, rising linearly from 0 at the first block to `rate` at the last. Returns it."""
    blocks = blocks_with_drop_path(encoder)
    for i, block in enumerate(blocks):
        p = rate * i / max(len(blocks) - 1, 1)
        for name in _slots(block):
            setattr(block, name, DropPath(p) if p else nn.Identity())
        if p:
            skip_dropped_rows(block)
    return encoder


def set_neighbours(encoder: Encoder, neighbours: str) -> Encoder:
    """Which chunks a ViL's meet, "all", "one" or "none" (see `ChunkAttention`). Other trunks stay. Returns it."""
    for part in encoder.modules():
        if isinstance(part, ChunkAttention):
            part.neighbours = encoder.kwargs["neighbours"] = neighbours
    return encoder


class TokenBatchNorm(nn.Module):
    """BatchNorm of [B, …, D] over all but the last axis, for the MLP's input (Chen et al. 2021, MoCo v3, 4.4)."""

    def __init__(self, width: int):
        super().__init__()
        self.bn = nn.BatchNorm1d(width)  # a child, so that it is turned into SyncBatchNorm with the others

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(x.flatten(0, -2)).view_as(x)


class WholePatches(PatchEmbed):
    """Patches of inputs of any size; what fills none, on the right and below, is left unread, as by a convolution."""

    def forward(self, x: Tensor) -> Tensor:
        height, width = (n // p * p for n, p in zip(x.shape[2:], self.patch_size, strict=True))
        return super().forward(x[:, :, :height, :width])
