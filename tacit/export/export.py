"""An encoder in another tool's format, checked against ours on the spot, with the lines that load it."""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tacit import encoders
from tacit.encoders import Encoder
from tacit.errors import RunFailed, Unknown, UsageError
from tacit.export import onnx, prepared, program, timm, transformers
from tacit.export.prepared import ABOUT
from tacit.run import read_json, write_json, write_text
from tacit.views import FilmInputs, SequenceInputs, SoundInputs, TextInputs, WaveInputs
from tacit.views.kinds import AnyInputs


@dataclass(frozen=True)
class Target:
    """write(encoder, folder): the files. read(folder): a function of inputs -> [B, D] made from the files alone."""

    write: Callable[[Encoder, Path], None]
    read: Callable[[Path], Callable[[Tensor], Tensor]]
    usage: Callable[[Encoder], str]  # lines of Python that load the files and end with `features`
    tolerance: float  # of the largest difference, relative to the largest feature


TARGETS = {
    "timm": Target(timm.write, timm.read, timm.usage, 1e-5),
    "transformers": Target(transformers.write, transformers.read, transformers.usage, 1e-4),
    "torch": Target(program.write, program.read, program.usage, 1e-5),
    "onnx": Target(onnx.write, onnx.read, onnx.usage, 1e-4),
}


def export(encoder: Encoder, to: str, out: str | os.PathLike, *, check: bool = True) -> dict[str, Any]:
    """Write `encoder` into the folder `out` for `to`: "timm", "transformers", "torch" or "onnx".

    The files are loaded the way a user would and their features compared with ours on random inputs, one and several
    at a time; only then do they take their place. An earlier export in `out` is replaced.

    Returns:
        `{"to", "out", "files", "difference", "tolerance"}`; the difference is relative to the largest feature, and
        None without `check`.

    Raises:
        Unknown: no such target. UsageError: the target has no words for this encoder, or `out` holds other things.
        MissingExtra: the target's package is not installed. RunFailed: the features differ by more than the tolerance.
    """
    if to not in TARGETS:
        raise Unknown("export target", to, TARGETS)
    out = Path(out)
    if other := _in_the_way(out):
        raise UsageError(f"--out {out}: {other}. Choose a new folder.")
    if isinstance(encoder.inputs, SequenceInputs):
        raise UsageError(
            f"{encoder.name} reads feature sequences, which no other tool packs alike, and is not exported. Load its "
            "run folder with tacit.encoders.load."
        )
    if to not in PROGRAMS and (of := _foreign_to_others(encoder.inputs)) is not None:
        raise UsageError(
            f"{to} has no words for how {of[0]} become the inputs of {encoder.name}. Export it to torch or onnx, as a "
            f"program of {of[1]}."
        )
    target = TARGETS[to]
    encoder = copy.deepcopy(encoder).cpu().eval()
    with _beside(out) as made:
        target.write(encoder, made)
        write_text(made / "README.md", _readme(encoder, to, target))
        files = sorted([*(p.name for p in made.iterdir()), ABOUT])
        difference = _difference(encoder, target, made) if check else None
        _replace(out, made, files)
        write_json(out / ABOUT, encoders.describe(encoder) | {"exported": to, "files": files})
    return {"to": to, "out": str(out), "files": files, "difference": difference, "tolerance": target.tolerance}


PROGRAMS = ("torch", "onnx")
UNFINISHED = ".export-"  # begins the name of the folder an export is made in


def _foreign_to_others(inputs: AnyInputs) -> tuple[str, str] | None:
    """What an encoder looks at and what its program takes, where that is no picture."""
    told = {
        SoundInputs: ("sounds", "spectrograms"), WaveInputs: ("sounds", "waveforms"),
        FilmInputs: ("films", "frames"), TextInputs: ("sentences", "word numbers"),
    }  # fmt: skip
    return next((what for kind, what in told.items() if isinstance(inputs, kind)), None)


def _in_the_way(out: Path) -> str | None:
    """A new or an empty folder will do, and an earlier export with nothing added to it."""
    if not out.exists():
        return None
    if not out.is_dir():
        return "is a file"
    earlier = (read_json(out / ABOUT) or {}).get("files", [])
    others = sorted({p.name for p in out.iterdir() if not p.name.startswith(UNFINISHED)} - set(earlier))
    return f"holds other things than an earlier export, for example {others[0]!r}" if others else None


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """A folder inside `out`, on its disk, that is gone afterwards; and so is `out` if it was made for nothing."""
    new = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    for left_over in out.glob(f"{UNFINISHED}*"):  # of a process that was killed
        shutil.rmtree(left_over)
    try:
        with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=out) as temporary:
            yield Path(temporary)
    finally:
        if new and not any(out.iterdir()):
            out.rmdir()


def _replace(out: Path, made: Path, files: list[str]) -> None:
    """Put the new files in place of the earlier export's. `out` itself stays: it may be a mount or where one stands."""
    for old in (p for p in out.iterdir() if p.name not in (made.name, ABOUT)):
        old.unlink()
    for name in files:
        if name != ABOUT:
            os.replace(made / name, out / name)


@torch.no_grad()
def _difference(encoder: Encoder, target: Target, folder: Path) -> float:
    x = encoders.example(encoder.inputs, 3)
    g = torch.Generator().manual_seed(0)
    if isinstance(encoder.inputs, TextInputs):
        x = torch.randint(len(encoder.inputs.words) + 1, x.shape, generator=g)
    else:
        x = torch.randn(x.shape, generator=g)
    ours, run = encoder(x), target.read(folder)
    theirs = torch.cat([run(x[:1]), run(x[1:])])
    difference = float((ours - theirs).abs().max() / ours.abs().max().clamp(min=1e-12))
    if not difference <= target.tolerance:
        raise RunFailed(
            f"The exported encoder gives other features: they differ by {difference:.2e} of the largest, more than the "
            f"tolerance of {target.tolerance:.0e}. Nothing was written. Please report this, with the versions of torch "
            "and of the target's package."
        )
    return difference


def _readme(encoder: Encoder, to: str, target: Target) -> str:
    return f"""# {encoder.name} for {to}

Exported by Tacit. Features have {encoder.width} numbers ({encoder.feature}) and agree with Tacit's to
{target.tolerance:.0e} of the largest.

Inputs: {prepared.told(encoder.inputs)}

Run in this folder:

```python
{target.usage(encoder)}
```
"""
