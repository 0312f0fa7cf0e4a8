"""Which input sizes an architecture can take: patches that fill the image, windows that fill every stage's grid."""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import Any

import timm
import torch
from timm.models._registry import model_entrypoint

KINDS = {
    "swin_transformer": "swin", "swin_transformer_v2": "swin", "vision_transformer": "vit", "deit": "vit", "cvt": "cvt",
    "vil": "vil", "vatt": "vatt", "crossed": "sequences",
}  # fmt: skip
TRIED = ("other", "cvt", "vil")
BEYOND_TIMM = ("small_stem", "norm_eps", "cut_positions")


def family(arch: str) -> str:
    """ "swin" and "vit" are known by their arithmetic; "cvt", "vil" and "other" are tried out."""
    module = model_entrypoint(arch).__module__.rsplit(".", 1)[-1]
    return KINDS.get(module, "other")


def geometry_problems(name: str, arch: str, size: int | tuple[int, ...], made: dict[str, Any]) -> list[str]:
    """Why `arch` with timm's arguments `made` cannot take images of size x size, or (height, width), and what would."""
    kind = family(arch)
    if kind == "vatt":
        return _vatt_problems(name, arch, size, made)
    if kind == "sequences":
        if not isinstance(size, int) and "patch_size" not in made and "window_size" not in made:
            return []
        return [f"encoder = {name}: reads feature sequences, not images or sounds, by the method emotion_xmodal."]
    if not isinstance(size, int):
        return _rectangle_problems(name, kind, arch, size, made)
    patch = made.get("patch_size") or default_patch(arch)
    found = []
    if kind not in ("swin", "cvt", "vil") and "window_size" in made:
        found.append(f"window = {made['window_size']}: {name} has no attention windows; leave it out or take a Swin.")
    if kind in TRIED:
        if "patch_size" in made:
            found.append(f"patch = {patch}: the patch size of {name} cannot be chosen; leave it out.")
        return found or _tried(name, arch, size, made)
    if made.get("dynamic_img_size"):
        smallest = min(size, made["img_size"])
        trouble = None if smallest >= patch else f"one patch of {name} is {patch} pixels, more than {smallest}."
    elif size % patch or size < patch:
        trouble = (
            f"must be a multiple of the patch size of {name}; {size} = {size // patch} x {patch} + {size % patch}."
        )
    elif kind == "swin":
        trouble = _swin_trouble(size // patch, *_swin_shape(arch, made))
    else:
        trouble = None
    if trouble:
        way_out = _swin_way_out(size, patch, *_swin_shape(arch, made)) if kind == "swin" else _near(size, patch)
        found.append(f"size = {size}: {trouble} Set {way_out}.")
    return found


def _rectangle_problems(name: str, kind: str, arch: str, shape: tuple[int, int], made: dict[str, Any]) -> list[str]:
    if len(shape) != 2:
        return [f"encoder = {name}: reads pictures. Of films, sounds and words: vatt_video_base, vatt_audio_base, …"]
    if kind != "vit":
        return [f"encoder = {name}: spectrograms are no squares, which a plain ViT takes. Try vit_mini or deit_small."]
    patch = made.get("patch_size") or default_patch(arch)
    sides = (patch, patch) if isinstance(patch, int) else patch
    found = []
    for setting, what, n, p, rest in zip(
        ("size", "mels"), ("frames", "bands"), shape, sides, (bool(made.get("cut_positions")), False), strict=True
    ):
        if n < p or (n % p and not rest):
            found.append(
                f"{setting} = {n}: must be a multiple of the {p} {what} of a patch of {name}; {n} = {n // p} x {p} + "
                f"{n % p}. Set {_near(n, p).replace('size', setting)}."
            )
    return found


def _vatt_problems(name: str, arch: str, shape: int | tuple[int, ...], made: dict[str, Any]) -> list[str]:
    """Patches must fill films; of a waveform what fills none at its end is left unread."""
    axes = {"vatt_video": (3,), "vatt_audio": (1,), "vatt_text": (1, 2)}[arch]
    if isinstance(shape, int) or len(shape) not in axes:
        what = {"vatt_video": "films", "vatt_audio": "waveforms", "vatt_text": "words"}[arch]
        return [f"encoder = {name}: reads {what}, which this method does not have. tacit methods says who takes it."]
    if width := made["embed_dim"] % made["num_heads"]:
        return [f"num_heads = {made['num_heads']}: must divide the width {made['embed_dim']}; {width} are left."]
    sides = made.get("patch_size", {"vatt_video": (4, 16, 16), "vatt_audio": (128,)}.get(arch, ()))
    if arch == "vatt_audio" and shape[0] < sides[0]:
        return [
            f"patch_samples = {sides[0]}: is longer than the {shape[0]} samples of a sound. Set {shape[0]} or less."
        ]
    if arch != "vatt_video":
        return []
    found = []
    for setting, what, n, p in (("frames", "frames", shape[0], sides[0]), ("size", "pixels", shape[1], sides[1])):
        if n < p or n % p:
            found.append(
                f"{setting} = {n}: must be a multiple of the {p} {what} of a patch of {name}. "
                f"Set {_near(n, p).replace('size', setting)}."
            )
    return found


def crop_problems(name: str, arch: str, made: dict[str, Any], size: int, setting: str) -> list[str]:
    """Why small crops of `size` cannot go through a trunk that takes any size: they are cut into whole patches."""
    kind = family(arch)
    patch = made.get("patch_size") or default_patch(arch)
    if kind == "vil":
        patch = math.prod(made.get("strides", (4, 2, 2, 2)))
        trouble = f"{setting} = {size}: one cell of the last map of {name} is {patch} pixels. Set {setting}={patch}."
        return [] if size >= patch else [trouble]
    if kind in TRIED or (size >= patch and size % patch == 0):
        return []
    where = f"{size} = {size // patch} x {patch} + {size % patch}"
    return [f"{setting} = {size}: must be a multiple of the patch size of {name}; {where}. Set {_near(size, patch)}."]


def default_patch(arch: str) -> int:
    """Pixels of a patch's side, where nothing else is asked for."""
    return _number(arch, "patch", 4 if family(arch) == "swin" else 16)


def timm_arguments(made: dict[str, Any]) -> dict[str, Any]:
    """What of an encoder's arguments is timm's; the rest is done to what timm makes."""
    return {name: value for name, value in made.items() if name not in BEYOND_TIMM}


def _swin_shape(arch: str, made: dict[str, Any]) -> tuple[int, int]:
    """Window (the smallest, where stages differ) and number of stages."""
    window = made.get("window_size") or _number(arch, "window", 7)
    return window if isinstance(window, int) else min(window), len(made.get("depths", (2, 2, 6, 2)))


def _swin_trouble(grid: int, window: int, stages: int) -> str | None:
    """A stage's grid must be a multiple of the window, or fit into one, and halve evenly into the next stage.

    timm would pad instead, and the padding would take part in attention.
    """
    for stage in range(1, stages + 1):
        if grid > window and grid % window:
            return (
                f"in stage {stage} the grid is {grid} x {grid} and the window {window}: "
                f"{grid} = {grid // window} x {window} + {grid % window}."
            )
        if stage < stages and grid % 2:
            return f"the grid of stage {stage} is {grid} x {grid}, which does not halve for stage {stage + 1}."
        grid //= 2
    return None


def _swin_way_out(size: int, patch: int, window: int, stages: int) -> str:
    step = patch * 2 ** (stages - 1)
    works = [
        s for s in range(step, 2 * size + step * window + 1, step) if not _swin_trouble(s // patch, window, stages)
    ]
    below = [s for s in works if s < size][-1:]
    above = [s for s in works if s > size][:1]
    sizes = " or ".join(f"size={s}" for s in below + above)
    grid = 0 if size % patch else size // patch
    windows = [w for w in range(2, grid + 1) if not _swin_trouble(grid, w, stages)]
    nearest = sorted(windows, key=lambda w: (abs(w - window), w))[:2]
    return sizes + "".join(f" or window={w}" for w in sorted(nearest))


def _tried(name: str, arch: str, size: int, made: dict[str, Any]) -> list[str]:
    words = _trial(arch, size, tuple(sorted(made.items())))
    return [f"size = {size}: {name} does not take it: {words}"] if words else []


@lru_cache(maxsize=64)
def _trial(arch: str, size: int, made: tuple[tuple[str, Any], ...]) -> str | None:
    """Run the architecture on shapes alone, without numbers. Returns what it complains of."""
    arguments = dict(made)
    shape = (2, arguments.get("in_chans", 3), size, size)
    try:
        with torch.device("meta"), torch.no_grad():
            timm.create_model(arch, num_classes=0, **timm_arguments(arguments)).eval()(torch.empty(shape))
    except (RuntimeError, AssertionError, ValueError, TypeError, IndexError) as error:
        words = str(error).strip() or type(error).__name__
        return None if "meta" in words else words.splitlines()[0][:200]
    return None


def _number(arch: str, word: str, default: int) -> int:
    match = re.search(rf"{word}(?:\d+to)?(\d+)", arch)  # window12to16: trained with 12, now 16
    return int(match.group(1)) if match else default


def _near(size: int, step: int) -> str:
    below, above = size // step * step, (size // step + 1) * step
    return f"size={below} or size={above}" if below else f"size={above}"
