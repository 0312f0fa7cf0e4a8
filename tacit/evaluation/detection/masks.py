"""Masks as files hold them: polygons, COCO's run-length codes, and values of an instance map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tacit.errors import BadRecord, MissingExtra


def read_map(path: Path) -> np.ndarray:
    """Integers [H, W]: 0 is background, every other value one object."""
    try:
        with Image.open(path) as image:
            values = np.asarray(image)
    except (OSError, ValueError) as error:
        raise BadRecord(f"its instance map cannot be read ({type(error).__name__})") from error
    if values.ndim != 2 or values.dtype.kind not in "ui":
        raise BadRecord(f"its instance map is no picture of whole numbers: {list(values.shape)} of {values.dtype}")
    return values


def mask_tools():
    try:
        from pycocotools import mask
    except ImportError as error:
        raise MissingExtra("Detection (COCO masks, average precision)", "pycocotools", "detection") from error
    return mask


def encode_mask(mask: Any, height: int, width: int, instances: np.ndarray | None = None) -> dict[str, Any]:
    """COCO's compressed run-length code of a polygon list, a run-length code or a value of `instances`."""
    tools = mask_tools()
    if not isinstance(mask, list | dict):
        return tools.encode(np.asfortranarray((instances == mask).astype(np.uint8)))
    if isinstance(mask, dict) and not isinstance(mask["counts"], list):
        return mask
    code = tools.frPyObjects(mask, height, width)
    return tools.merge(code) if isinstance(code, list) else code


def decode_mask(mask: Any, height: int, width: int, instances: np.ndarray | None = None) -> np.ndarray:
    """uint8 [H, W] of 0 and 1."""
    if not isinstance(mask, list | dict):
        return (instances == mask).astype(np.uint8)
    try:
        return np.ascontiguousarray(mask_tools().decode(encode_mask(mask, height, width)))
    except (ValueError, TypeError) as error:
        raise BadRecord(f"a mask cannot be decoded ({str(error)[:60]})") from error
