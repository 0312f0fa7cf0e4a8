"""An encoder in another tool's format, checked against ours on the spot, with the lines that load it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tacit.encoders import Encoder
from tacit.errors import RunFailed, Unknown, UsageError
from tacit.export import onnx, program, timm, transformers
from tacit.run import write_text


@dataclass(frozen=True)
class Target:
    """write(encoder, folder): the files. read(folder): a function [B, C, H, W] -> [B, D] made from the files alone."""

    write: Callable[[Encoder, Path], None]
    read: Callable[[Path], Callable[[Tensor], Tensor]]
    usage: Callable[[Encoder], str]
    tolerance: float  # of the largest difference, relative to the largest feature


TARGETS = {
    "timm": Target(timm.write, timm.read, timm.usage, 1e-5),
    "transformers": Target(transformers.write, transformers.read, transformers.usage, 1e-4),
    "torch": Target(program.write, program.read, program.usage, 1e-5),
    "onnx": Target(onnx.write, onnx.read, onnx.usage, 1e-4),
}


def export(encoder: Encoder, to: str, out: Path, *, check: bool = True) -> dict[str, Any]:
    """Write `encoder` into the folder `out` for `to`: "timm", "transformers", "torch" or "onnx".

    The files are then loaded the way a user would, and their features compared with ours on random inputs.

    Returns:
        `{"to", "out", "files", "difference", "tolerance"}`; the difference is relative to the largest feature.

    Raises:
        Unknown: no such target. UsageError: the target has no words for this encoder, or `out` holds other things.
        RunFailed: the features differ by more than the tolerance.
    """
    if to not in TARGETS:
        raise Unknown("export target", to, TARGETS)
    out = Path(out)
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not _is_ours(out)):
        raise UsageError(f"--out {out} is not empty and holds no earlier export; choose a new folder.")
    target = TARGETS[to]
    encoder = encoder.cpu().eval()
    out.mkdir(parents=True, exist_ok=True)
    target.write(encoder, out)
    write_text(out / "README.md", _readme(encoder, to, target))
    difference = _difference(encoder, target, out) if check else None
    files = sorted(p.name for p in out.iterdir())
    return {"to": to, "out": str(out), "files": files, "difference": difference, "tolerance": target.tolerance}


@torch.no_grad()
def _difference(encoder: Encoder, target: Target, out: Path) -> float:
    inputs = encoder.inputs
    x = torch.randn(3, inputs.channels, inputs.size, inputs.size, generator=torch.Generator().manual_seed(0))
    ours, theirs = encoder(x), target.read(out)(x)
    difference = float((ours - theirs).abs().max() / ours.abs().max())
    if not difference <= target.tolerance:
        raise RunFailed(
            f"The exported encoder gives other features: they differ by {difference:.2e} of the largest, more than the "
            f"tolerance of {target.tolerance:.0e}. The files in {out} should not be used; please report this."
        )
    return difference


MARK = "Exported by Tacit"


def _is_ours(out: Path) -> bool:
    readme = out / "README.md"
    return readme.is_file() and MARK in readme.read_text(encoding="utf-8")


def _readme(encoder: Encoder, to: str, target: Target) -> str:
    i = encoder.inputs
    short = round(i.size / i.crop)
    return f"""# {encoder.name} for {to}

{MARK}. Features have {encoder.width} numbers; they agree with Tacit's to {target.tolerance:.0e} of the largest.

Inputs: float32 [B, {i.channels}, {i.size}, {i.size}]. Resize the short side to {short} ({i.interpolation}), take the centre
{i.size} x {i.size}, scale to 0..1, then subtract mean {list(i.mean)} and divide by std {list(i.std)}, per channel.

Run in this folder:

```python
{target.usage(encoder)}
```
"""
