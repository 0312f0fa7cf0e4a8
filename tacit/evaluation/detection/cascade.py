"""The three box stages of Cascade R-CNN (Cai & Vasconcelos 2018), in the recipe of Swin."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import RoIHeads, maskrcnn_inference, maskrcnn_loss
from torchvision.ops import clip_boxes_to_image, generalized_box_iou_loss

IOUS = (0.5, 0.6, 0.7)
WEIGHTS = ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0))
LOSS_WEIGHTS = (1.0, 0.5, 0.25)  # of the stages, as published
GIOU_WEIGHT = 10.0


class CascadeRoIHeads(nn.Module):
    """Stages that refine one another's boxes; called as torchvision's RoIHeads is.

    In training each stage matches the boxes of the one before at its own threshold. Box loss is GIoU on decoded boxes.
    In test the class scores (logits) are averaged over the stages, boxes are the last stage's, and mask probabilities
    are averaged over the stages that have masks.
    """

    def __init__(self, stages: Iterable[RoIHeads]):
        super().__init__()
        self.stages = nn.ModuleList(stages)

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        sizes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        if self.training:
            return [], self._losses(features, proposals, sizes, targets)
        return self._detections(features, proposals, sizes), {}

    def _losses(self, features, proposals, sizes, targets) -> dict[str, Tensor]:
        losses = {}
        for i, (stage, weight) in enumerate(zip(self.stages, LOSS_WEIGHTS, strict=True)):
            sampled, matched, labels, _ = stage.select_training_samples(list(proposals), targets)
            scores, deltas = _regions(stage, features, sampled, sizes)
            flat = torch.cat(labels)
            losses[f"loss_classifier_{i}"] = weight * F.cross_entropy(scores, flat)
            decoded = stage.box_coder.decode(deltas, sampled)
            truth = torch.cat([_rows(t["boxes"], m) for t, m in zip(targets, matched, strict=True)])
            losses[f"loss_box_reg_{i}"] = weight * box_loss(decoded, truth, flat)
            if stage.has_mask():
                positive = [torch.where(one > 0)[0] for one in labels]
                regions = [boxes[p] for boxes, p in zip(sampled, positive, strict=True)]
                picked = [m[p] for m, p in zip(matched, positive, strict=True)]
                logits = _masks(stage, features, regions, sizes)
                masks, classes = ([t[k] for t in targets] for k in ("masks", "labels"))
                losses[f"loss_mask_{i}"] = weight * maskrcnn_loss(logits, regions, masks, classes, picked)
            if i + 1 < len(self.stages):
                choice = torch.where(flat > 0, flat, scores[:, 1:].argmax(1) + 1)
                refined = refine(decoded.detach(), choice, [len(b) for b in sampled], sizes)
                proposals = [
                    boxes[~_among(before, target["boxes"])]  # objects are added anew by the next stage
                    for boxes, before, target in zip(refined, sampled, targets, strict=True)
                ]
        return losses

    def _detections(self, features, proposals, sizes) -> list[dict[str, Tensor]]:
        total = 0.0
        for i, stage in enumerate(self.stages):
            scores, deltas = _regions(stage, features, proposals, sizes)
            total = total + scores
            if i + 1 < len(self.stages):
                decoded = stage.box_coder.decode(deltas, proposals).reshape(len(scores), -1, 4)
                proposals = refine(decoded, scores[:, 1:].argmax(1) + 1, [len(p) for p in proposals], sizes)
        last = self.stages[-1]
        found = last.postprocess_detections(total / len(self.stages), deltas, proposals, sizes)
        result = [
            {"boxes": b, "scores": s, "labels": label} for b, s, label in zip(*found, strict=True)
        ]  # fmt: skip
        with_masks = [stage for stage in self.stages if stage.has_mask()]
        if with_masks:
            boxes, labels = ([r[k] for r in result] for k in ("boxes", "labels"))
            each = [maskrcnn_inference(_masks(s, features, boxes, sizes), labels) for s in with_masks]
            for r, *masks in zip(result, *each, strict=True):
                r["masks"] = torch.stack(masks).mean(0)
        return result


def box_loss(decoded: Tensor, truth: Tensor, labels: Tensor) -> Tensor:
    """10 x GIoU loss of the positives' boxes, a sum over the number of all sampled regions.

    Args:
        decoded: [N, classes + 1, 4] in pixels; truth: [N, 4]; labels: [N], 0 for background.
    """
    positive = torch.where(labels > 0)[0]
    chosen = decoded.reshape(len(labels), -1, 4)[positive, labels[positive]]
    return GIOU_WEIGHT * generalized_box_iou_loss(chosen, truth[positive], reduction="sum") / max(len(labels), 1)


def refine(decoded: Tensor, classes: Tensor, counts: list[int], sizes: list[tuple[int, int]]) -> list[Tensor]:
    """Boxes [N, classes + 1, 4] -> each region's box of its class, by image, inside the image."""
    chosen = decoded[torch.arange(len(classes), device=classes.device), classes]
    return [clip_boxes_to_image(b, size) for b, size in zip(chosen.split(counts), sizes, strict=True)]


def _regions(stage: RoIHeads, features, proposals, sizes) -> tuple[Tensor, Tensor]:
    return stage.box_predictor(stage.box_head(stage.box_roi_pool(features, proposals, sizes)))


def _masks(stage: RoIHeads, features, boxes, sizes) -> Tensor:
    return stage.mask_predictor(stage.mask_head(stage.mask_roi_pool(features, boxes, sizes)))


def _rows(boxes: Tensor, matched: Tensor) -> Tensor:
    return boxes[matched] if len(boxes) else boxes.new_zeros(len(matched), 4)


def _among(boxes: Tensor, truth: Tensor) -> Tensor:
    """Which of `boxes` [N, 4] are the objects themselves."""
    return (boxes[:, None] == truth[None]).all(-1).any(1)
