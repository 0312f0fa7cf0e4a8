"""Copy detection as on Copydays: class token and GeM, whitening learned on other images, mAP of the first 20."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.data import Source
from tacit.encoders import Encoder
from tacit.errors import DataError, UsageError
from tacit.evaluation.features import Features, features
from tacit.evaluation.retrieval import Scores, rank, trapezoid_ap

SCALES = (1.0, 0.5**0.5, 0.5)


def gem(tokens: Tensor, p: float = 4.0, eps: float = 1e-6) -> Tensor:
    """Generalised mean of tokens [B, N, D] -> [B, D]: (mean max(x, eps)^p)^(1/p) (Radenović et al. 2019, eq. 3).

    p = 1 is the mean of the clamped tokens; with p towards infinity it becomes their maximum.
    """
    x = tokens.float().clamp_min(eps)
    top = x.amax(1, keepdim=True)  # divided out, so that no power overflows
    return (x / top).pow(p).mean(1).pow(1 / p) * top[:, 0]


def describe(encoder: Encoder, x: Tensor, p: float = 4.0) -> Tensor:
    """[class token ; GeM of the patch tokens], both after the last norm (Caron et al. 2021, DINO, section 4.2.1).

    x: prepared inputs [B, C, H, W]. Returns [B, 2 width], or the GeM alone, [B, width], where there is no class token.
    """
    if "cls" not in encoder.can:
        return gem(encoder.tokens(x), p)
    y = encoder.trunk.forward_features(x)  # once for both
    prefix = max(getattr(encoder.trunk, "num_prefix_tokens", 1), 1)
    return torch.cat([y[:, 0].float(), gem(y[:, prefix:], p)], dim=1)


def multi_scale(
    encoder: Encoder,
    x: Tensor,
    scales: Sequence[float] = SCALES,
    feature: Callable[[Encoder, Tensor], Tensor] = lambda encoder, x: encoder(x).float(),
) -> Tensor:
    """Mean of the features of x [B, C, H, W] at several scales, not normalised: [B, D] (as DINO's retrieval).

    Scaled sides are rounded to whole patches. Encoders with a table of positions or windows of fixed size take one
    size only, unless they are built otherwise.

    Raises:
        UsageError: the encoder does not take one of the sizes.
    """
    if not scales or min(scales) <= 0:
        raise UsageError(f"scales = {tuple(scales)}: give at least one, all above 0.")
    return torch.stack([_at(encoder, x, scale, feature) for scale in scales]).mean(0)


def _at(encoder: Encoder, x: Tensor, scale: float, feature: Callable[[Encoder, Tensor], Tensor]) -> Tensor:
    if scale == 1:
        return feature(encoder, x)
    step = getattr(getattr(encoder.trunk, "patch_embed", None), "patch_size", 1)
    steps = step if isinstance(step, tuple) else (step, step)
    size = tuple(max(round(n * scale / s), 1) * s for n, s in zip(x.shape[-2:], steps, strict=True))
    smaller = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
    try:
        return feature(encoder, smaller)
    except torch.OutOfMemoryError:
        raise
    except (AssertionError, RuntimeError, ValueError) as error:
        shape = f"{size[0]} x {size[1]}, which scale {scale:.3g} of {x.shape[-2]} x {x.shape[-1]} needs"
        raise UsageError(
            f"{encoder.name} does not take inputs of {shape}: {str(error)[:150] or type(error).__name__} "
            "Use scales=(1,), or a trunk for any size: a ResNet, or a ViT built with dynamic_img_size=True, which can "
            "load the weights of one built without."
        ) from error


class _Describer(nn.Module):
    """What `features` needs of an encoder, giving descriptors instead."""

    def __init__(self, encoder: Encoder, p: float, scales: Sequence[float]):
        super().__init__()
        self.encoder, self.inputs, self.p, self.scales = encoder, encoder.inputs, p, scales

    def forward(self, x: Tensor) -> Tensor:
        return multi_scale(self.encoder, x, self.scales, lambda encoder, x: describe(encoder, x, self.p))


def descriptors(
    encoder: Encoder, source: Source, *, p: float = 4.0, scales: Sequence[float] = (1.0,), **loading
) -> Features:
    """`describe` of every readable record, the encoder in eval mode; `loading` and errors as in `features`."""
    return features(_Describer(encoder, p, scales), source, **loading)


@dataclass(frozen=True)
class Whitening:
    """x -> (x - mean) @ directions; mean: [D], directions: [D, K], float32."""

    mean: Tensor
    directions: Tensor


def fit_whitening(
    x: Tensor, *, dim: int | None = None, exponent: float = 0.5, centred_covariance: bool = False
) -> Whitening:
    """PCA whitening from features [N, D] of images that are in neither the queries nor the gallery.

    Directions are eigenvectors over eigenvalue^exponent, the strongest first; eigenvalues are at least 1e-5 of the
    largest. As in DINO's published code, what is whitened is centred and the covariance it is learned from is not;
    `centred_covariance` makes it the textbook's.

    Args:
        dim: how many directions to keep; all by default. exponent: .5 whitens, 0 only rotates.

    Raises:
        UsageError: shapes or dim. DataError: values that are no numbers, or all the same.
    """
    if x.ndim != 2 or len(x) < 2:
        raise UsageError(f"Whitening is learned from features [N, D] with at least two rows; got {list(x.shape)}.")
    if dim is not None and not 1 <= dim <= x.shape[1]:
        raise UsageError(f"dim = {dim}: must be from 1 to {x.shape[1]}, the width of the features.")
    if not torch.isfinite(x).all():
        raise DataError("The features to learn whitening from hold values that are not numbers: the encoder is broken.")
    x = x.double()
    mean = x.mean(0)
    if torch.equal(x, x[:1].expand_as(x)):
        raise DataError("All features to learn whitening from are the same; there are no directions to tell apart.")
    y = x - mean if centred_covariance else x
    values, vectors = torch.linalg.eigh(y.T @ y / len(y))
    values = values.clamp_min(float(values[-1]) * 1e-5)
    directions = (vectors / values**exponent).flip(1)[:, :dim]
    return Whitening(mean.float(), directions.float())


def whiten(x: Tensor, whitening: Whitening) -> Tensor:
    """[N, D] -> [N, K], L2-normalised after whitening."""
    if x.ndim != 2 or x.shape[1] != len(whitening.mean):
        raise UsageError(f"The whitening takes features [N, {len(whitening.mean)}]; got {list(x.shape)}.")
    return F.normalize((x.float() - whitening.mean) @ whitening.directions, dim=1)


def copy_detection(
    query: Tensor,
    query_ids: Tensor | Sequence,
    gallery: Tensor,
    gallery_ids: Tensor | Sequence,
    distractors: Tensor | None = None,
    *,
    whitening: Whitening | None = None,
    k: int = 20,
    block: int = 1024,
) -> Scores:
    """ "AP" by trapezoids over the first k by cosine, and "R@1", of finding what each query is a copy of.

    For Copydays "strong": the 229 copies are the queries, the 157 originals the gallery, and an id is the first four
    characters of a file's name. Positives beyond the first k count as never found.

    Args:
        query: [M, D]; gallery: [N, D]; distractors: [X, D], of no query's id.
        query_ids, gallery_ids: [M], [N] numbers or strings; equal ids are copies of one another.
        whitening: applied to all three first. block: queries compared at once.

    Raises:
        UsageError: shapes that do not fit. DataError: NaN, or no query with its original in the gallery.
    """
    ids = [np.asarray(i.cpu() if isinstance(i, Tensor) else i) for i in (query_ids, gallery_ids)]
    for name, each, x in zip(("query_ids", "gallery_ids"), ids, (query, gallery), strict=True):
        if each.shape != (len(x),):
            raise UsageError(f"{name} must hold {len(x)} ids, one a row; got {list(each.shape)}.")
    if (ids[0].dtype.kind in "US") != (ids[1].dtype.kind in "US"):
        raise UsageError("query_ids and gallery_ids must both be numbers or both be strings.")
    if distractors is not None:
        if distractors.ndim != 2 or distractors.shape[1] != gallery.shape[1]:
            raise UsageError(f"distractors must be [X, {gallery.shape[1]}]; got {list(distractors.shape)}.")
        gallery = torch.cat([gallery, distractors])
    if whitening is not None:
        query, gallery = whiten(query, whitening), whiten(gallery, whitening)
    ranking = rank(query, gallery, min(k, len(gallery)), block).cpu().numpy()
    values, rows = {"AP": [], "R@1": []}, []
    for i, (wanted, found) in enumerate(zip(ids[0], ranking, strict=True)):
        positives = np.flatnonzero(ids[1] == wanted)
        if len(positives):
            places = np.flatnonzero(np.isin(found, positives))
            values["AP"].append(trapezoid_ap(places, len(positives)))
            values["R@1"].append(float(len(places) and places[0] == 0))
            rows.append(i)
    if not rows:
        raise DataError("No query has its original in the gallery: query_ids and gallery_ids have nothing in common.")
    return Scores({name: np.array(v) for name, v in values.items()}, np.array(rows))
