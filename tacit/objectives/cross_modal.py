"""Contrast between the modalities of a record, one of which may bring several candidates (MIL-NCE) or be missing.

Every function normalises embeddings to length 1 itself, computes in float32 whatever the autocast, and gathers the
records of all ranks with gradient. Every rank must call it, with as many records.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tacit.distributed import gather, gather_with_grad, world_size

NCE_FORMS = ("asymmetric", "symmetric")
OUT = -1e9  # a similarity that takes no part; finite, so that a row of nothing but these has gradients of 0


def cross_modal_nce(
    x: Tensor, y: Tensor, temperature: float, *, valid_x: Tensor | None = None, valid_y: Tensor | None = None,
    form: str = "asymmetric",
) -> Tensor:  # fmt: skip
    """NCE of pairs, and MIL-NCE of a record with a bag of candidates (Miech et al. 2020, eq. 1; VATT, 2021, eq. 3-5).

    With s the cosine over the temperature, N of a record is logsumexp_l s(x, y_l) over its own bag. From the bags of
    all records come A = {s(x, y_{c,l})}, from the x of all B = {s(x_c, y_l)}.

    - "asymmetric" (VATT's default, as its code has it): logsumexp of A and B *together*, minus N. Its own pairs are in
      both, so perfect pairs are left with log 2, and where all is alike it is log(2 records).
    - "symmetric": (logsumexp A - N) + (logsumexp B - N), whose floor is 0.

    Args:
        x: [B, D]. y: [B, D], or bags [B, L, D].
        temperature: divides every similarity.
        valid_x, valid_y: [B] bool, of y also [B, L]; by default all are. What is not valid takes no part in N, A and B
            of any record, and a record that lacks a side leaves the mean; the side it has is still a negative of the
            others. The official code masks records of y alone, never candidates: those without a word count there.
        form: one of `NCE_FORMS`.

    Returns:
        The mean over the records of all ranks that have both sides; 0, with gradients of 0, where none has.

    Raises:
        ValueError: another form.
    """
    if form not in NCE_FORMS:
        raise ValueError(f"form = {form!r}: must be one of {', '.join(NCE_FORMS)}.")
    with torch.autocast(x.device.type, enabled=False):
        x, y = F.normalize(x.float(), dim=-1), F.normalize(y.float(), dim=-1)
        y = y[:, None] if y.ndim == 2 else y
        here_x, here_y = _there(valid_x, x[:, 0]), _there(valid_y, y[:, :, 0])
        all_x, all_y = gather_with_grad(x), gather_with_grad(y)
        every_x, every_y = gather(here_x), gather(here_y)
        own = torch.einsum("bd,bld->bl", x, y) / temperature  # [B, L]
        to_all = torch.einsum("bd,cld->bcl", x, all_y) / temperature  # [B, B_all, L]
        from_all = torch.einsum("cd,bld->bcl", all_x, y) / temperature
        own = own.masked_fill(~(here_x[:, None] & here_y), OUT)
        to_all = to_all.masked_fill(~(here_x[:, None, None] & every_y), OUT)
        from_all = from_all.masked_fill(~(every_x[None, :, None] & here_y[:, None]), OUT)
        same, a, b = own.logsumexp(1), to_all.flatten(1), from_all.flatten(1)
        if form == "asymmetric":
            each = torch.cat([a, b], dim=1).logsumexp(1) - same
        else:
            each = a.logsumexp(1) + b.logsumexp(1) - 2 * same
        both = here_x & here_y.any(1)
        # Each rank's share of the mean over all, times the ranks, since gradients are averaged over these.
        count = (every_x & every_y.any(1)).sum().clamp_min(1)
        return torch.where(both, each, 0.0).sum() * (world_size() / count)


@torch.no_grad()
def recall_at_1(query: Tensor, key: Tensor, valid: Tensor | None = None) -> Tensor:
    """Share of the valid records whose query [B, D] has the record's own key [B, D] as the nearest by cosine, among
    the valid of this rank; 0 where there is none. Keys that are just as near count as found in part."""
    valid = _there(valid, query[:, 0])
    query, key = F.normalize(query.float(), dim=1)[valid], F.normalize(key.float(), dim=1)[valid]
    if not len(query):
        return query.new_zeros(())
    near = query @ key.T
    best = near >= near.amax(1, keepdim=True)
    return (best.diagonal() / best.sum(1)).mean()


def _there(valid: Tensor | None, like: Tensor) -> Tensor:
    """Of the shape of `like`; a candidate of a record that is not there is none."""
    if valid is None:
        return torch.ones_like(like, dtype=torch.bool)
    valid = valid.bool()
    return valid[:, None].expand_as(like) if valid.ndim < like.ndim else valid
