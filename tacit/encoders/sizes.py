"""Encoders at any input size: position embeddings interpolated on the way, windows padded, all on a copy."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from timm.layers import Format, PatchEmbed
from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock, window_partition, window_reverse
from timm.models.swin_transformer_v2 import SwinTransformerV2, SwinTransformerV2Block
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from tacit.encoders.chunks import Attention
from tacit.encoders.encoder import Encoder, WholePatches
from tacit.errors import UsageError


def any_size(
    encoder: Encoder, *, mask_padding: bool = True, shift_as_built: bool = False, by_pairs: bool = False
) -> Encoder:
    """A copy of `encoder` that takes any [B, C, H, W] whose sides are multiples of `step(encoder)`.

    A ViT's position embeddings are interpolated (bicubic) to the grid. A Swin keeps its windows and tables; grids that
    the windows do not fill are padded on the right and below, then shifted, as in the official detection and
    segmentation code; at its own size it does what it did. A ViL's biases are interpolated.
    Convolutional trunks take any size as they are.

    Args:
        mask_padding: padding takes no part in a Swin's attention, so that nothing a pre-training never saw does.
            False is the official code's way, where it does.
        shift_as_built: a Swin's windows shift at every size where they do at the encoder's own, though a smaller grid
            may fit into one window; the shift then splits that window. EsViT's official code does so (stage 3 of crops
            of 96 pixels). Otherwise they shift wherever there are several.
        by_pairs: where a ViL's map is not of its own size, the matrix [N, N] of the biases of all pairs of tokens is
            interpolated like a picture, which mixes up rows and columns of the map; EsViT's official code does so.
            Otherwise the table of differences is, as a Swin's from one window to another.

    Raises:
        UsageError: a ViT whose patches are not a plain convolution.
    """
    made = copy.deepcopy(encoder)
    trunk = made.trunk
    if isinstance(trunk, VisionTransformer):
        if type(trunk.patch_embed) not in (PatchEmbed, WholePatches):
            kind = type(trunk.patch_embed).__name__
            raise UsageError(f"{encoder.name} takes its own size only: its patches are made by {kind}.")
        trunk.dynamic_img_size = True
        trunk.patch_embed.strict_img_size = False
        trunk.patch_embed.flatten, trunk.patch_embed.output_fmt = False, Format.NHWC
    elif isinstance(trunk, SwinTransformer | SwinTransformerV2):
        trunk.patch_embed.strict_img_size = False
        for block in trunk.modules():
            if isinstance(block, SwinTransformerBlock | SwinTransformerV2Block):
                block.__class__ = _AnyGrid if isinstance(block, SwinTransformerBlock) else _AnyGridV2
                block.mask_padding = mask_padding
                block.shift_as_built = shift_as_built
                block.attn_mask = None  # of the size it was built for
    for part in trunk.modules():
        if isinstance(part, Attention):
            part.by_pairs = by_pairs
    return made


def step(encoder: Encoder) -> int:
    """What the sides of an input must be multiples of: the patch, or a convolutional trunk's last stride. Of patches
    that are no squares, the height: frames of a spectrogram."""
    patch = getattr(getattr(encoder.trunk, "patch_embed", None), "patch_size", None)
    if isinstance(encoder.trunk, VisionTransformer | SwinTransformer | SwinTransformerV2):
        return patch[0]
    return max([int(info["reduction"]) for info in getattr(encoder.trunk, "feature_info", [])] or [32])


def pad(x: Tensor, multiple: int) -> Tensor:
    """Zeros, the mean colour of prepared inputs, on the right and below, up to multiples."""
    return F.pad(x, (0, -x.shape[3] % multiple, 0, -x.shape[2] % multiple))


class _Windows:
    """timm's block, which pads after the shift and so puts its mask in the wrong place on a grid that needs padding."""

    mask_padding: bool
    shift_as_built: bool

    def _attn(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        window = self.window_size
        x = F.pad(x, (0, 0, 0, -width % window[1], 0, -height % window[0]))
        full = x.shape[1:3]
        if self.shift_as_built:
            shift = list(self.shift_size)
        else:
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


class _AnyGrid(_Windows, SwinTransformerBlock):
    pass


class _AnyGridV2(_Windows, SwinTransformerV2Block):
    pass


def token_grid(encoder: Encoder, x: Tensor) -> Tensor:
    """Patch tokens after the last norm where they lie: prepared [B, C, H, W] -> [B, h, w, D].

    Raises:
        UsageError: an encoder that cannot take this size.
    """
    height, width = x.shape[2:]
    try:
        tokens = encoder.tokens(x)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise refused(encoder, x, error) from error
    if isinstance(encoder.trunk, VisionTransformer | SwinTransformer | SwinTransformerV2):
        high, wide = encoder.trunk.patch_embed.patch_size
        h, w = height // high, width // wide
        for _ in getattr(encoder.trunk, "layers", [])[1:]:
            h, w = -(-h // 2), -(-w // 2)
    else:  # cells are square
        h = max(round((tokens.shape[1] * height / width) ** 0.5), 1)
        w = tokens.shape[1] // h
    if h * w != tokens.shape[1]:
        raise UsageError(
            f"{encoder.name} gives {tokens.shape[1]} tokens for {height} x {width} pixels, which form no grid. Choose "
            f"sides that are multiples of {step(encoder)}."
        )
    return tokens.unflatten(1, (h, w))


def refused(encoder: Encoder, x: Tensor, error: Exception) -> UsageError:
    """In plain words, what size cannot be."""
    height, width = x.shape[2:]
    words = (str(error).splitlines() or [type(error).__name__])[0][:200]
    return UsageError(
        f"{encoder.name} cannot take images of {height} x {width}: {words} ViT, DeiT, Swin and convolutional encoders "
        f"take any size in multiples of their patch; set size={encoder.inputs.size} for others."
    )
