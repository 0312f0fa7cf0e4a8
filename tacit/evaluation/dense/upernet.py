"""UPerNet on an encoder's stages (Xiao et al. 2018, with the FCN head and channels of Swin's ADE20K recipe)."""

from __future__ import annotations

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from tacit import encoders
from tacit.encoders import Encoder
from tacit.errors import UsageError
from tacit.evaluation.dense import maps
from tacit.evaluation.dense.heads import upsample


class UPerNet(nn.Module):
    """An encoder, a neck of levels, the UPerNet head and the auxiliary FCN head on the level before the last.

    `model(x)`: prepared images [B, C, H, W] of any size -> (logits [B, K, H, W], auxiliary logits of the same shape).

    Args:
        encoder: as `encoders.any_size` makes it; its last norm is taken out, since no stage passes it.
        channels: of the pyramid; aux_channels: of the auxiliary head; scales: the bins of the pyramid pooling.
        frozen: the encoder stays as it is, in eval mode.

    Raises:
        UsageError: an encoder without stages.
    """

    def __init__(
        self,
        encoder: Encoder,
        classes: int,
        *,
        channels: int = 512,
        aux_channels: int = 256,
        scales: tuple[int, ...] = (1, 2, 3, 6),
        dropout: float = 0.1,
        frozen: bool = False,
    ):
        super().__init__()
        self.encoder = maps.without_norm(encoder).requires_grad_(not frozen)
        self.frozen = frozen
        widths = _widths(encoder)
        plain = isinstance(encoder.trunk, VisionTransformer)
        self.neck = SimplePyramid(widths[-1]) if plain else StageNorms(widths[-4:])
        self.head = UPerHead(self.neck.widths, classes, channels, scales, dropout)
        self.aux = FCNHead(self.neck.widths[-2], classes, aux_channels, dropout)

    def train(self, mode: bool = True) -> UPerNet:
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        height, width = x.shape[2:]
        padded = encoders.pad(x, encoders.step(self.encoder))
        levels = self.neck(maps.stages(self.encoder, padded))
        full = (upsample(logits, padded.shape[2:]) for logits in (self.head(levels), self.aux(levels[-2])))
        return tuple(logits[:, :, :height, :width] for logits in full)


def _widths(encoder: Encoder) -> list[int]:
    side = encoders.step(encoder) * -(-encoder.inputs.size // encoders.step(encoder))
    device = next(encoder.parameters()).device
    with torch.no_grad():
        found = maps.stages(encoder.eval(), torch.zeros(1, encoder.inputs.channels, side, side, device=device))
    if len(found) < 2:
        raise UsageError(f"{encoder.name} has one stage; UPerNet needs two or more, or a plain ViT.")
    return [f.shape[1] for f in found]


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of [B, C, H, W]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class StageNorms(nn.Module):
    """The stages of a hierarchical trunk, each through a fresh LayerNorm, as in Swin's dense transfers."""

    def __init__(self, widths: list[int]):
        super().__init__()
        self.widths = widths
        self.norms = nn.ModuleList(ChannelNorm(w) for w in widths)

    def forward(self, stages: list[Tensor]) -> list[Tensor]:
        return [norm(x) for norm, x in zip(self.norms, stages[-len(self.norms) :], strict=True)]


class SimplePyramid(nn.Module):
    """Levels at 4, 2, 1 and 1/2 times the grid of a plain ViT's last block (Li et al. 2022, ViTDet, section 3).

    After a fresh LayerNorm: two deconvolutions with LayerNorm and GELU between; one; none; max pooling.
    """

    def __init__(self, width: int):
        super().__init__()
        half, quarter = width // 2, width // 4
        self.widths = [quarter, half, width, width]
        self.norm = ChannelNorm(width)
        up = nn.ConvTranspose2d
        self.levels = nn.ModuleList(
            [
                nn.Sequential(up(width, half, 2, 2), ChannelNorm(half), nn.GELU(), up(half, quarter, 2, 2)),
                up(width, half, 2, 2),
                nn.Identity(),
                nn.MaxPool2d(2, ceil_mode=True),
            ]
        )

    def forward(self, stages: list[Tensor]) -> list[Tensor]:
        x = self.norm(stages[-1])
        return [level(x) for level in self.levels]


def conv_bn(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    """Convolution of the same size without bias, BatchNorm, ReLU."""
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


def classifier(channels: int, classes: int, dropout: float) -> nn.Sequential:
    conv = nn.Conv2d(channels, classes, 1)
    nn.init.normal_(conv.weight, std=0.01)
    nn.init.zeros_(conv.bias)
    return nn.Sequential(nn.Dropout2d(dropout), conv)


class UPerHead(nn.Module):
    """Pyramid pooling on the last level, a top-down pyramid over all, and their fusion at the finest."""

    def __init__(self, widths: list[int], classes: int, channels: int, scales: tuple[int, ...], dropout: float):
        super().__init__()
        self.pools = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(s), conv_bn(widths[-1], channels, 1)) for s in scales
        )
        self.bottleneck = conv_bn(widths[-1] + len(scales) * channels, channels, 3)
        self.laterals = nn.ModuleList(conv_bn(w, channels, 1) for w in widths[:-1])
        self.smooth = nn.ModuleList(conv_bn(channels, channels, 3) for _ in widths[:-1])
        self.fuse = conv_bn(len(widths) * channels, channels, 3)
        self.classify = classifier(channels, classes, dropout)

    def forward(self, levels: list[Tensor]) -> Tensor:
        """[B, C_i, H_i, W_i], the finest first -> logits [B, K, H_0, W_0]."""
        last = levels[-1]
        pooled = [upsample(pool(last), last.shape[2:]) for pool in self.pools]
        maps = [lateral(x) for lateral, x in zip(self.laterals, levels[:-1], strict=True)]
        maps.append(self.bottleneck(torch.cat([last, *pooled], dim=1)))
        for i in range(len(maps) - 1, 0, -1):
            maps[i - 1] = maps[i - 1] + upsample(maps[i], maps[i - 1].shape[2:])
        maps[:-1] = [smooth(x) for smooth, x in zip(self.smooth, maps[:-1], strict=True)]
        size = maps[0].shape[2:]
        return self.classify(self.fuse(torch.cat([maps[0], *(upsample(m, size) for m in maps[1:])], dim=1)))


class FCNHead(nn.Module):
    """One 3x3 convolution and a classifier."""

    def __init__(self, width: int, classes: int, channels: int, dropout: float):
        super().__init__()
        self.conv = conv_bn(width, channels, 3)
        self.classify = classifier(channels, classes, dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.conv(x))
