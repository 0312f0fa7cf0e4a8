"""Encoders at any input size: position embeddings interpolated on the way, windows padded, all on a copy."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from timm.layers import Format
from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock, window_partition, window_reverse
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from tacit.encoders import Encoder
from tacit.errors import UsageError

LEVELS = ("last", "all")


def any_size(encoder: Encoder, *, mask_padding: bool = True) -> Encoder:
    """A copy of `encoder` that takes any [B, C, H, W] whose sides are multiples of `step(encoder)`.

    A ViT's position embeddings are interpolated (bicubic) to the grid. A Swin keeps its windows and tables; grids that
    the windows do not fill are padded on the right and below, then shifted, as in the official detection and
    segmentation code. Convolutional trunks take any size as they are.

    Args:
        mask_padding: padding takes no part in a Swin's attention, so that nothing a pre-training never saw does.
            False is the official code's way, where it does.
    """
    made = copy.deepcopy(encoder)
    trunk = made.trunk
    if isinstance(trunk, VisionTransformer) and trunk.pos_embed is not None:
        trunk.dynamic_img_size = True
        trunk.patch_embed.strict_img_size = False
        trunk.patch_embed.flatten, trunk.patch_embed.output_fmt = False, Format.NHWC
    elif isinstance(trunk, SwinTransformer):
        trunk.patch_embed.strict_img_size = False
        for block in trunk.modules():
            if isinstance(block, SwinTransformerBlock):
                block.__class__ = _AnyGrid
                block.mask_padding = mask_padding
                block.attn_mask = None  # of the size it was built for
    return made


def step(encoder: Encoder) -> int:
    """What the sides of an input must be multiples of: the patch, or a convolutional trunk's last stride."""
    patch = getattr(getattr(encoder.trunk, "patch_embed", None), "patch_size", None)
    if isinstance(encoder.trunk, VisionTransformer | SwinTransformer):
        return patch[0]
    return max([int(info["reduction"]) for info in getattr(encoder.trunk, "feature_info", [])] or [32])


def pad(x: Tensor, multiple: int) -> Tensor:
    """Zeros, the mean colour of prepared inputs, on the right and below, up to multiples."""
    return F.pad(x, (0, -x.shape[3] % multiple, 0, -x.shape[2] % multiple))


def stages(encoder: Encoder, x: Tensor) -> list[Tensor]:
    """`encoder.stages`, and in plain words what size cannot be."""
    if "stages" not in encoder.can:
        raise UsageError(f"{encoder.name} gives no maps of its stages. Take a ViT, a Swin or a convolutional encoder.")
    try:
        return encoder.stages(x)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise _refused(encoder, x, error) from error


def maps(encoder: Encoder, x: Tensor, levels: str = "last") -> Tensor:
    """Features on a grid [B, D, h, w].

    Args:
        x: prepared images whose sides are multiples of `step(encoder)`.
        levels: "last": the tokens after the last norm (ViT, Swin), or the last stage. "all": the stages of a
            hierarchical trunk, brought to the finest by bilinear upsampling, one above the other; the last four blocks
            of a plain ViT.
    """
    if levels == "all":
        found = stages(encoder, x)
        found = found[-4:] if isinstance(encoder.trunk, VisionTransformer) else found
        size = found[0].shape[2:]
        return torch.cat([found[0], *(F.interpolate(f, size=size, mode="bilinear") for f in found[1:])], dim=1)
    if not isinstance(encoder.trunk, VisionTransformer | SwinTransformer):
        return stages(encoder, x)[-1]
    height, width = (n // step(encoder) for n in x.shape[2:])
    if isinstance(encoder.trunk, SwinTransformer):
        for _ in encoder.trunk.layers[1:]:
            height, width = -(-height // 2), -(-width // 2)
    try:
        tokens = encoder.tokens(x)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise _refused(encoder, x, error) from error
    return tokens.transpose(1, 2).unflatten(2, (height, width))


def _refused(encoder: Encoder, x: Tensor, error: Exception) -> UsageError:
    height, width = x.shape[2:]
    words = (str(error).splitlines() or [type(error).__name__])[0][:200]
    return UsageError(
        f"{encoder.name} cannot take images of {height} x {width}: {words} ViT, DeiT, Swin and convolutional encoders "
        f"take any size; set size={encoder.inputs.size} for this one, and test in tiles."
    )


class _AnyGrid(SwinTransformerBlock):
    """timm's block, which pads after the shift and so puts its mask in the wrong place on a grid that needs padding."""

    mask_padding: bool

    def _attn(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        window = self.window_size
        x = F.pad(x, (0, 0, 0, -width % window[1], 0, -height % window[0]))
        full = x.shape[1:3]
        shifted = any(self.target_shift_size)
        shift = [w // 2 if shifted and n > w else 0 for n, w in zip(full, window, strict=True)]
        if any(shift):
            x = torch.roll(x, (-shift[0], -shift[1]), (1, 2))
        mask = self._mask(full, (height, width), shift, x)
        windows = window_partition(x, window).flatten(1, 2)
        windows = self.attn(windows, mask=mask).unflatten(1, window)
        x = window_reverse(windows, window, *full)
        if any(shift):
            x = torch.roll(x, shift, (1, 2))
        return x[:, :height, :width].contiguous()

    def _mask(self, full: torch.Size, real: tuple[int, int], shift: list[int], x: Tensor) -> Tensor | None:
        """[windows, N, N] of 0 and -100: tokens attend to those that lie beside them in the picture."""
        padded = self.mask_padding and tuple(full) != real
        if not padded and not any(shift):
            return None
        axes = []
        for n, n_real, s in zip(full, real, shift, strict=True):
            place = (torch.arange(n, device=x.device) + s) % n  # where the token was before the shift
            axes.append((place < s, (place >= n_real) & padded))
        (wrapped_y, out_y), (wrapped_x, out_x) = axes
        region = wrapped_y[:, None] * 2 + wrapped_x[None] + (out_y[:, None] | out_x[None]) * 4
        region = window_partition(region[None, :, :, None], self.window_size).flatten(1)
        return (region[:, None] != region[:, :, None]).to(x.dtype) * -100.0


def without_norm(encoder: Encoder) -> Encoder:
    """`encoder` without the last norm, which no map of its stages passes; changed in place."""
    if isinstance(getattr(encoder.trunk, "norm", None), nn.Module):
        encoder.trunk.norm = nn.Identity()
    return encoder
