"""ASiT: Local-Global Audio Spectrogram vIsion Transformer (Atito et al. 2022, arXiv 2211.13189).

A ViT reads two excerpts of a recording as spectrograms in which blocks are overwritten. It gives back what was there
(GMML), tells of each patch what a slow teacher, who reads all of it, says of that patch (local), and of each excerpt
what the teacher says of the other (global). Patches and excerpts share a head but for their prototypes.

The official code takes every file to be of 32 kHz; here recordings are resampled. Its mean and deviation are AudioSet's
at 16 kHz. It means to hold the prototypes in the first epoch and does not: `freeze_last_layer=1` does.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tacit import encoders
from tacit.engine import Method, Progress, Step, restoring_signals
from tacit.engine.distilling import hold_last_layers, momentum_at, watched
from tacit.engine.levelling import LevelledRecipe
from tacit.engine.schedules import by_epoch
from tacit.heads import PixelDecoder, PrototypeHeads
from tacit.objectives import across_views, masked_l1, mean_in_parts, sharpen, soft_cross_entropy
from tacit.settings import again, setting
from tacit.teachers import Center, ema_update, momentum_copy
from tacit.views import Another, Blocks, Corrupted, Excerpt, corruption_problems


@dataclass(frozen=True)
class Settings(LevelledRecipe):
    encoder: str = again(LevelledRecipe, "encoder", "vit_base_patch16_224")
    rate: int = again(LevelledRecipe, "rate", 32_000)
    epochs: int = again(LevelledRecipe, "epochs", 100)
    batch_size: int = again(LevelledRecipe, "batch_size", 128)

    roll: float = setting(0.5, "chance that a recording is rolled circularly before excerpts are cut", low=0, high=1)
    fills: tuple[str, ...] = setting(("zeros",), "what overwrites, one kind an excerpt: zeros, noise, time, freq, copy")
    noise: tuple[float, float] = setting(
        (-4.2677393, 4.5689974), "mean and deviation of noise, on normalised inputs; the code has those of raw ones"
    )
    share: float = setting(0.7, "most of an excerpt's area that blocks overwrite", low=0.01, high=0.95)
    donor_share: float = setting(0.3, "the same where another recording overwrites; 0 for never", low=0, high=0.95)
    align: int = setting(1, "blocks lie at multiples of so many frames and bands", low=1)
    max_block: float = setting(0.3, "sides of blocks are less than this share of the excerpt's", low=0.01, high=0.95)
    view_weight: float = setting(1.0, "of what is said of the other excerpt", low=0)
    patch_weight: float = setting(1.0, "of what is said of the patches", low=0)
    reconstruction_weight: float = setting(2.0, "of reconstruction", low=0)
    prototypes: int = setting(8192, "of excerpts", low=2)
    patch_prototypes: int = setting(1024, "of patches", low=2)
    hidden: int = setting(2048, "hidden width of the shared head", low=1)
    bottleneck: int = setting(256, "width of the embeddings that are compared with prototypes", low=1)
    freeze_last_layer: float = setting(0.0, "epochs in which the student's prototypes stay as they are", low=0)
    decoder_widths: tuple[int, ...] = setting((768, 768, 128), "of the decoder's layers before its convolution", low=1)
    drop_path: float = setting(0.1, "stochastic depth of the last block, not the teacher's", low=0, high=0.99)
    student_temperature: float = setting(0.1, "divides the student's logits", low=1e-3)
    teacher_temperature: float = setting(0.07, "divides the teacher's logits, once warm", low=1e-3)
    teacher_temperature_start: float = setting(0.04, "the same at the start", low=1e-3)
    teacher_temperature_epochs: int = setting(30, "epochs in which it goes from one to the other", low=0)
    centering: bool = setting(True, "subtract the running mean of the teacher's logits; without it, it collapses")
    center_momentum: float = setting(0.9, "of that running mean", low=0, high=1)
    momentum: float = setting(0.996, "of the teacher at the first step; rises to 1 by a cosine", low=0, high=1)
    chunk: int = setting(0, "patches whose logits are held at a time, where memory is short; 0 for all", low=0)

    @property
    def distils(self) -> bool:
        return self.view_weight > 0 or self.patch_weight > 0

    @property
    def trunk(self) -> dict[str, object]:
        return {} if self.distils else encoders.mean_pooled(self.encoder)  # nothing trains the class token then


class ASiT(Method):
    title = "ASiT"
    paper = "Atito et al. 2022, ASiT: Local-Global Audio Spectrogram vIsion Transformer, arXiv 2211.13189"
    modality = "audio"
    family = "masked and distillation"
    needs = frozenset({"cls"})
    Settings = Settings
    presets = {
        "paper": Settings(),
        # Noise of the size of what it overwrites, in the place of the code's.
        "noise_fixed": Settings(fills=("noise",), noise=(0.0, 0.5)),
        # GMML on spectrograms; with one of the weights alone 0, the teacher of excerpts or of patches is left out.
        "reconstruction": Settings(view_weight=0.0, patch_weight=0.0),
        # For some thousand short recordings on one CPU or GPU, a thousandth of the steps: small batches for more of
        # them, a teacher that follows within a hundred, a short warm-up, a higher rate, temperatures warm from the
        # start. A second at 8 kHz, half the bands and patches of half the side; a sixteenth and a quarter of the
        # prototypes, narrow heads. Mean and deviation are those of the data.
        "small": Settings(
            encoder="vit_mini", size=96, mels=64, rate=8000, patch=8, epochs=20, warmup_epochs=1, batch_size=32,
            lr=4e-3, mean=None, std=None, prototypes=512, patch_prototypes=256, hidden=256, bottleneck=64,
            decoder_widths=(128, 128), drop_path=0.05, teacher_temperature=0.04, teacher_temperature_epochs=0,
            momentum=0.99,
        ),
    }  # fmt: skip
    tiny = {"prototypes": 32, "patch_prototypes": 16, "hidden": 32, "bottleneck": 16, "decoder_widths": (16,)}

    @classmethod
    def problems(cls, s: Settings) -> list[str]:
        found = corruption_problems(Blocks(s.align, s.max_block), s.fills, s.share, s.donor_share, s.shape)
        if not s.distils and not s.reconstruction_weight:
            found.append("All weights are 0: nothing would be learned. Set reconstruction_weight=2.")
        return found

    def __init__(self, s: Settings):
        super().__init__()
        self.s = s
        self.encoder = encoders.build(s.encoder, inputs=s.inputs, patch=s.patch, drop_path=s.drop_path, **s.trunk)
        width, patch = self.encoder.width, encoders.step(self.encoder)
        self.decoder = PixelDecoder(width, 1, patch, rows=s.size // patch, widths=s.decoder_widths)
        if s.distils:
            prototypes = {"view": s.prototypes, "patch": s.patch_prototypes}
            self.head = PrototypeHeads(width, prototypes, hidden=s.hidden, bottleneck=s.bottleneck)
            self.teacher = encoders.set_drop_path(momentum_copy(self.encoder), 0.0)
            self.teacher_head = momentum_copy(self.head)
            self.centers = nn.ModuleDict({name: Center(n, s.center_momentum) for name, n in prototypes.items()})

    @property
    def handed_over(self) -> encoders.Encoder:
        return self.teacher if self.s.distils else self.encoder

    def views(self) -> list[Corrupted]:
        """Two excerpts of the same recording, rolled alike, each overwritten by itself."""
        s, inputs = self.s, self.encoder.inputs
        excerpts = Excerpt(inputs, "excerpt 1", roll=s.roll), Another(inputs, "excerpt 2", roll=s.roll)
        how = (Blocks(s.align, s.max_block), s.fills, s.share, s.donor_share)
        return [Corrupted(excerpt, *how, normal=s.noise) for excerpt in excerpts]

    def after_init(self) -> None:
        if self.s.distils:
            ema_update(self.teacher, self.encoder, 0.0)

    def loss(self, views: list[dict[str, Tensor]], progress: Progress) -> Step:
        s, (images, clean, mask) = self.s, (torch.cat([v[n] for v in views]) for n in ("image", "clean", "mask"))
        features, tokens = self.encoder.features_and_tokens(images)  # [2 B, D], [2 B, N, D]
        restored = masked_l1(self.decoder(tokens), clean, mask)
        terms = {"reconstruction": s.reconstruction_weight * restored}
        nothing = masked_l1(torch.zeros_like(clean), clean, mask)
        if not s.distils:
            return Step(terms, restoring_signals(*tokens.mean(1).chunk(2), restored, nothing))
        ramp = (s.teacher_temperature_start, s.teacher_temperature, s.teacher_temperature_epochs)
        last, teach, t = self.head.last_layer, self.teacher_head, by_epoch(progress.epoch, *ramp)
        with torch.no_grad():  # the teacher reads whole excerpts
            seen, seen_tokens = self.teacher.features_and_tokens(clean)
            zt, rows = teach.embed(seen), teach.embed(seen_tokens).flatten(0, 1)  # [2 B N, bottleneck]
            logits, mean = teach.last_layer["view"](zt), teach.last_layer["patch"](rows.mean(0, keepdim=True))
        center = {name: c.center if s.centering else None for name, c in self.centers.items()}
        targets, z = sharpen(logits, t, center["view"]).chunk(2), self.head.embed(features)

        def of_patches(said: Tensor, seen: Tensor) -> Tensor:
            wanted = sharpen(teach.last_layer["patch"](seen), t, center["patch"])
            return soft_cross_entropy(wanted, last["patch"](said), s.student_temperature)

        said, own = last["view"](z).chunk(2), self.head.embed(tokens).flatten(0, 1)
        terms["views"] = s.view_weight * across_views(targets, said, s.student_temperature)
        terms["patches"] = s.patch_weight * mean_in_parts(of_patches, s.chunk, own, rows)
        signals = watched(features.chunk(2)[0], z, zt, targets[0], momentum_at(s, progress))
        signals |= {"view_logits": logits.mean(0, keepdim=True), "patch_logits": mean}  # the layer is linear
        return Step(terms, signals | {"metric/l1_of_mean_energy": restored.detach() / nothing})

    def before_update(self, progress: Progress) -> None:
        hold_last_layers(self.s, progress, *([self.head] if self.s.distils else []))

    def after_step(self, signals: list[dict[str, Tensor]], progress: Progress) -> None:
        if self.s.distils:
            for name, center in self.centers.items():
                center.update(torch.cat([s[f"{name}_logits"] for s in signals]))
            ema_update(self.teacher, self.encoder, momentum_at(self.s, progress))
            ema_update(self.teacher_head, self.head, momentum_at(self.s, progress))

    @torch.no_grad()
    def reconstructions(self, views: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """[B, 1, frames, mels] each, as prepared: the first excerpt, what is left of it, and what is made of that."""
        shown = {"input": views[0]["clean"], "masked": views[0]["image"]}
        return shown | {"reconstruction": self.decoder(self.encoder.tokens(shown["masked"]))}
