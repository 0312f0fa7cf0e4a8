"""Features of segmented images on their grids, extracted once: what the frozen protocols start from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tacit import encoders
from tacit.data import Cut
from tacit.encoders import Encoder
from tacit.errors import BadRecord, DataError, UsageError
from tacit.evaluation.dense import maps
from tacit.evaluation.dense.masks import Segmented

MEMORY = 16 * 2**30  # bytes of features, beyond which somebody should choose a smaller size


@dataclass(frozen=True)
class Grids:
    """x: [N, D, h, w] float32; y: [N, S, S] int16, masks at the side of the input (`IGNORE` as in `Segmented`);
    index: [N] the records' numbers; bad: (name, reason) of the others."""

    x: Tensor
    y: Tensor
    index: np.ndarray
    bad: list[tuple[str, str]]


def grids(
    encoder: Encoder,
    source: Segmented,
    *,
    size: int,
    levels: str = "last",
    batch_size: int = 32,
    workers: int = 0,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Grids:
    """Features of every readable record as a whole, resized to size x size, the encoder in eval mode.

    Args:
        encoder: as `encoders.any_size` makes it, where `size` is not its own.
        levels: see `maps.maps`.

    Raises:
        UsageError: a size that the encoder cannot take, or more features than memory. DataError: nothing readable,
            features that are no numbers, or a mask with a value that is no class.
    """
    if size % encoders.step(encoder):
        near = max(size // encoders.step(encoder), 1) * encoders.step(encoder)
        raise UsageError(f"size = {size}: {encoder.name} takes multiples of {encoders.step(encoder)}. Set size={near}.")
    encoder = encoder.to(device).eval()
    loader = DataLoader(Resized(source, size), batch_size, num_workers=workers, collate_fn=list)
    xs, ys, index, bad, done = [], [], [], [], 0
    for batch in loader:
        bad += [(source.names[s["index"]], s["reason"]) for s in batch if "reason" in s]
        good = [s for s in batch if "reason" not in s]
        done += len(batch)
        if good:
            with torch.no_grad():
                x = torch.from_numpy(np.stack([s["image"] for s in good])).permute(0, 3, 1, 2)
                xs.append(maps.maps(encoder, encoder.inputs.prepare(x.to(device)), levels).float().cpu())
            ys.append(torch.from_numpy(np.stack([s["mask"] for s in good])))
            index += [s["index"] for s in good]
            _check(xs[-1], [source.names[s["index"]] for s in good], len(source))
        if progress is not None:
            progress(done, len(source))
    if not xs:
        raise DataError(f"None of the {len(source):,} records of {source.title} can be read; the first: {_say(bad)}.")
    return Grids(torch.cat(xs), torch.cat(ys), np.array(index), bad)


def _check(x: Tensor, names: list[str], records: int) -> None:
    finite = torch.isfinite(x).flatten(1).all(1)
    if not finite.all():
        raise DataError(f"The features of {names[int((~finite).nonzero()[0])]} are not numbers: the encoder is broken.")
    if (wanted := x[0].numel() * 4 * records) > MEMORY:
        raise UsageError(
            f"Features of {records:,} images, {' x '.join(map(str, x.shape[1:]))} each, are {wanted / 2**30:.0f} GiB. "
            f"Take a smaller size, levels=last, or at most {records * MEMORY // wanted:,} images."
        )


def _say(bad: list[tuple[str, str]]) -> str:
    return ": ".join(bad[0]) if bad else "there is none"


class Resized(Dataset):
    """`self[i]`: {"image": [S, S, C] float32 in [0, 1] or uint8, "mask": [S, S], "index"}; "reason" when unreadable."""

    def __init__(self, source: Segmented, size: int):
        self.source, self.size = source, size

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            picture, mask = self.source[index]
            (image,) = picture.crops([Cut(0, 0, picture.height, picture.width, (self.size, self.size))])
        except BadRecord as error:
            return {"index": index, "reason": str(error)}
        return {"image": as_floats(image), "mask": nearest(mask, self.size, self.size), "index": index}


def as_floats(image: np.ndarray) -> np.ndarray:
    """uint8 or float32 in [0, 1] -> float32 in [0, 1], so that files of both kinds make one batch."""
    return image.astype(np.float32) / 255 if image.dtype == np.uint8 else image


def nearest(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """[H, W] -> [height, width]: the value at each new pixel's centre."""
    rows = ((np.arange(height) + 0.5) * mask.shape[0] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * mask.shape[1] / width).astype(int)
    return mask[rows[:, None], columns]
