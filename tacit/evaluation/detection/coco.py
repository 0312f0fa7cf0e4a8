"""COCO's instances_*.json and a folder of images, read with what cannot be used counted and named."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tacit.errors import BadRecord, DataError
from tacit.evaluation.detection.sets import DetectionSet, Scene, Thing, check_set, find_file, fit_box, image_size


def read_coco(path: str | os.PathLike, images: str | os.PathLike | None = None, *, masks: bool = False) -> DetectionSet:
    """Objects of a COCO file.

    Args:
        path: the JSON file (instances_train2017.json).
        images: the folder that its file names start from; the JSON's own folder when left out.
        masks: read segmentations (polygons or run-length codes) too; an object without one is then left out.

    Images without objects stay, as negatives. Left out and listed in `skipped`: images that are not there; objects of
    an unknown image or category, with no area, outside their image, or without the mask that was asked for. Boxes that
    reach over the border are clipped.

    Raises:
        DataError: no JSON, no COCO, ids that occur twice, or nothing left.
    """
    path = Path(path)
    folder = Path(images) if images is not None else path.parent
    about = _read(path)
    categories = _categories(about["categories"], path)
    order = sorted(categories)
    labels = {c: i + 1 for i, c in enumerate(order)}
    skipped: list[tuple[str, str]] = []
    of_image, clipped = defaultdict(list), 0
    entries = _images(about["images"], folder, path, skipped)
    named = {str(entry["id"]): entry["file_name"] for entry in about["images"]}
    for annotation in about["annotations"]:
        where = f"annotation {annotation.get('id', '?')} of {named.get(str(annotation.get('image_id')), path.name)}"
        scene = entries.get(annotation.get("image_id")) if isinstance(annotation.get("image_id"), int) else None
        if scene is None:
            if str(annotation.get("image_id")) not in named:
                skipped.append((where, f"annotation of an unknown image: {annotation.get('image_id')!r}"))
            continue
        try:
            thing, cut = _thing(annotation, scene, labels, masks)
        except BadRecord as error:
            skipped.append((where, str(error)))
            continue
        of_image[scene.id].append(thing)
        clipped += cut
    scenes = tuple(replace(scene, things=tuple(of_image[scene.id])) for scene in entries.values())
    names = tuple(categories[c] for c in order)
    return check_set(DetectionSet(scenes, names, tuple(order), masks, tuple(skipped), clipped), path)


def _read(path: Path) -> dict[str, Any]:
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist. Give a COCO file such as instances_train2017.json.") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is no JSON ({type(error).__name__}: {str(error)[:120]}).") from error
    for part in ("images", "annotations", "categories"):
        rows = about.get(part) if isinstance(about, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise DataError(f"{path} is no COCO file: it has no list {part!r} of objects.")
    return about


def _categories(rows: list[dict], path: Path) -> dict[int, str]:
    found: dict[int, str] = {}
    for row in rows:
        if not isinstance(row.get("id"), int):
            raise DataError(f"{path}: the category {row.get('name')!r} has no whole number as its id.")
        if row["id"] in found:
            raise DataError(f"{path}: two categories have the id {row['id']}.")
        found[row["id"]] = str(row.get("name", row["id"]))
    if not found:
        raise DataError(f"{path}: there are no categories.")
    return found


def _images(rows: list[dict], folder: Path, path: Path, skipped: list) -> dict[int, Scene]:
    found: dict[int, Scene] = {}
    seen = set()
    for row in rows:
        if not isinstance(row.get("id"), int) or not isinstance(row.get("file_name"), str):
            raise DataError(f"{path}: an image has no whole number as its id, or no file_name: {str(row)[:120]}")
        if row["id"] in seen:
            raise DataError(f"{path}: two images have the id {row['id']}.")
        seen.add(row["id"])
        file = find_file(folder, row["file_name"])
        if file is None:
            skipped.append((row["file_name"], f"image not there: in {folder}"))
            continue
        size = row.get("height"), row.get("width")
        try:
            height, width = size if all(isinstance(n, int) and n > 0 for n in size) else image_size(file)
        except BadRecord as error:
            skipped.append((row["file_name"], str(error)))
            continue
        found[row["id"]] = Scene(row["id"], file, height, width)
    return found


def _thing(annotation: dict, scene: Scene, labels: dict[int, int], masks: bool) -> tuple[Thing, bool]:
    label = labels.get(annotation.get("category_id")) if isinstance(annotation.get("category_id"), int) else None
    if label is None:
        raise BadRecord(f"unknown category: {annotation.get('category_id')!r}")
    box = annotation.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(v, int | float) for v in box):
        raise BadRecord(f"a box is not four numbers: {box!r}"[:120])
    inside, cut = fit_box((box[0], box[1], box[0] + box[2], box[1] + box[3]), scene.height, scene.width)
    area = annotation.get("area")
    if not isinstance(area, int | float) or not area > 0:
        area = (inside[2] - inside[0]) * (inside[3] - inside[1])
    mask = _mask(annotation.get("segmentation"), scene) if masks else None
    return Thing(inside, label, float(area), bool(annotation.get("iscrowd")), mask), cut


def _mask(mask: Any, scene: Scene) -> Any:
    if not mask:
        raise BadRecord("no mask")
    if isinstance(mask, list):
        if all(isinstance(p, list) and len(p) >= 6 and len(p) % 2 == 0 and np.isfinite(p).all() for p in mask):
            return mask
        raise BadRecord("a mask is no list of polygons with three points or more")
    if not isinstance(mask, dict) or not isinstance(mask.get("counts"), list | str):
        raise BadRecord("a mask is neither polygons nor a run-length code")
    if mask.get("size") != [scene.height, scene.width]:
        raise BadRecord(f"a mask has another size than its image: {mask.get('size')}")
    if isinstance(mask["counts"], list) and sum(mask["counts"]) != scene.height * scene.width:
        raise BadRecord("a run-length code does not fill its image")
    return mask
