"""Discrete variational autoencoders: what is said of pixels, and what codes cost (Ramesh et al. 2021, DALL-E)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def logit_laplace(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Minus the logarithm of `exp(-|logit x - mean| / b) / (2 b x (1 - x))` of every value, log b = `log_scale`.

    Args:
        x: any shape, in (0, 1). mean, log_scale: of that shape. In float32 (appendix A.3).
    """
    x, mean, log_scale = x.float(), mean.float(), log_scale.float()
    return math.log(2) + log_scale + (x * (1 - x)).log() + (torch.logit(x) - mean).abs() * torch.exp(-log_scale)


def divergence_from_uniform(logits: Tensor) -> Tensor:
    """Kullback-Leibler divergence of softmax(logits) [B, K, ...] over K from the uniform distribution: [B, ...]."""
    log_p = logits.float().log_softmax(1)
    return (log_p.exp() * log_p).sum(1) + math.log(logits.shape[1])
