"""ViTs on spectrograms: positions that are cut to the length of the sound, and sounds that end before their input."""

from __future__ import annotations

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from tacit.encoders.encoder import Encoder, WholePatches
from tacit.errors import UsageError


class CutPositions(VisionTransformer):
    """timm's ViT for sounds of any length up to the one it was built for: of its table the first positions are used.

    Nothing is interpolated (ATST, official code); frames at the end that fill no patch are left unread.
    """

    def _pos_embed(self, x: Tensor) -> Tensor:
        prefix = [token.expand(len(x), -1, -1) for token in (self.cls_token, self.reg_token) if token is not None]
        x = torch.cat([*prefix, x], dim=1)
        if x.shape[1] > self.pos_embed.shape[1]:
            frames, most = ((n - self.num_prefix_tokens) * self.patch_embed.patch_size[0]
                            for n in (x.shape[1], self.pos_embed.shape[1]))  # fmt: skip
            raise UsageError(
                f"The sound has {frames} frames, and the encoder positions for {most}. Give shorter excerpts, or an "
                "encoder that was built for longer ones."
            )
        return self.pos_drop(x + self.pos_embed[:, : x.shape[1]])


def cut_positions(trunk: VisionTransformer) -> None:
    """Make a plain ViT of timm one that cuts positions, in place."""
    trunk.__class__, trunk.patch_embed.__class__ = CutPositions, WholePatches
    trunk.patch_embed.strict_img_size = False


def encode_valid(encoder: Encoder, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Features of sounds that end before their input does, as if there were nothing behind (ATST).

    Args:
        x: prepared [B, 1, frames, mels]. lengths: [B], how many frames of each are sound; at least a patch's.

    Returns:
        The class token's feature, or the mean of the valid tokens where there is none [B, D]; the tokens after the last
        norm [B, N, D], and which of them are valid, bool [B, N]. No token attends to one that is not valid.

    Raises:
        UsageError: no plain ViT, or a sound without a whole patch.
    """
    trunk = encoder.trunk
    if not isinstance(trunk, VisionTransformer):
        raise UsageError(f"{encoder.name} is no plain ViT, whose attention can leave out what is not there.")
    high, wide = trunk.patch_embed.patch_size
    rows, columns = x.shape[2] // high, x.shape[3] // wide
    valid = torch.arange(rows, device=x.device) < (lengths // high)[:, None]  # [B, rows]
    if not valid[:, 0].all():
        raise UsageError(f"A sound of fewer than {high} frames fills no patch of {encoder.name}.")
    valid = valid.repeat_interleave(columns, 1)
    seen = torch.cat([valid.new_ones(len(x), trunk.num_prefix_tokens), valid], dim=1)
    y = trunk.forward_features(x, attn_mask=seen[:, None, None].expand(-1, 1, seen.shape[1], -1))
    tokens = y[:, trunk.num_prefix_tokens :]
    if "cls" in encoder.can and trunk.global_pool == "token":
        return y[:, 0], tokens, valid
    return (tokens * valid[..., None]).sum(1) / valid.sum(1, keepdim=True), tokens, valid
