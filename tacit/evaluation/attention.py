"""What the class token of a ViT attends to, as masks, against the masks of objects (DINO, section 4.2.2)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from timm.models.vision_transformer import Attention, VisionTransformer
from torch import Tensor

from tacit.encoders import Encoder, any_size, refused, step
from tacit.errors import DataError, UsageError
from tacit.evaluation.video import nearest


def cls_attention(encoder: Encoder, images: Tensor) -> Tensor:
    """`attention_maps` of some images: [B, C, H, W] -> [B, heads, h, w] float32, on the encoder's device."""
    return attention_maps(encoder)(images)


def attention_maps(encoder: Encoder, device: torch.device | str | None = None) -> Callable[[Tensor], Tensor]:
    """A function that gives the attention of the class token to the patches in the last block, after the softmax.

    It takes images [B, C, H, W], uint8 or float in [0, 1], of any size in multiples of the patch, and gives
    [B, heads, h, w] float32. The share that goes to the class token itself (and to registers) is left out, so a head
    sums to less than 1. It works on a copy in eval mode; the encoder is left as it is.

    Raises:
        UsageError: the encoder has no class token, or attention of another kind; and when called, a size it cannot
            take. DataError when called: weights are not numbers.
    """
    check_attention(encoder)
    model = any_size(encoder).eval().to(device or next(encoder.parameters()).device)
    module = model.trunk.blocks[-1].attn

    @torch.no_grad()
    def maps(images: Tensor) -> Tensor:
        found: list[Tensor] = []
        # timm's fused attention never holds the weights, so they are computed again from what the module was given.
        handle = module.register_forward_pre_hook(lambda module, inputs: found.append(_first_row(module, inputs[0])))
        x = encoder.inputs.prepare(images.to(next(model.parameters()).device))
        try:
            model.trunk.forward_features(x)
        except (RuntimeError, AssertionError, ValueError) as error:
            raise refused(encoder, x, error) from error
        finally:
            handle.remove()
        patches = found[0][:, :, model.trunk.num_prefix_tokens :]
        if not torch.isfinite(patches).all():
            raise DataError(f"The attention of {encoder.name} is not numbers: the encoder is broken.")
        return patches.unflatten(2, tuple(side // step(encoder) for side in images.shape[2:]))

    return maps


def check_attention(encoder: Encoder) -> None:
    """Raises `UsageError` unless the encoder has a class token with plain attention to the patches."""
    if "cls" not in encoder.can or not isinstance(encoder.trunk, VisionTransformer):
        raise UsageError(
            f"{encoder.name} has no class token whose attention could be shown. Choose a ViT: vit_mini or deit_small."
        )
    if not isinstance(getattr(encoder.trunk.blocks[-1], "attn", None), Attention):
        raise UsageError(f"The last block of {encoder.name} has no plain self-attention. Choose an ordinary ViT.")


def _first_row(module: Attention, x: Tensor) -> Tensor:
    """[B, N, D] -> the class token's attention [B, heads, N]."""
    q, k, _ = module.qkv(x).unflatten(2, (3, module.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    q, k = module.q_norm(q[:, :, :1]).float(), module.k_norm(k).float()
    return (q @ k.transpose(-2, -1) * module.scale).softmax(-1).squeeze(2)


def mass_masks(attention: Tensor, mass: float = 0.6) -> Tensor:
    """[…, h, w] -> bool: the fewest largest entries that hold the share `mass` of a map's sum; the paper keeps 60 %."""
    if not 0 < mass <= 1:
        raise UsageError(f"mass = {mass}: must be over 0 and at most 1.")
    flat = attention.flatten(-2).double()
    if not torch.isfinite(flat).all() or (flat < 0).any() or not (flat.sum(-1) > 0).all():
        raise DataError("Attention maps must be finite, without negative values, and not zero everywhere.")
    values, order = flat.sort(dim=-1, descending=True, stable=True)
    before = (values.cumsum(-1) - values) / values.sum(-1, keepdim=True)
    kept = before < mass - 1e-6  # so that float32's rounding adds no entry to a mass that is just reached
    return torch.zeros_like(kept).scatter_(-1, order, kept).view(attention.shape)


def attention_jaccard(attention: Tensor, truth: Tensor, *, mass: float = 0.6, ignore: Tensor | None = None) -> Tensor:
    """Jaccard index [B, heads] of the `mass_masks` of attention [B, heads, h, w], scaled up by nearest neighbour.

    Args:
        truth: [B, H, W] bool, the object; ignore: [B, H, W] bool, pixels that do not count (VOC's void border).

    Raises:
        DataError: shapes that do not match, or an image without an object.
    """
    if attention.ndim != 4 or truth.ndim != 3 or len(attention) != len(truth) or not len(truth):
        raise DataError(
            f"Attention {list(attention.shape)} and masks {list(truth.shape)} must be [B, heads, h, w] and [B, H, W]."
        )
    counted = torch.ones_like(truth, dtype=torch.bool) if ignore is None else ~ignore.bool()
    if counted.shape != truth.shape:
        raise DataError(f"ignore {list(counted.shape)} must have the shape of the masks, {list(truth.shape)}.")
    truth = truth.bool() & counted
    if empty := (~truth.flatten(1).any(1)).nonzero().flatten().tolist():
        raise DataError(f"The mask of image {empty[0]} of the batch holds no object ({len(empty)} such). Leave it out.")
    masks = nearest(mass_masks(attention, mass), tuple(truth.shape[1:]))
    masks, truth = masks & counted.unsqueeze(1), truth.unsqueeze(1)
    return (masks & truth).sum((2, 3)) / (masks | truth).sum((2, 3))


def best_head(jaccard: Tensor) -> tuple[Tensor, Tensor]:
    """The best head's Jaccard index [B] and which head [B] it is, chosen for every image (DINO's rule for VOC12)."""
    value, head = jaccard.max(1)
    return value, head
