"""Encoders pre-trained at one resolution, for use at another: weights carried over, positions of windows as well."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2

from tacit.data.kinds import WORDS
from tacit.encoders.build import assemble
from tacit.encoders.encoder import Encoder
from tacit.encoders.geometry import geometry_problems
from tacit.encoders.initialise import fitted
from tacit.errors import BadSettings, UsageError
from tacit.views import FilmInputs, Inputs, field_of


def at_size(encoder: Encoder, size: int | None = None, window: int | None = None) -> Encoder:
    """A copy of `encoder` built for inputs of another size, which is then its own for every verb and export.

    A Swin's tables of relative positions and a ViT's position embeddings are interpolated (bicubic) to the new window
    or grid. Swin V2 has no table: its positions are a function of the offset in units of the window of pre-training,
    which is remembered, so that larger windows lie beyond it and are extrapolated to (Liu et al. 2022, section 3.3).
    For a table interpolated on the way, at any size, see `any_size`.

    Args:
        size: side of the inputs in pixels; the encoder's own when left out.
        window: a Swin's window, in patches; the encoder's own when left out. To look as far as before, make it grow as
            the size does.

    Raises:
        BadSettings: windows do not fill that size, with some that would. UsageError: not an encoder built by timm.
    """
    if not isinstance(encoder.inputs, Inputs | FilmInputs):
        of = WORDS[field_of(encoder.inputs)][1]
        raise UsageError(f"{encoder.name} looks at {of}, and is not made anew for another size.")
    size = encoder.inputs.size if size is None else size
    made = dict(encoder.kwargs)
    if window is not None:
        made["window_size"] = window
    if "img_size" in made and not made.get("dynamic_img_size"):
        made["img_size"] = size
    if type(encoder) is not Encoder:
        raise UsageError(f"{encoder.name} was not built by timm, and has its own size only.")
    if isinstance(encoder.trunk, SwinTransformerV2):
        made["pretrained_window_sizes"] = trained_windows(encoder.trunk)
    if found := geometry_problems(encoder.name, encoder.arch, size, made):
        raise BadSettings([found[0] + _grown(encoder, size, made), *found[1:]])
    inputs = replace(encoder.inputs, size=size)
    if made == encoder.kwargs:  # a trunk that takes any size
        new = copy.deepcopy(encoder)
        new.inputs = inputs
        return new
    new = assemble(encoder.name, encoder.arch, made, encoder.norm_before_mlp, inputs)
    new.trunk.load_state_dict(fitted(encoder.trunk.state_dict(), new.trunk))
    new.start = encoder.start
    return new.to(next(encoder.parameters()).device).train(encoder.training)


def _grown(encoder: Encoder, size: int, made: dict[str, Any]) -> str:
    """The window that grows as the size does, where it would fit."""
    if not isinstance(encoder.trunk, SwinTransformer | SwinTransformerV2):
        return ""
    window = encoder.trunk.layers[0].blocks[0].window_size[0] * size // encoder.inputs.size
    if geometry_problems(encoder.name, encoder.arch, size, made | {"window_size": window}):
        return ""
    return f" The window that looks as far as the one at {encoder.inputs.size} pixels fits, too: window={window}."


def trained_windows(trunk: SwinTransformerV2) -> tuple[int, ...]:
    """The window of every stage that its coordinates are in units of; one that fills a smaller grid is that grid."""
    first = [stage.blocks[0].attn for stage in trunk.layers]
    return tuple(int(max(a.pretrained_window_size[0] or a.window_size[0], 1)) for a in first)
