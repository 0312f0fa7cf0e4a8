"""Folders of images beside Pascal VOC boxes (XML) or instance maps (16-bit PNG), one file an image."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from tacit.data.picture import EXTENSIONS
from tacit.errors import BadRecord, DataError
from tacit.evaluation.detection.coco import read_coco
from tacit.evaluation.detection.masks import read_map
from tacit.evaluation.detection.sets import DetectionSet, Scene, Thing, check_set, find_file, fit_box, image_size


def open_set(path: str | os.PathLike, images: str | os.PathLike | None = None, *, masks: bool = False) -> DetectionSet:
    """A detection set, by what lies at `path`: a COCO .json, or a folder with images/ and annotations/ or labels/.

    Raises:
        DataError: neither, or as the readers `read_coco`, `read_voc` and `read_maps` say.
    """
    path = Path(path)
    if path.suffix == ".json":
        return read_coco(path, images, masks=masks)
    if (path / "annotations").is_dir() and not masks:
        return read_voc(path / "images", path / "annotations")
    if (path / "labels").is_dir():
        return read_maps(path / "images", path / "labels")
    wanted = "masks, which VOC files do not hold" if (path / "annotations").is_dir() else "objects"
    raise DataError(
        f"{path} holds no {wanted}. Give a COCO file (.json), or a folder with images/ and annotations/*.xml (boxes) "
        "or labels/*.png (instance maps: 0 is background, every other value one object)."
    )


def read_voc(images: str | os.PathLike, annotations: str | os.PathLike) -> DetectionSet:
    """Boxes of Pascal VOC XML files (one-based, last pixel included), by the XML's stem or its <filename>.

    Classes are sorted by name. An XML without objects is a negative; an image without an XML is left out, since
    nobody says that it is empty. Objects marked difficult are ordinary ones.

    Raises:
        DataError: no such folder, or nothing left.
    """
    images, annotations = Path(images), Path(annotations)
    files = _files(images)
    skipped: list[tuple[str, str]] = []
    found, used, clipped = [], set(), 0
    for xml in sorted(annotations.glob("*.xml")):
        try:
            root = ElementTree.parse(xml).getroot()
            name = (root.findtext("filename") or "").strip()
            file = files.get(xml.stem) or (find_file(images, Path(name).name) if name else None)
            if file is None:
                raise BadRecord(f"image not there: {name or xml.stem}")
            used.add(file)
            height, width = image_size(file)
        except (ElementTree.ParseError, OSError, ValueError) as error:
            used.add(files.get(xml.stem))
            skipped.append((xml.name, f"no XML ({type(error).__name__}): {str(error)[:80]}"))
            continue
        except BadRecord as error:
            skipped.append((xml.name, str(error)))
            continue
        objects = []
        for node in root.iter("object"):
            try:
                box, cut = fit_box(_voc_box(node), height, width)
                objects.append(((node.findtext("name") or "").strip() or "object", box))
                clipped += cut
            except BadRecord as error:
                skipped.append((xml.name, str(error)))
        found.append((Scene(len(found) + 1, file, height, width), objects))
    skipped += [(f.name, "image without annotations") for f in files.values() if f not in used]
    classes = sorted({name for _, objects in found for name, _ in objects})
    scenes = tuple(
        replace(scene, things=tuple(Thing(b, classes.index(n) + 1, (b[2] - b[0]) * (b[3] - b[1])) for n, b in objects))
        for scene, objects in found
    )
    ids = tuple(range(1, len(classes) + 1))
    return check_set(DetectionSet(scenes, tuple(classes), ids, False, tuple(skipped), clipped), annotations)


def read_maps(images: str | os.PathLike, labels: str | os.PathLike, *, name: str = "object") -> DetectionSet:
    """Objects of one class from instance maps: 0 is background, every other value one object.

    Raises:
        DataError: no such folder, or nothing left.
    """
    images, labels = Path(images), Path(labels)
    files = _files(images)
    skipped: list[tuple[str, str]] = []
    scenes = []
    for path in sorted(labels.glob("*.png")):
        try:
            if path.stem not in files:
                raise BadRecord("image not there")
            values = read_map(path)
            height, width = image_size(files[path.stem])
            if values.shape != (height, width):
                raise BadRecord(
                    f"image and map differ in size: {width} x {height}, {values.shape[1]} x {values.shape[0]}"
                )
        except BadRecord as error:
            skipped.append((path.name, str(error)))
            continue
        scenes.append(Scene(len(scenes) + 1, files[path.stem], height, width, instances(values), path))
    named = {path.stem for path in labels.glob("*.png")}
    skipped += [(f.name, "image without annotations") for stem, f in files.items() if stem not in named]
    return check_set(DetectionSet(tuple(scenes), (name,), (1,), True, tuple(skipped)), labels)


def instances(values: np.ndarray) -> tuple[Thing, ...]:
    """The objects of an instance map [H, W], each with the tightest box around it."""
    found = []
    for value in np.unique(values[values > 0]):
        ys, xs = np.nonzero(values == value)
        box = (float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1))
        found.append(Thing(box, 1, float(len(ys)), mask=int(value)))
    return tuple(found)


def _voc_box(node: ElementTree.Element) -> list[float]:
    try:
        x1, y1, x2, y2 = (float(node.findtext(f"bndbox/{k}")) for k in ("xmin", "ymin", "xmax", "ymax"))
    except (TypeError, ValueError) as error:
        raise BadRecord("a box is not four numbers") from error
    return [x1 - 1, y1 - 1, x2, y2]


def _files(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder of images.")
    return {f.stem: f for f in sorted(folder.iterdir()) if f.suffix.lower() in EXTENSIONS}
