"""Where segmentation sets keep their files: ADE20K's, VOC's and the plain layout, opened as `Segmented` parts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tacit.data.picture import EXTENSIONS
from tacit.errors import DataError, Unknown
from tacit.evaluation.dense.masks import Segmented, count_classes

TRAIN, TEST = ("train", "training"), ("test", "val", "validation")
MASK_FOLDERS = ("masks", "labels", "annotations")
Pairs = tuple[list[tuple[str, Path, Path]], list[tuple[str, str]]]  # (name, image, mask) and (name, reason)


def open_segmentation(
    root: str | os.PathLike,
    *,
    layout: str = "auto",
    classes: int | None = None,
    ignore: int | str | None = "auto",
    foreground: bool = False,
    channels: int = 3,
) -> tuple[Segmented, Segmented]:
    """Training and test part of a folder of images with masks.

    Args:
        layout: "ade20k": images/{training,validation} and annotations/ alike, 0 ignored, 150 classes if not said;
            "voc": JPEGImages, SegmentationClass and ImageSets/Segmentation/{train,val}.txt, 21 classes if not said;
            "plain": train/ and test/ (or val/), each with images/ and masks/ or labels/ of equal stems; "auto".
        classes: how many; by the values of the training masks in the plain layout.
        ignore: the value that is no class, None when every value is one; "auto" is 255, and None with `foreground`.
        foreground: read every value but 0 as class 1, for maps of instances.

    Raises:
        Unknown: no such layout. DataError: not that layout, nothing in it, or masks that cannot be what was meant.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root} is not a folder.")
    if layout not in ("auto", *LAYOUTS):
        raise Unknown("layout", layout, ["auto", *LAYOUTS])
    fitting = [name for name, (fits, _) in LAYOUTS.items() if fits(root)]
    if not fitting or layout not in ("auto", *fitting):
        raise DataError(
            f"{root} is not laid out as {'any known set' if layout == 'auto' else layout}. It must hold "
            "images/training and annotations/training (ade20k), JPEGImages and SegmentationClass (voc), or train/ and "
            "test/ with images/ and masks/ in each (plain)."
        )
    layout = fitting[0] if layout == "auto" else layout
    parts = [LAYOUTS[layout][1](root, names) for names in (TRAIN, TEST)]
    zero_is_none = layout == "ade20k" and not foreground
    ignore = (None if foreground else 255) if ignore == "auto" else ignore
    if foreground:
        classes = 2
    elif classes is None:
        masks = [mask for _, _, mask in parts[0][0]]
        given = {"ade20k": 150, "voc": 21}.get(layout)
        classes = given or count_classes(masks, ignore=ignore, zero_is_none=zero_is_none)
    options: dict[str, Any] = {"ignore": ignore, "zero_is_none": zero_is_none, "foreground": foreground}
    return tuple(
        Segmented(
            images=tuple(image for _, image, _ in pairs), masks=tuple(mask for _, _, mask in pairs),
            names=tuple(name for name, _, _ in pairs), classes=classes, channels=channels,
            title=f"{root}, {which}", skipped=tuple(skipped), **options,
        )
        for which, (pairs, skipped) in zip(("training", "test"), parts, strict=True)
    )  # fmt: skip


def _folder(root: Path, names: tuple[str, ...]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)


def _ade20k(root: Path, part: tuple[str, ...]) -> Pairs:
    images, masks = _folder(root / "images", part), _folder(root / "annotations", part)
    if images is None or masks is None:
        raise DataError(f"{root} has no images/{part[-1]} with annotations/{part[-1]}.")
    return paired(images, masks)


def _voc(root: Path, part: tuple[str, ...]) -> Pairs:
    name = "train" if part is TRAIN else "val"
    listing = root / "ImageSets" / "Segmentation" / f"{name}.txt"
    if not listing.is_file():
        raise DataError(f"{listing} does not exist; it lists the images of that part, one stem a line.")
    wanted = listing.read_text(encoding="utf-8").split()
    return paired(root / "JPEGImages", root / "SegmentationClass", wanted)


def _plain(root: Path, part: tuple[str, ...]) -> Pairs:
    folder = _folder(root, part)
    if folder is None:
        raise DataError(f"{root} has no folder {' or '.join(part)}.")
    masks = _folder(folder, MASK_FOLDERS)
    if masks is None or not (folder / "images").is_dir():
        raise DataError(f"{folder} must hold images/ and masks/ or labels/.")
    return paired(folder / "images", masks)


LAYOUTS = {
    "ade20k": (lambda root: (root / "annotations").is_dir() and (root / "images").is_dir(), _ade20k),
    "voc": (lambda root: (root / "SegmentationClass").is_dir(), _voc),
    "plain": (lambda root: _folder(root, TRAIN) is not None, _plain),
}


def paired(images: Path, masks: Path, wanted: list[str] | None = None) -> Pairs:
    """Images and masks of equal stems (paths below their folders without the ending), in the order of the stems.

    What has no partner, or several, is left out with a reason. Raises `DataError` when no pair remains.
    """
    pictures, labels = _by_stem(images), _by_stem(masks)
    pairs, skipped = [], []
    for stem in sorted(pictures) if wanted is None else wanted:
        found = {"image": pictures.get(stem, []), "mask": labels.get(stem, [])}
        wrong = next(((what, paths) for what, paths in found.items() if len(paths) != 1), None)
        if wrong is not None:
            what, paths = wrong
            where = (images if what == "image" else masks).name
            many = f"several files of that stem in {where}: {', '.join(p.name for p in paths)}"
            skipped.append((stem, many if paths else f"no {what} of that stem in {where}"))
        else:
            pairs.append((found["image"][0].relative_to(images).as_posix(), found["image"][0], found["mask"][0]))
    if wanted is None:
        alone = sorted(labels.keys() - pictures.keys())
        skipped += [(stem, f"a mask without an image in {images.name}") for stem in alone]
    if not pairs:
        example = f" For example {skipped[0][0]}: {skipped[0][1]}." if skipped else " They are empty."
        raise DataError(f"No image of {images} has a mask of the same stem in {masks}.{example}")
    return pairs, skipped


def _by_stem(folder: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in EXTENSIONS and not path.name.startswith(".") and path.is_file():
            found.setdefault(path.relative_to(folder).with_suffix("").as_posix(), []).append(path)
    return found
