"""Signs of an unstable run that a loss curve hides (MoCo v3, section 4): gradient spikes by layer, dips of the k-NN."""

from __future__ import annotations

import statistics
from collections import deque
from dataclasses import dataclass, field
from itertools import takewhile

from torch import nn

SPIKE = 10.0  # times the running median of the layer's gradient norm
USUAL = 100  # steps the running median is of
TOKENS = ("cls_token", "reg_token", "mask_token", "pos_embed", "agg_token")
FIRST = 20  # steps before anything is called usual


def layers_of(method: nn.Module) -> dict[str, frozenset[str]]:
    """Names of the trained parameters of the online encoder's patch embedding (or stem), first and last block."""
    names = [n for n, p in method.named_parameters() if p.requires_grad and n.startswith("encoder.")]
    blocks: dict[str, list[str]] = {}
    for name, module in method.encoder.named_modules():
        if hasattr(module, "mlp") or type(module).__name__.endswith(("BasicBlock", "Bottleneck")):
            inside = [n for n in names if n.startswith(f"encoder.{name}.")]
            if inside and not any(name.startswith(f"{other}.") for other in blocks):
                blocks[name] = inside
    within = {n for inside in blocks.values() for n in inside}
    before = list(takewhile(lambda n: n not in within, names))
    # A class token that starts near 0 has gradients that dwarf the patch projection's, and would hide its spikes.
    before = [n for n in before if not n.endswith(TOKENS)] or before
    parts = {"stem": before}
    if blocks:
        parts |= {"first_block": next(iter(blocks.values())), "last_block": list(blocks.values())[-1]}
    return {part: frozenset(inside) for part, inside in parts.items() if inside}


@dataclass
class SpikeWatch:
    """Names layers whose gradient norm jumps above `SPIKE` times its running median (our threshold)."""

    recent: dict[str, deque] = field(default_factory=dict)
    count: int = 0
    quiet: int = 0  # steps for which no more is said

    def see(self, norms: dict[str, float]) -> str | None:
        """What to say of this step; None when all is as usual, or was said a moment ago."""
        found = {}
        for layer, norm in norms.items():
            usual = self.recent.setdefault(layer, deque(maxlen=USUAL))
            if len(usual) >= FIRST and norm > SPIKE * (median := statistics.median(usual)) > 0:
                found[layer] = norm / median
            usual.append(norm)
        self.quiet = max(self.quiet - 1, 0)
        if not found:
            return None
        self.count += 1
        if self.quiet:
            return None
        self.quiet = USUAL
        said = ", ".join(f"{layer} {ratio:.0f} times its usual" for layer, ratio in found.items())
        return (
            f"Gradient spike: {said}. Spikes that begin in the stem and a dip of the k-NN curve mean an unstable run, "
            "even where the loss looks well: try a lower lr, a longer warm-up, or a frozen patch embedding."
        )


@dataclass
class DipWatch:
    """Says when an accuracy falls by more than three standard errors below its best, and again when it falls as far
    below what was said, or after it was back."""

    n: int  # records it is a share of
    best: float = 0.0
    said: float | None = None

    def see(self, accuracy: float) -> str | None:
        noise = 3 * (max(self.best * (1 - self.best), 1e-4) / max(self.n, 1)) ** 0.5
        dip = self.best - accuracy
        self.best = max(self.best, accuracy)
        if dip <= noise:
            self.said = None
            return None
        if self.said is not None and self.said - accuracy <= noise:
            return None
        self.said = accuracy
        return f"k-NN dip: {100 * accuracy:.1f} % after {100 * self.best:.1f} %; the run may be unstable."
