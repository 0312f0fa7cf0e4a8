"""Views of images that are mixed patch by patch (MixedAE): each record draws its part, the batch puts it together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tacit.errors import UsageError
from tacit.views.crop import Around


@dataclass(frozen=True)
class Mixable(Around):
    """A crop with what it takes to mix it with others: `{"image", "permutation": [B, h, w], "place": [B]}`.

    permutation: of the numbers of the patches, each as likely as any; place: uniform in [0, 1). Both from the
    record's own generator and after the crop, which is what it would be without. cell: pixels of a patch's side.
    """

    cell: int

    def draw(self, rng: np.random.Generator, height: int, width: int) -> dict[str, Any]:
        side = self.inputs.size // self.cell
        params = self.crop.draw(rng, height, width)
        return params | {"permutation": rng.permutation(side * side).reshape(side, side), "place": rng.random()}

    def finish(self, images: Tensor, params: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.crop.finish(images, params) | {name: params[name] for name in ("permutation", "place")}


def mixture(permutation: Tensor, place: Tensor, sources: int, shift: int = 0) -> tuple[Tensor, Tensor]:
    """Who owns which patch, in groups of `sources` consecutive records: (slots, owners), both int64 [B / sources, N].

    A group's first record gives the map: its permutation, cut into equal parts, is the slot of every position, so that
    each slot has N / sources. Images take slots in the order of their `place`. Slots run from 0 to sources - 1, and so
    do owners, which count the images of the group; one owns the positions of its slot.

    Args:
        permutation: [B, h, w]; place: [B]; as `Mixable` gives them.
        shift: added to all slots, in a circle: the maps of all shifts together show every patch of every image once.

    Raises:
        UsageError: the batch, or the patches, cannot be cut into so many.
    """
    patches = permutation[0].numel()
    if len(permutation) % sources or patches % sources:
        raise UsageError(
            f"sources = {sources}: must divide the {len(permutation)} images of one device and micro-batch, and the "
            f"{patches} patches of an image. Choose another batch_size."
        )
    slots = (permutation.flatten(1)[::sources] * sources // patches + shift) % sources
    return slots, torch.argsort(place.view(-1, sources), dim=1).gather(1, slots)
