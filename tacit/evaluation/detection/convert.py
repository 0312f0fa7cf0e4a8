"""A set in the classes of another, and as a COCO document."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tacit.errors import BadRecord, DataError
from tacit.evaluation.detection.masks import encode_mask, read_map
from tacit.evaluation.detection.sets import DetectionSet, check_set


def match_classes(test: DetectionSet, train: DetectionSet) -> DetectionSet:
    """`test` with the labels and category ids that `train` gives to classes of the same name.

    Objects of classes that `train` does not have are left out and counted: no detector could find them.

    Raises:
        DataError: nothing is left.
    """
    labels = {name: i + 1 for i, name in enumerate(train.classes)}
    scenes, skipped = [], list(test.skipped)
    for scene in test.scenes:
        named = [(thing, test.classes[thing.label - 1]) for thing in scene.things]
        skipped += [(scene.path.name, f"class not in the training set: {n}") for _, n in named if n not in labels]
        scenes.append(replace(scene, things=tuple(replace(t, label=labels[n]) for t, n in named if n in labels)))
    found = replace(
        test, scenes=tuple(scenes), classes=train.classes, category_ids=train.category_ids, skipped=tuple(skipped)
    )
    return check_set(found, test.scenes[0].path.parent)


def to_coco(data: DetectionSet, *, masks: bool | None = None) -> dict[str, Any]:
    """The set as a COCO document, with the file's own image and category ids: what the scorer compares with.

    Raises:
        DataError: an instance map that could be read before cannot be read any more.
    """
    masks = data.masks if masks is None else masks
    annotations = []
    for scene in data.scenes:
        try:
            instances = read_map(scene.map) if masks and scene.map is not None and scene.things else None
        except BadRecord as error:
            raise DataError(f"{scene.map}: {error}") from error
        for thing in scene.things:
            x1, y1, x2, y2 = thing.box
            entry = {
                "id": len(annotations) + 1,
                "image_id": scene.id,
                "category_id": data.category_ids[thing.label - 1],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": thing.area,
                "iscrowd": int(thing.crowd),
            }
            if masks:
                code = encode_mask(thing.mask, scene.height, scene.width, instances)
                counts = code["counts"].decode() if isinstance(code["counts"], bytes) else code["counts"]
                entry["segmentation"] = {"size": [scene.height, scene.width], "counts": counts}
            annotations.append(entry)
    return {
        "images": [
            {"id": s.id, "file_name": s.path.name, "height": s.height, "width": s.width} for s in data.scenes
        ],
        "categories": [{"id": i, "name": n} for i, n in zip(data.category_ids, data.classes, strict=True)],
        "annotations": annotations,
    }  # fmt: skip
