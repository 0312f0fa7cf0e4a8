"""The papers' official repositories, for the jobs that they have. Run by benchmarks/jobs.py.

OFFICIAL names a folder of clones: `dino` (facebookresearch, seen at 7c446df), `Transformer-SSL` (SwinTransformer,
4510de1; needs yacs and diffdist), `mae` (facebookresearch, efb2a80) and `moco-v3` (facebookresearch, c349e6e). Modules,
losses and views are theirs; what their scripts write out between two calls, momentum and clipping, is here. They are of
2021 and for GPUs: lines marked `new` say again what timm, numpy or torch have since renamed, and `cuda` stays on the
CPU. So MAE's and MoCo v3's blocks are those of the timm that is there: its attention is torch's fused one, where the
timm of their day had plain products, which TIMM_FUSED_ATTN=0 brings back.
"""

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import timm
import torch
import torch.distributed as dist
from loop import train  # beside this file
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torchvision import transforms

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # their losses gather
torch.Tensor.cuda = lambda tensor, *_, **__: tensor  # their labels go to a GPU
nn.SyncBatchNorm.convert_sync_batchnorm = lambda module: module  # which takes GPUs alone, and is BatchNorm on one


def clone(name: str) -> Path:
    """That repository's folder, whose modules can be imported from now on."""
    folder = Path(os.environ["OFFICIAL"], name)
    sys.path.insert(0, str(folder))
    return folder


def between(act: Callable[[], object]) -> None:
    """`act` comes between the backward pass and the optimiser's step."""

    def hook(*_) -> None:
        act()

    register_optimizer_step_pre_hook(hook)


def dino():
    clone("dino")
    import main_dino
    import utils
    import vision_transformer

    student, teacher = (
        utils.MultiCropWrapper(vision_transformer.vit_tiny(16, drop_path_rate=drop), main_dino.DINOHead(192, 65536))
        for drop in (0.1, 0.0)
    )
    teacher.load_state_dict(student.state_dict())
    teacher.requires_grad_(False)
    criterion = main_dino.DINOLoss(65536, 8, 0.04, 0.04, 0, 100)

    def gradients():
        utils.clip_gradients(student, 3.0)
        utils.cancel_gradients_last_layer(0, student, 1)

    def loss(views):
        with torch.no_grad():
            for slow, fast in zip(teacher.parameters(), student.parameters(), strict=True):
                slow.mul_(0.996).add_(0.004 * fast)
        targets = teacher(views[:2])
        return criterion(student(views), targets, 0)

    between(gradients)
    return main_dino.DataAugmentationDINO((0.4, 1.0), (0.05, 0.4), 6), nn.ModuleList([student, teacher]), loss


def moby():
    folder = clone("Transformer-SSL")
    timm.models.vit_deit_small_patch16_224 = timm.models.deit_small_patch16_224  # new
    timm.data.transforms._pil_interp = timm.data.transforms.str_to_pil_interp  # new
    import config
    from data.build import build_transform
    from models import build_model

    options = config._C.clone()
    options.merge_from_file(str(folder / "configs" / "moby_swin_tiny.yaml"))
    options.DATA.TRAINING_IMAGES = 1_281_167
    model, both = build_model(options), build_transform(True, options)
    between(lambda: nn.utils.clip_grad_norm_(model.parameters(), options.TRAIN.CLIP_GRAD))
    return lambda image: [view(image) for view in both], model, lambda views: model(*views)


def mae():
    clone("mae")
    np.float = float  # noqa: NPY001 new
    import models_mae

    block = models_mae.Block
    models_mae.Block = lambda *sizes, qk_scale, **others: block(*sizes, **others)  # new
    model = models_mae.MaskedAutoencoderViT(
        patch_size=16, embed_dim=384, depth=12, num_heads=6, decoder_embed_dim=512, decoder_depth=8,
        decoder_num_heads=16, norm_layer=partial(nn.LayerNorm, eps=1e-6), norm_pix_loss=True,
    )  # fmt: skip
    view = transforms.Compose([
        transforms.RandomResizedCrop(224, scale=(0.2, 1.0), interpolation=transforms.InterpolationMode.BICUBIC),
        transforms.RandomHorizontalFlip(), transforms.ToTensor(), transforms.Normalize(MEAN, STD),
    ])  # fmt: skip
    return view, model, lambda images: model(images, mask_ratio=0.75)[0]


def moco_v3():
    clone("moco-v3")
    sys.modules["timm.models.layers.helpers"] = timm.layers  # new
    timm.models.vision_transformer.VisionTransformer.num_tokens = 1  # new
    import vits
    from moco import builder, loader

    def view(blur: float, solarize: float):
        return transforms.Compose([
            transforms.RandomResizedCrop(224, scale=(0.08, 1.0)),
            transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
            transforms.RandomGrayscale(p=0.2),
            transforms.RandomApply([loader.GaussianBlur()], p=blur),
            transforms.RandomApply([loader.Solarize()], p=solarize),
            transforms.RandomHorizontalFlip(), transforms.ToTensor(), transforms.Normalize(MEAN, STD),
        ])  # fmt: skip

    model = builder.MoCo_ViT(partial(vits.vit_small, stop_grad_conv1=True), T=0.2)
    return loader.TwoCropsTransform(view(1.0, 0.0), view(0.1, 0.2)), model, lambda views: model(*views, 0.99)


train({"dino": dino, "moby": moby, "mae": mae, "moco_v3": moco_v3})
