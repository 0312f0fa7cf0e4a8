"""Mask R-CNN and Cascade Mask R-CNN on torchvision's parts, over the feature pyramid of any encoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import LevelMapper

from tacit.encoders import Encoder
from tacit.errors import UsageError
from tacit.evaluation.detection.cascade import IOUS, WEIGHTS, CascadeRoIHeads
from tacit.evaluation.detection.pyramid import Pyramid

MODELS = ("mask_rcnn", "cascade_mask_rcnn")


def detector(
    name: str,
    encoder: Encoder,
    classes: int,
    *,
    masks: bool = True,
    masks_on: str = "all",
    frozen: bool = False,
    drop_path: float = 0.0,
    channels: int = 256,
    hidden: int = 1024,
    rois: int = 512,
    proposals: tuple[int, int] = (2000, 1000),
    size: tuple[int, int] = (800, 1333),
) -> GeneralizedRCNN:
    """A detector over a copy of `encoder`: torchvision's protocol, images [C, H, W] in [0, 1] of any sizes.

    Args:
        name: "mask_rcnn" (He et al. 2017) or "cascade_mask_rcnn" (Cai & Vasconcelos 2018, in the recipe of Swin).
        classes: how many there are, background not counted; labels are 1 to `classes`.
        masks: with a mask branch. masks_on: of the cascade, on "all" stages (as in Swin's recipe) or the "last".
        frozen: the encoder is left as it is, in eval mode. drop_path: its stochastic depth otherwise.
        channels, hidden: widths of the pyramid and of the fully connected layers.
        rois: regions an image that losses are taken of. proposals: kept in training and in test.
        size: short side, and most of the long one, that images are resized to in eval mode. In train mode they are
            taken as they are.

    In train mode the model returns its losses by name, in eval mode boxes, labels, scores and masks [N, 1, H, W] at
    the scale of the given images.

    Raises:
        UsageError: no such model or setting, no class, or an encoder that cannot carry one (see `pyramid.maps_of`).
    """
    if name not in MODELS or masks_on not in ("all", "last") or classes < 1:
        raise UsageError(
            f"No detector {name!r} with masks_on={masks_on!r} and {classes} classes: the model is one of "
            f"{', '.join(MODELS)}, masks_on is 'all' or 'last', and there is at least one class."
        )
    pyramid = Pyramid(encoder, channels=channels, frozen=frozen, drop_path=drop_path)
    limits = dict(zip(("training", "testing"), proposals, strict=True))
    anchors = Anchors(pyramid.strides)
    rpn = RegionProposalNetwork(
        anchors, RPNHead(channels, 3), fg_iou_thresh=0.7, bg_iou_thresh=0.3, batch_size_per_image=256,
        positive_fraction=0.5, pre_nms_top_n=limits, post_nms_top_n=limits, nms_thresh=0.7,
    )  # fmt: skip
    common = {
        "positive_fraction": 0.25, "batch_size_per_image": rois, "score_thresh": 0.05, "nms_thresh": 0.5,
        "detections_per_img": 100,
    }  # fmt: skip

    def stage(head: nn.Module, iou: float, weights: tuple, mask: bool) -> RoIHeads:
        parts = {}
        if mask:
            parts = {
                "mask_roi_pool": pool(pyramid, 14),
                "mask_head": MaskRCNNHeads(channels, (channels,) * 4, dilation=1),
                "mask_predictor": MaskRCNNPredictor(channels, channels, classes + 1),
            }
        return RoIHeads(
            pool(pyramid, 7), head, FastRCNNPredictor(hidden, classes + 1), fg_iou_thresh=iou, bg_iou_thresh=iou,
            bbox_reg_weights=weights, **common, **parts,
        )  # fmt: skip

    if name == "mask_rcnn":
        heads = stage(TwoMLPHead(channels * 49, hidden), 0.5, WEIGHTS[0], masks)
    else:
        heads = CascadeRoIHeads(
            stage(
                FastRCNNConvFCHead((channels, 7, 7), [channels] * 4, [hidden], norm_layer=nn.BatchNorm2d),
                iou, weights, masks and (masks_on == "all" or i == len(IOUS) - 1),
            )
            for i, (iou, weights) in enumerate(zip(IOUS, WEIGHTS, strict=True))
        )  # fmt: skip
    inputs = encoder.inputs
    transform = GeneralizedRCNNTransform(
        size[0], size[1], list(inputs.mean), list(inputs.std), size_divisible=pyramid.multiple, _skip_resize=True
    )
    return GeneralizedRCNN(pyramid, rpn, heads, transform)


class Anchors(AnchorGenerator):
    """One size a level, 8 strides, in three shapes; torchvision infers strides from padded sizes, these are known."""

    def __init__(self, strides: list[int]):
        super().__init__(tuple((8 * s,) for s in strides), ((0.5, 1.0, 2.0),) * len(strides))
        self.strides = strides

    def forward(self, image_list, feature_maps: list[Tensor]) -> list[Tensor]:
        first = feature_maps[0]
        self.set_cell_anchors(first.dtype, first.device)
        steps = [[torch.tensor(s, device=first.device)] * 2 for s in self.strides]
        anchors = torch.cat(self.grid_anchors([m.shape[-2:] for m in feature_maps], steps))
        return [anchors for _ in image_list.image_sizes]


def pool(pyramid: Pyramid, size: int) -> MultiScaleRoIAlign:
    """RoIAlign on the level that a region's size calls for (Lin et al. 2017, equation 1).

    torchvision would infer the levels' scales from the first batch, wrongly where images are padded to a large
    multiple, and keep them.
    """
    align = MultiScaleRoIAlign(pyramid.names, output_size=size, sampling_ratio=0)
    strides = pyramid.strides[: len(pyramid.names)]
    align.scales = [1 / s for s in strides]
    lowest = strides[0].bit_length() - 1
    align.map_levels = LevelMapper(lowest, lowest + len(strides) - 1)
    return align
