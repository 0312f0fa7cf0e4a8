"""`attention`: what the class token attends to, as masks, against objects (DINO, section 4.2.2)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tacit.encoders import Encoder, step
from tacit.errors import BadRecord, BadSettings, DataError
from tacit.evaluation import dense
from tacit.evaluation.attention import attention_jaccard, attention_maps, best_head, check_attention
from tacit.evaluation.scenes.scene import Found, Job, Opened, Scene, one_folder
from tacit.evaluation.whole import pixels, scaled

NEEDS = "pictures with masks of objects on a background of 0, in VOC's or ADE20K's layout or in train/ and test/"
HEADS = ("best", "one", "mean")
CLASSES = 2**15 - 1  # which classes there are does not matter, so the training masks need not be read to count them


def open_data(data: Path, test: Path | None, encoder: Encoder, options: dict[str, Any]) -> Opened:
    folder = one_folder("attention", data, test, NEEDS)
    foreground = options["foreground"]
    how = {"channels": encoder.inputs.channels, "foreground": foreground, "classes": None if foreground else CLASSES}
    _, part = dense.open_segmentation(folder, **how)
    return Opened(replace(part, zero_is_none=False), [part.names])


def check(encoder: Encoder, options: dict[str, Any]) -> None:
    check_attention(encoder)
    if options["mass"] > 1:
        raise BadSettings([f"attention:mass = {options['mass']}: must be over 0 and at most 1; the paper keeps 0.6."])


def run(
    job: Job, data: dense.Segmented, *, mass: float = 0.6, heads: str = "best", size: int = 0, foreground: bool = False
) -> Found:
    """Jaccard index of the patches that hold the share `mass` of a head's attention with all objects of an image.

    `heads`: of the head that is best for each image, as in the paper; of the "one" that is best over all images; or the
    "mean" over heads. Images come whole, at their own size or with the short side at `size`; masks are scored at
    theirs. Values under 255 that are not 0 are objects; with `foreground` 255 is one too. Images without are left out.
    """
    maps = attention_maps(job.encoder, job.device)
    shown = _Shown(data, size, step(job.encoder), job.encoder.inputs.interpolation)
    rows, bad = [], list(data.skipped)
    for done, one in enumerate(DataLoader(shown, batch_size=None, num_workers=job.workers, collate_fn=_as_it_is), 1):
        if one.image is None:
            bad.append((one.name, one.reason))
        else:
            ignore = one.ignore[None]
            rows.append(attention_jaccard(maps(one.image[None]).cpu(), one.truth[None], mass=mass, ignore=ignore))
        if job.tell is not None:
            job.tell(done, len(data))
    if not rows:
        raise DataError(f"No image of {data.title} can be scored; the last: {': '.join(bad[-1])}.")
    jaccard = torch.cat(rows).double()  # [N, heads]
    per_head = jaccard.mean(0)
    values = {"best": best_head(jaccard)[0], "one": jaccard[:, per_head.argmax()], "mean": jaccard.mean(1)}[heads]
    about = {
        "mass": mass, "heads": heads, "size": size or "own", "foreground": foreground,
        "feature": "attention of the class token in the last block",
        "per_head": [round(v, 4) for v in per_head.tolist()],
    }  # fmt: skip
    return Found([job.mean("jaccard", values.numpy(), about)], bad)


class _One(NamedTuple):
    name: str
    reason: str = ""
    image: Tensor | None = None  # [C, H, W]
    truth: Tensor | None = None  # [H', W'] bool, as is ignore
    ignore: Tensor | None = None


@dataclass(frozen=True)
class _Shown(Dataset):
    source: dense.Segmented
    size: int
    unit: int
    how: str

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> _One:
        name = self.source.names[index]
        try:
            picture, mask = self.source[index]
            mask = torch.from_numpy(mask)
            if not (mask > 0).any():
                return _One(name, "no object in its mask")
            image = pixels(picture, scaled(picture, index, short=self.size, unit=self.unit, how=self.how))
        except BadRecord as error:
            return _One(name, str(error))
        return _One(name, "", image, mask > 0, mask == dense.IGNORE)


def _as_it_is(one: _One) -> _One:
    return one


SCENE = Scene(open_data, run, NEEDS, reads=("foreground",), known={"heads": HEADS}, check=check)
