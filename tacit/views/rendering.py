"""One crop rendered twice: at another size, by another filter, for another reader (BEiT's tokeniser, CAE)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from tacit.views.crop import Around, Crop, View
from tacit.views.inputs import Inputs
from tacit.views.masks import Masked, Sampler


@dataclass(frozen=True)
class Rendering(Around):
    """The same part of the same picture as another view of the same list, flipped and coloured alike.

    of: the number of that view, whose random numbers this one draws by. `crop` must ask of them what that view's crop
    asks: only its inputs and its name may differ.
    """

    of: int

    def draw(self, rng: np.random.Generator, height: int, width: int) -> dict[str, Any]:
        return self.crop.draw(rng, height, width)

    def finish(self, images: Tensor, params: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.crop.finish(images, params)


def rendered_twice(crop: Crop, sampler: Sampler, cell: int, inputs: Inputs) -> list[View]:
    """A crop with a mask of its patches of `cell` pixels, and the same crop as `inputs` say, for a tokeniser."""
    again = replace(crop, inputs=inputs, name="for the tokeniser")
    return [Masked(crop, sampler, cell=cell), Rendering(again, of=0)]
