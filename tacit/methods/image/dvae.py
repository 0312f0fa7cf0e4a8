"""The discrete VAE of DALL-E: Zero-Shot Text-to-Image Generation (Ramesh et al. 2021, arXiv 2102.12092, appendix A).

An encoder names every patch of a picture by one of some thousand codes, and a decoder paints the picture again from
the names. The choice is relaxed (Gumbel-softmax) and hardens as the temperature falls. What a run leaves in
`tokenizer/` gives BEiT, CAE and their kin their targets.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit import encoders
from tacit.engine import Method, Progress, Recipe, Step
from tacit.engine.schedules import cosine
from tacit.objectives import divergence_from_uniform, logit_laplace
from tacit.settings import again, setting
from tacit.teachers import ema_update, momentum_copy
from tacit.views import Crop


@dataclass(frozen=True)
class Settings(Recipe):
    encoder: str = again(Recipe, "encoder", "dall_e_dvae")
    size: int = again(Recipe, "size", 256)
    # The rate falls for 1.2 million updates; the paper goes on at its end to 3 million.
    epochs: int = again(Recipe, "epochs", 1200)
    epoch_steps: int | None = again(Recipe, "epoch_steps", 1000)
    lr: float = again(Recipe, "lr", 1e-4)
    lr_warmup: float = again(Recipe, "lr_warmup", 0.0)
    lr_end: float = again(Recipe, "lr_end", 1.25e-6)
    warmup_epochs: float = again(Recipe, "warmup_epochs", 0.0)
    weight_decay: float = again(Recipe, "weight_decay", 1e-4)

    vocabulary: int = setting(8192, "codes", low=2)
    kl_weight: float = setting(6.6, "of the divergence of codes from all being alike, once it has risen", low=0)
    kl_steps: int = setting(5000, "updates in which it rises, from 0", low=1)
    temperature: float = setting(1.0, "of the relaxed choice, at the start", low=1e-3)
    temperature_end: float = setting(1 / 16, "and at the end", low=1e-3)
    temperature_steps: int = setting(150_000, "updates in which it falls", low=1)
    straight_through: bool = setting(False, "the decoder sees one code; gradients pass as if it saw the relaxed choice")
    average: float = setting(0.999, "share of the averaged weights that an update leaves; these are handed over", low=0)
    # The paper cuts a square of 8/12 to 8/9 of the shorter side.
    area: tuple[float, float] = setting((0.444, 0.79), "share of the image's area a view holds", low=0.001, high=1)
    aspect: float = setting(1.0, "largest ratio of a view's sides", low=1)


class DiscreteVAE(Method):
    title = "Discrete VAE (DALL-E)"
    paper = "Ramesh et al. 2021, Zero-Shot Text-to-Image Generation, arXiv 2102.12092"
    modality = "image"
    family = "reconstruction"
    Settings = Settings
    presets = {
        "paper": Settings(),
        # For some thousand small images on one CPU or GPU, the mechanism whole. Codes of 4 x 4 pixels, a quarter of
        # the values each: the weight of what a code costs is a quarter, too. An eighth of the width, a group of one
        # block, a sixteenth of the codes. A thousandth of the updates, so a higher rate and a quicker average; what is
        # relaxed for a twentieth of the run is so for half of it, and the choice is hard from the start.
        "small": Settings(
            encoder="dvae_mini", size=32, epochs=20, epoch_steps=None, batch_size=64, lr=1e-3, lr_batch=64,
            lr_end=1e-5, vocabulary=512, kl_weight=1.65, kl_steps=150, temperature_steps=800, straight_through=True,
            average=0.99, area=(0.2, 1.0), aspect=4 / 3,
        ),
    }  # fmt: skip
    tiny = {"vocabulary": 32}

    @classmethod
    def problems(cls, s: Settings) -> list[str]:
        stride = encoders.dvae_stride(s.encoder)
        if stride is None:
            return [f"encoder = {s.encoder}: must be dall_e_dvae or dvae_mini, whose map is turned into codes."]
        if s.size % stride:
            near = s.size // stride * stride
            either = f"{near} or {near + stride}" if near else str(stride)
            return [f"size = {s.size}: codes of {s.encoder} are of {stride} x {stride} pixels. Set size={either}."]
        return []

    def __init__(self, s: Settings):
        super().__init__()
        self.s = s
        inputs = encoders.dvae_inputs(s.size, s.channels)
        self.encoder = encoders.build(s.encoder, size=s.size, channels=s.channels, mean=inputs.mean, std=inputs.std)
        self.codes, self.decoder = encoders.dvae_parts(self.encoder.trunk, s.vocabulary)
        self.averaged = momentum_copy(nn.ModuleDict(dict(self.parts())))

    def parts(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder, "codes": self.codes, "decoder": self.decoder}

    @property
    def handed_over(self) -> encoders.Encoder:
        return self.averaged["encoder"]

    def views(self) -> list[Crop]:
        s = self.s
        return [Crop(inputs=self.encoder.inputs, scale=s.area, ratio=(1 / s.aspect, s.aspect))]

    def after_init(self) -> None:
        ema_update(self.averaged, nn.ModuleDict(self.parts()), 0.0)

    def loss(self, views: list[dict[str, Tensor]], progress: Progress) -> Step:
        s, x = self.s, views[0]["image"]  # [B, C, H, W], of 0.1 to 0.9
        found = self.encoder.trunk.forward_features(x)
        logits = self.codes(found).float()  # [B, K, h, w]
        temperature = cosine(progress.step, s.temperature_steps, s.temperature, s.temperature_end)
        chosen = F.gumbel_softmax(logits, tau=temperature, hard=s.straight_through, dim=1)
        mean, log_scale = self.decoder(chosen).chunk(2, dim=1)
        weight = cosine(progress.step, s.kl_steps, 0.0, s.kl_weight)
        # Both are sums over the picture, over the number of its values.
        cost = divergence_from_uniform(logits).sum((1, 2)).mean() / x[0].numel()
        terms = {"pixels": logit_laplace(x, mean, log_scale).mean(), "codes": weight * cost}
        features = self.encoder.trunk.forward_head(found).detach().float()
        used = F.one_hot(logits.argmax(1), s.vocabulary).float().mean((0, 1, 2))
        painted = torch.sigmoid(mean.detach().float())
        signals = {
            "features": features,
            "embeddings": F.normalize(features - features.mean(0), dim=1),
            "metric/codes_used": torch.special.entr(used).sum().exp(),
            "metric/explained": 1 - (painted - x).square().mean() / x.var().clamp_min(1e-12),
        }
        return Step(terms, signals)

    def after_step(self, signals: list[dict[str, Tensor]], progress: Progress) -> None:
        ema_update(self.averaged, nn.ModuleDict(self.parts()), self.s.average)

    def tokenizer(self) -> encoders.DVAE:
        """Of the averaged weights."""
        parts = self.averaged
        return encoders.DVAE(parts["encoder"].trunk, parts["codes"], parts["decoder"], self.encoder.inputs)

    def hand_over(self, run: Path) -> None:
        """The encoder, and the tokeniser it is a part of."""
        super().hand_over(run)
        encoders.save_tokenizer(self.tokenizer(), run / "tokenizer")

    @torch.no_grad()
    def reconstructions(self, views: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Each [B, C, H, W], as the encoder's inputs: the picture, and what its codes alone tell of it."""
        x, tokenizer = views[0]["image"], self.tokenizer()
        return {"input": x, "reconstruction": self.encoder.inputs.prepare(tokenizer.decode(tokenizer(x)))}
