"""Attentive probing (Chen et al. 2022, CAE, section 4.2): one learned query reads all tokens of a frozen encoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tacit.data import Batches, Source
from tacit.encoders import Encoder
from tacit.errors import BadSettings, RunFailed
from tacit.evaluation.cache import fingerprint
from tacit.evaluation.linear_sgd import Preset, rate
from tacit.evaluation.logits import logits_of
from tacit.heads import CrossAttention
from tacit.views import Crop, Views, collate, finish

# run_attentive.py: SGD with Nesterov momentum, no decay, rate 0.4 at 8192 records; a head that begins near zero.
PAPER = Preset(lrs=(0.4,), lr_batch=8192, epochs=90, batch_size=8192, nesterov=True, warmup_epochs=10, lr_end=1e-6)
HEAD_SCALE = 1e-3


@dataclass(frozen=True)
class Read:
    """What the probe says of the test records, and their numbers: [M] each."""

    predicted: Tensor
    index: Tensor


class AttentiveProbe(nn.Module):
    """A query attends once to tokens [B, T, D]; BatchNorm without weights, and a linear layer: [B, classes].

    Query, keys and values have a LayerNorm each; nothing is added to what the attention gives, and no MLP follows.
    The query begins at zero, where every token counts alike: until it learns, the values are averaged.
    """

    def __init__(self, width: int, classes: int, heads: int):
        super().__init__()
        self.query = nn.Parameter(torch.zeros(1, 1, width))
        self.norm_q, self.norm_k, self.norm_v = (nn.LayerNorm(width, eps=1e-6) for _ in range(3))
        self.attn = CrossAttention(width, heads)
        self.norm = nn.BatchNorm1d(width, affine=False)
        self.head = nn.Linear(width, classes)
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.trunc_normal_(part.weight, std=0.02)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)
        with torch.no_grad():
            self.head.weight.mul_(HEAD_SCALE)

    def read(self, tokens: Tensor) -> Tensor:
        """[B, T, D] -> [B, D], what the query takes in."""
        query = self.norm_q(self.query).expand(len(tokens), -1, -1)
        return self.attn(query, self.norm_k(tokens), self.norm_v(tokens))[:, 0]

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.norm(self.read(tokens)))


class Probed(nn.Module):
    """A frozen encoder and the probe of its tokens, as one classifier."""

    def __init__(self, encoder: Encoder, probe: AttentiveProbe):
        super().__init__()
        self.encoder, self.probe = encoder, probe

    def train(self, mode: bool = True) -> Probed:
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            tokens = all_tokens(self.encoder, x)
        return self.probe(tokens)


def all_tokens(encoder: Encoder, x: Tensor) -> Tensor:
    """Tokens after the last norm [B, T, D], class token and registers of a ViT included: [B, C, H, W]."""
    found = encoder.trunk.forward_features(x)
    return (found if isinstance(encoder.trunk, VisionTransformer) else encoder.tokens(x)).float()


def heads_of(encoder: Encoder, asked: int = 0) -> int:
    """Heads of the probe's attention: those asked for, or the encoder's own; those of a width of 64 where it has none.

    Raises:
        BadSettings: they do not divide the width.
    """
    blocks = getattr(encoder.trunk, "blocks", None)
    own = getattr(getattr(blocks[-1] if blocks else None, "attn", None), "num_heads", 0)
    heads = asked or own or max(encoder.width // 64, 1)
    if encoder.width % heads:
        raise BadSettings([f"heads = {heads}: must divide the width of {encoder.name}, {encoder.width}."])
    return heads


def attentive(
    encoder: Encoder,
    source: Source,
    test: Source,
    *,
    classes: int,
    preset: Preset = PAPER,
    heads: int = 0,
    seed: int = 0,
    workers: int = 0,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Read:
    """Train a probe on `source`, on random resized crops and flips, and name the records of `test`.

    The encoder is in eval mode, and not changed.

    Raises:
        RunFailed: a tensor of the encoder changed, or a loss that is no number. BadSettings: see `heads_of`.
    """
    heads = heads_of(encoder, heads)
    encoder = encoder.to(device).eval()
    before = fingerprint(encoder)
    torch.manual_seed(seed)
    model = Probed(encoder, AttentiveProbe(encoder.width, classes, heads)).to(device).train()
    per_epoch = len(source) // preset.batch_size
    steps = preset.epochs * per_epoch
    solver = torch.optim.SGD(model.probe.parameters(), lr=0.0, momentum=0.9, nesterov=preset.nesterov)
    view = Crop(inputs=encoder.inputs, name="probe")
    order = Batches(source, batch_size=preset.batch_size, seed=seed, total_steps=steps)
    loader = DataLoader(Views(source, [view], seed), batch_sampler=order, collate_fn=collate, num_workers=workers)
    for step, batch in enumerate(loader):
        solver.param_groups[0]["lr"] = rate(preset, preset.lrs[0], step, steps, per_epoch, preset.batch_size)
        logits = model(finish(batch, [view])[0]["image"].to(device))
        loss = F.cross_entropy(logits, batch["label"].to(device), label_smoothing=preset.smoothing)
        if not torch.isfinite(loss):
            raise RunFailed(f"The loss is {float(loss)} at step {step} of {steps}. Lower lr ({preset.lrs[0]:g}).")
        solver.zero_grad()
        loss.backward()
        solver.step()
        if progress is not None:
            progress(step + 1, steps)
    if fingerprint(encoder) != before:
        raise RunFailed("The attentive probe changed the encoder it was to leave alone. Please report this.")
    logits, index, _ = logits_of(model, test, workers=workers, device=device)
    return Read(logits.argmax(1), index)
