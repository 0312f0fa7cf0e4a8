"""lightly's parts put together as its documentation does, for the jobs that it has. Run by benchmarks/jobs.py."""

import copy
from collections.abc import Callable

import timm
import torch
from lightly.loss import DINOLoss, NTXentLoss
from lightly.models import utils
from lightly.models.modules import (
    DINOProjectionHead,
    MAEDecoderTIMM,
    MaskedVisionTransformerTIMM,
    MoCoProjectionHead,
)
from lightly.transforms import DINOTransform, MAETransform, MoCoV2Transform
from loop import train  # beside this file
from torch import nn


class Momentum(nn.Module):
    """A trunk and a head, and their momentum copies."""

    def __init__(self, trunk: nn.Module, head: Callable[[], nn.Module]):
        super().__init__()
        self.trunk, self.head = trunk, head()
        self.slow_trunk, self.slow_head = copy.deepcopy(trunk), head()
        utils.deactivate_requires_grad(self.slow_trunk)
        utils.deactivate_requires_grad(self.slow_head)

    def follow(self, momentum: float) -> None:
        utils.update_momentum(self.trunk, self.slow_trunk, m=momentum)
        utils.update_momentum(self.head, self.slow_head, m=momentum)


def moby():
    """Its nearest to MoBY: MoCo v2 with Swin-T, both views as queries, one queue."""
    trunk = timm.create_model("swin_tiny_patch4_window7_224", num_classes=0, drop_path_rate=0.2)
    model = Momentum(trunk, lambda: MoCoProjectionHead(768, 4096, 256))
    criterion = NTXentLoss(temperature=0.2, memory_bank_size=(4096, 256))

    def loss(views):
        model.follow(0.99)
        a, b = (model.head(model.trunk(view)) for view in views)
        with torch.no_grad():
            ka, kb = (model.slow_head(model.slow_trunk(view)) for view in views)
        return criterion(a, kb) + criterion(b, ka)

    return MoCoV2Transform(input_size=224), model, loss


def dino():
    trunk = timm.create_model("vit_tiny_patch16_224", num_classes=0, dynamic_img_size=True, drop_path_rate=0.1)
    model = Momentum(trunk, lambda: DINOProjectionHead(192, 2048, 256, 65536, freeze_last_layer=1))
    criterion = DINOLoss(output_dim=65536, warmup_teacher_temp_epochs=5)

    def loss(views):
        model.follow(0.996)
        with torch.no_grad():
            teacher = [model.slow_head(model.slow_trunk(view)) for view in views[:2]]
        student = [model.head(model.trunk(view)) for view in views]
        return criterion(teacher, student, epoch=0)

    return DINOTransform(n_local_views=6), model, loss


def mae():
    vit = timm.create_model("vit_small_patch16_224", num_classes=0)
    trunk = MaskedVisionTransformerTIMM(vit=vit)
    decoder = MAEDecoderTIMM(
        num_patches=196, patch_size=16, embed_dim=384, decoder_embed_dim=512, decoder_depth=8, decoder_num_heads=16
    )

    def loss(views):
        images = views[0]
        size = (len(images), trunk.sequence_length)
        keep, hidden = utils.random_token_mask(size, mask_ratio=0.75, device=images.device)
        seen = decoder.embed(trunk.encode(images, idx_keep=keep))
        tokens = utils.repeat_token(decoder.mask_token, size)
        tokens = utils.set_at_index(tokens, keep, seen.type_as(tokens))
        made = decoder.predict(utils.get_at_index(decoder.decode(tokens), hidden))
        wanted = utils.get_at_index(utils.patchify(images, 16), hidden - 1)
        return nn.functional.mse_loss(made, wanted)

    return MAETransform(), nn.ModuleList([trunk, decoder]), loss


def simmim():
    vit = timm.create_model("vit_small_patch16_224", num_classes=0)
    trunk, decoder = MaskedVisionTransformerTIMM(vit=vit), nn.Linear(384, 768)

    def loss(views):
        images = views[0]
        size = (len(images), trunk.sequence_length)
        _, hidden = utils.random_token_mask(size, mask_ratio=0.6, device=images.device)
        made = decoder(utils.get_at_index(trunk.encode(images, idx_mask=hidden), hidden))
        return nn.functional.l1_loss(made, utils.get_at_index(utils.patchify(images, 16), hidden - 1))

    return MAETransform(), nn.ModuleList([trunk, decoder]), loss


train({"moby": moby, "dino": dino, "mae": mae, "simmim": simmim})
