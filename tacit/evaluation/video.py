"""Objects of a video's first frame followed by patch features alone (DINO, section 4.2), scored as DAVIS-2017 does."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tacit.encoders import Encoder, any_size, token_grid
from tacit.errors import DataError, UsageError
from tacit.evaluation.regions import boundary_f, region_j, statistics
from tacit.evaluation.video_sets import VOID, Video, davis, read_frame, read_mask

Tokens = Callable[[Tensor], Tensor]  # an image [C, H, W], uint8 or float in [0, 1] -> patch features [h, w, D]


class Tracked(NamedTuple):
    """J and F [frames] of one object; the first frame, which is given, and the last are left out, as DAVIS does."""

    video: str
    object: int
    j: np.ndarray
    f: np.ndarray


def working_size(height: int, width: int, short: int = 480, multiple: int = 64) -> tuple[int, int]:
    """(height, width) to work at: the short side `short`, the other in proportion, down to a multiple of `multiple`."""
    long = short * max(height, width) // min(height, width) // multiple * multiple
    if not long:
        raise UsageError(
            f"short = {short}, multiple = {multiple}: leaves no pixels of {height} x {width}. Set a smaller multiple."
        )
    return (long, short) if height > width else (short, long)


@torch.no_grad()
def propagate(
    grids: Iterable[Tensor],
    first: Tensor,
    *,
    context: int = 7,
    radius: int | None = 12,
    top: int = 5,
    temperature: float = 0.1,
) -> Iterator[Tensor]:
    """Soft masks [h, w, C] of every frame after the first, one by one (DINO's protocol for DAVIS).

    A patch takes the masks of the `top` most similar patches among the first frame and the last `context` frames (with
    their own soft masks), weighted by exp(cosine / temperature) and normalised; patches tied with the last count too.

    Args:
        grids: features [h, w, D] of each frame, the first included; rows need not be normalised.
        first: [h, w, C], the first frame's mask, one-hot.
        radius: of the square that similar patches are sought in, in patches; None for everywhere.

    Raises:
        DataError: features that are no numbers, or of another shape than the mask.
    """
    h, w, _ = first.shape
    reach = max(h, w) if radius is None else radius
    column = torch.arange(w, device=first.device)
    far = (column.view(-1, 1) - column).abs() > reach  # [w, w]
    recent: deque[tuple[Tensor, Tensor]] = deque(maxlen=context)
    start = None
    for number, grid in enumerate(grids):
        if grid.ndim != 3 or grid.shape[:2] != first.shape[:2] or not torch.isfinite(grid).all():
            raise DataError(
                f"The features of frame {number} are {list(grid.shape)} and must be finite and "
                f"[{h}, {w}, D] as the mask is."
            )
        grid = F.normalize(grid.float(), dim=-1)
        if start is None:
            start = grid, first.float()
            continue
        sources, labels = (torch.stack(part) for part in zip(start, *recent, strict=True))  # [n, h, w, D], [n, h, w, C]
        rows = []
        for i in range(h):  # by rows, so that no more than their neighbourhoods is ever held
            near = slice(max(i - reach, 0), i + reach + 1)
            keys, values = sources[:, near], labels[:, near]
            similarity = (grid[i] @ keys.flatten(0, 2).T).view(w, *keys.shape[:3])
            similarity = similarity.masked_fill(far.view(w, 1, 1, w), -torch.inf).flatten(1)
            best = similarity.topk(min(top, similarity.shape[1]), dim=1).values
            weight = ((similarity - best[:, :1]) / temperature).exp()  # the shift cancels in the normalisation
            weight = torch.where(similarity >= best[:, -1:], weight, 0.0)
            rows.append(weight / weight.sum(1, keepdim=True) @ values.flatten(0, 2))
        soft = torch.stack(rows)
        recent.append((grid, soft))
        yield soft


@torch.no_grad()
def segment(tokens: Tokens, frames: Iterable[Tensor], mask: np.ndarray, **settings: Any) -> np.ndarray:
    """Masks [T, H, W] uint8 of all frames, the first as given, in the palette's numbers.

    Args:
        tokens: features [h, w, D] of an image [C, H', W'].
        frames: images [C, H', W'] at the size to work at, the first included.
        mask: [H, W] of the first frame at the size to score at: 0 background, 1, 2, … objects.
        settings: as of `propagate`.
    """
    mask = np.where(mask == VOID, 0, mask).astype(np.uint8)
    ids = torch.from_numpy(np.union1d(0, mask))
    if len(ids) < 2:
        raise DataError("The first frame's mask holds no object; there is nothing to follow.")
    frames = iter(frames)
    image = next(frames)
    grid = tokens(image)
    small = nearest(torch.from_numpy(mask), tuple(grid.shape[:2]))
    first = (small.unsqueeze(-1) == ids).float().to(grid.device)

    def grids() -> Iterator[Tensor]:
        yield grid
        yield from map(tokens, frames)

    masks = [mask]
    for soft in propagate(grids(), first, **settings):
        x = F.interpolate(soft.permute(2, 0, 1)[None], size=tuple(image.shape[1:]), mode="bilinear")[0]
        low, high = (x.flatten(1).aminmax(dim=1)[end].view(-1, 1, 1) for end in (0, 1))
        x = torch.where(high > low, (x - low) / (high - low), x)  # a constant channel has no range to stretch
        best = nearest(x.argmax(0).cpu(), mask.shape)
        masks.append(ids[best].numpy().astype(np.uint8))
    return np.stack(masks)


def nearest(x: Tensor, size: tuple[int, int]) -> Tensor:
    """[…, H, W] -> […, *size], each pixel from where its centre falls (Pillow's rule, in exact arithmetic)."""
    rows, columns = ((2 * torch.arange(n) + 1) * have // (2 * n) for n, have in zip(size, x.shape[-2:], strict=True))
    return x[..., rows.to(x.device).view(-1, 1), columns.to(x.device)]


def summary(tracked: Sequence[Tracked]) -> dict[str, np.ndarray]:
    """Values [objects] under "jf_mean", "j_mean", "j_recall", "j_decay", "f_mean", …; their means are DAVIS's."""
    if not tracked:
        raise DataError("There is no tracked object to sum up.")
    found = {}
    for name, rows in (("j", [t.j for t in tracked]), ("f", [t.f for t in tracked])):
        columns = np.array([statistics(row) for row in rows]).T
        found |= {f"{name}_{what}": column for what, column in zip(("mean", "recall", "decay"), columns, strict=True)}
    return {"jf_mean": (found["j_mean"] + found["f_mean"]) / 2, **found}


def track(
    tokens: Tokens,
    video: Video,
    *,
    short: int = 480,
    multiple: int = 64,
    channels: int = 3,
    interpolation: str = "bilinear",
    **settings: Any,
) -> list[Tracked]:
    """J and F of every object in the first frame of `video`, its frames brought to `working_size`.

    `channels` and `interpolation` are those of the images that `tokens` takes; `settings` as of `propagate`.
    """
    truth = [read_mask(path) for path in video.masks]
    if len({mask.shape for mask in truth}) > 1:
        raise DataError(f"The masks of {video.name} differ in size.")
    truth = np.stack(truth)
    size = working_size(*truth.shape[1:], short, multiple)
    frames = (read_frame(path, size, truth.shape[1:], channels, interpolation) for path in video.frames)
    found = segment(tokens, frames, truth[0], **settings)[1:-1]
    truth, ids = truth[1:-1], [int(i) for i in np.unique(truth[0]) if i not in (0, VOID)]
    return [Tracked(video.name, i, region_j(found == i, truth == i), boundary_f(found == i, truth == i)) for i in ids]


def davis_scores(
    encoder: Encoder,
    root: str | os.PathLike,
    split: str = "val",
    *,
    resolution: str = "480p",
    device: torch.device | str | None = None,
    progress: Callable[[int, int], None] | None = None,
    **settings: Any,
) -> list[Tracked]:
    """`track_all` over a DAVIS folder; `settings` as of `track` and `propagate`."""
    return track_all(encoder, davis(root, split, resolution), device=device, progress=progress, **settings)


def track_all(
    encoder: Encoder,
    videos: Sequence[Video],
    *,
    device: torch.device | str | None = None,
    progress: Callable[[int, int], None] | None = None,
    **settings: Any,
) -> list[Tracked]:
    """`track` over videos with an encoder's patch tokens; `settings` as of `track` and `propagate`.

    Inputs are normalised as `encoder.inputs` says, which for red differs by 0.4 % from the 0.228 of the official code.
    `progress` is called with (frames done, frames in all).
    """
    inputs = {"channels": encoder.inputs.channels, "interpolation": encoder.inputs.interpolation}
    tokens, done, total = encoder_tokens(encoder, device), 0, sum(len(video.frames) for video in videos)

    def told(image: Tensor) -> Tensor:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)
        return tokens(image)

    return [one for video in videos for one in track(told, video, **inputs, **settings)]


def encoder_tokens(encoder: Encoder, device: torch.device | str | None = None) -> Tokens:
    """A function of images [C, H, W] of any size the encoder can take: its patch tokens [h, w, D], in eval mode."""
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    sized = any_size(encoder, mask_padding=False).to(device).eval()

    @torch.no_grad()
    def tokens(image: Tensor) -> Tensor:
        x = encoder.inputs.prepare(image.unsqueeze(0).to(device))
        return token_grid(sized, x)[0].float()

    return tokens
