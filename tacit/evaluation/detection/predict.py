"""What a trained detector finds in the images of a set, as COCO results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from tacit.errors import BadRecord, DataError
from tacit.evaluation.detection.masks import mask_tools
from tacit.evaluation.detection.sets import DetectionSet, read_image


@torch.no_grad()
def predict(
    model: nn.Module,
    data: DetectionSet,
    *,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """Detections of every image, the model in eval mode.

    Returns:
        COCO results (image_id, category_id, bbox (x, y, w, h) in pixels, score and, of a model with masks, segmentation
        as a run-length code of the probability above 1/2), and (name, reason) of images that cannot be read; these
        count as images in which nothing was found.

    Raises:
        DataError: no image can be read. MissingExtra: masks without pycocotools.
    """
    model = model.to(device).eval()
    channels = len(model.transform.image_mean)
    found, bad = [], []
    for done, scene in enumerate(data.scenes, 1):
        try:
            image = read_image(scene, channels)
        except BadRecord as error:
            bad.append((scene.path.name, str(error)))
            continue
        result = {k: v.cpu() for k, v in model([image.to(device)])[0].items()}
        masks = [None] * len(result["boxes"])
        if "masks" in result:
            masks = [_code(m > 0.5) for m in result["masks"][:, 0].numpy()]
        for (x1, y1, x2, y2), label, score, mask in zip(
            result["boxes"].tolist(), result["labels"].tolist(), result["scores"].tolist(), masks, strict=True
        ):
            entry = {
                "image_id": scene.id,
                "category_id": data.category_ids[label - 1],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": score,
            }
            found.append(entry if mask is None else {**entry, "segmentation": mask})
        if progress is not None:
            progress(done, len(data))
    if len(bad) == len(data):
        raise DataError(f"None of the {len(data):,} images can be read; the first: {bad[0][0]}: {bad[0][1]}.")
    return found, bad


def _code(mask: np.ndarray) -> dict[str, Any]:
    code = mask_tools().encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(code["size"]), "counts": code["counts"].decode()}
