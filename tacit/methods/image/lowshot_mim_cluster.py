"""Low-shot MIM and clustering: Investigating Self-Supervised Methods for Label-Efficient Learning (Nandam et al. 2024,
arXiv 2406.17460).

A study of pretext tasks, and a framework that joins two of them: a student sees pictures with blocks overwritten, gives
the pixels back, and says which clusters the whole picture and its hidden patches belong to, as an averaged teacher says
who sees all. Each task has a weight, so that every arm of the study is a setting; `avoid` names what keeps clusters
from collapse. No code was published: what the abstract leaves open follows MC-SSL, iBOT, MSN and GMML.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tacit import encoders
from tacit.engine import Method, Progress, Step
from tacit.engine.clustering import Clustering, Clusters, avoid_problems
from tacit.engine.distilling import momentum_at
from tacit.engine.monitors import about_mean
from tacit.heads import PixelDecoder
from tacit.objectives import across_views, info_nce_across_views, masked_cross_entropy, masked_l1, to_pixels
from tacit.settings import again, setting
from tacit.teachers import ema_update, momentum_copy
from tacit.views import Hiding, View, hide, hiding_problems, multi_crop, patches_of


@dataclass(frozen=True)
class Settings(Clustering, Hiding):
    encoder: str = again(Clustering, "encoder", "deit_small")
    epochs: int = again(Clustering, "epochs", 800)
    batch_size: int = again(Clustering, "batch_size", 1024)
    global_area: tuple[float, float] = again(Clustering, "global_area", (0.25, 1.0))
    local_area: tuple[float, float] = again(Clustering, "local_area", (0.05, 0.25))
    prototypes: int = again(Clustering, "prototypes", 8192)
    teacher_temperature: float = again(Clustering, "teacher_temperature", 0.07)
    teacher_temperature_epochs: int = again(Clustering, "teacher_temperature_epochs", 30)

    view_weight: float = setting(1.0, "of the clusters of whole pictures, across views", low=0)
    patch_weight: float = setting(1.0, "of the clusters of hidden patches, in the same view", low=0)
    pixel_weight: float = setting(1.0, "of the pixels that are given back", low=0)
    contrast_weight: float = setting(0.0, "of InfoNCE of whole pictures with the teacher's keys", low=0)
    temperature: float = setting(0.2, "of InfoNCE, which is multiplied by twice that", low=1e-3)
    patch_prototypes: int = setting(8192, "outputs for patches", low=2)
    head_norm: bool = setting(False, "a BatchNorm after each hidden layer of the head, as MSN has")
    local_crops: int = setting(10, "small crops beside the two large ones, whole, for tasks of whole pictures", low=0)
    local_size: int = setting(96, "side of the small crops, in pixels", low=4)
    decoder_layers: int = setting(3, "linear layers of the pixel decoder before its convolution", low=0)


class LowShotMIMCluster(Method):
    title = "MIM and clustering"
    paper = "Nandam et al. 2024, Investigating Self-Supervised Methods for Label-Efficient Learning, arXiv 2406.17460"
    modality = "image"
    family = "masked and distillation"
    needs = frozenset({"cls", "drop_tokens", "mask_tokens"})
    Settings = Settings
    presets = {
        "paper": Settings(),
        # For some thousand small images on one CPU or GPU, the mechanism whole, with the changes of DINO's `small`.
        "small": Settings(
            encoder="vit_mini", size=32, epochs=20, warmup_epochs=1, batch_size=64, lr=3e-3, local_crops=4,
            local_size=16, prototypes=256, patch_prototypes=256, hidden=256, bottleneck=64, momentum=0.99,
            drop_path=0.05, teacher_temperature=0.04, teacher_temperature_epochs=0, blur_sigma=(0.1, 1.0),
            local_area=(0.2, 0.6),
        ),
    }  # fmt: skip
    tiny = {"local_size": 8, "hidden": 32, "bottleneck": 16, "prototypes": 32, "patch_prototypes": 32}

    @classmethod
    def problems(cls, s: Settings) -> list[str]:
        found = avoid_problems(s) + hiding_problems(s, s.size, encoders.patch_of(s.encoder, s.patch))
        whole, parts = s.view_weight or s.contrast_weight, s.patch_weight or s.pixel_weight
        if not (whole or parts):
            found.append("view_weight, patch_weight, pixel_weight and contrast_weight are 0: nothing would be learned.")
        if parts and s.corrupt in ("drop", "none"):
            found.append(f"corrupt = {s.corrupt}: nothing is hidden to tell. Set patch_weight=0 and pixel_weight=0.")
        return found + (encoders.crop_problems(s.encoder, s.local_size, s.patch) if s.local_crops and whole else [])

    def __init__(self, s: Settings):
        super().__init__()
        self.s = s
        how = {"size": s.size, "channels": s.channels, "patch": s.patch, "drop_path": s.drop_path}
        self.encoder = encoders.any_size(encoders.build(s.encoder, interpolation="bicubic", **how))
        self.teacher = encoders.set_drop_path(momentum_copy(self.encoder), 0.0)  # of every arm: it is handed over
        kinds = {"views": s.prototypes} if s.view_weight else {}
        kinds |= {"patches": s.patch_prototypes} if s.patch_weight else {}
        self.clusters = self.decoder = None
        if kinds or s.contrast_weight:
            self.clusters = Clusters(s, self.encoder.width, kinds, batch_norm=s.head_norm)
        if s.corrupt == "tokens":
            self.mask_token = nn.Parameter(torch.zeros(self.encoder.width))
        if s.pixel_weight:
            patch = encoders.step(self.encoder)
            self.decoder = PixelDecoder(self.encoder.width, s.channels, patch, s.decoder_layers)

    @property
    def handed_over(self) -> encoders.Encoder:
        return self.teacher

    def views(self) -> list[View]:
        s, inputs = self.s, self.encoder.inputs
        small = s.local_crops if s.view_weight or s.contrast_weight else 0
        crops = multi_crop(inputs, small, s.local_size, s.global_area, s.local_area, s.blur_sigma)
        return [*(hide(s, crop, encoders.step(self.encoder)) for crop in crops[:2]), *crops[2:]]

    def after_init(self) -> None:
        ema_update(self.teacher, self.encoder, 0.0)

    def encode(self, images: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Class tokens [B, D] and patch tokens [B, N, D] of what the student is shown."""
        if self.s.corrupt == "drop":
            tokens = encoders.encode_visible(self.encoder, images, encoders.visible_ids(mask))
            return tokens[:, 0], tokens[:, 1:]
        hidden = (mask, self.mask_token) if self.s.corrupt == "tokens" else None
        return self.encoder(images, with_tokens=True, hidden=hidden)

    def loss(self, views: list[dict[str, Tensor]], progress: Progress) -> Step:
        s, terms = self.s, {}
        images, mask = _joined(views[:2], "image"), _joined(views[:2], "mask")
        clean = images if "clean" not in views[0] else _joined(views[:2], "clean")
        features, tokens = self.encode(images, mask)
        signals = {"features": features.chunk(2)[0].detach(), **about_mean(features)}
        if s.pixel_weight:
            where = mask if mask.ndim == 4 else to_pixels(mask, images)
            terms["pixels"] = s.pixel_weight * masked_l1(self.decoder(tokens), clean, where)
        if self.clusters is None:
            return Step(terms, signals)
        rows = torch.zeros(0, dtype=torch.long, device=images.device)  # [M], of the 2 B N patches
        if s.patch_weight:
            hidden = patches_of(mask, encoders.step(self.encoder), s.hidden_from).flatten(1)  # [2 B, N]
            rows = hidden.flatten().nonzero()[:, 0]
        whole = torch.cat([features, *encoders.by_size(self.encoder, [view["image"] for view in views[2:]])])
        z = self.clusters.student.embed(torch.cat([whole, tokens.flatten(0, 1)[rows]]))  # [V B + M, bottleneck]
        with torch.no_grad():
            seen, seen_tokens = self.teacher.features_and_tokens(clean)
            zt = self.clusters.teacher.embed(torch.cat([seen, seen_tokens.flatten(0, 1)[rows]]))
        (z, z_patch), (zt, zt_patch) = (x.tensor_split([len(of)]) for x, of in ((z, whole), (zt, seen)))
        signals |= {"embeddings": z[: len(zt)].detach(), "positives": zt.roll(len(zt) // 2, 0)}
        if s.contrast_weight:
            parts = zt.chunk(2), z.chunk(len(views)), s.temperature
            terms["contrast"] = s.contrast_weight * info_nce_across_views(*parts)
        for kind, of_student, of_teacher in (("patches", z_patch, zt_patch), ("views", z, zt)):
            if kind not in self.clusters.centers:
                continue
            said, wanted, signals[f"{kind}_logits"] = self.clusters.compare(kind, of_student, of_teacher, progress)
            if kind == "views":
                parts = wanted.chunk(2), said.chunk(len(views))
                terms[kind] = s.view_weight * across_views(*parts, s.student_temperature)
            else:
                terms[kind] = s.patch_weight * masked_cross_entropy(wanted, said, hidden, s.student_temperature)
            if "me_max" in s.avoid:
                terms[f"{kind}_me_max"] = self.clusters.me_max(said)
            signals["targets"] = wanted.chunk(2)[0]
        return Step(terms, signals | {"momentum": torch.tensor(momentum_at(s, progress))})

    def before_update(self, progress: Progress) -> None:
        if self.clusters is not None:
            self.clusters.hold(progress)

    def after_step(self, signals: list[dict[str, Tensor]], progress: Progress) -> None:
        m = momentum_at(self.s, progress)
        ema_update(self.teacher, self.encoder, m)
        if self.clusters is not None:
            self.clusters.follow(signals, m)

    @torch.no_grad()
    def reconstructions(self, views: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """[B, C, H, W] each, as prepared inputs: the first large crop, what is left of it, and what is made of that."""
        if self.decoder is None:
            return {}
        view, mask = views[0], views[0]["mask"]
        made = self.decoder(self.encode(view["image"], mask)[1])
        left = view["image"] if mask.ndim == 4 else view["image"].masked_fill(to_pixels(mask, view["image"]), 0)
        return {"input": view.get("clean", view["image"]), "masked": left, "reconstruction": made}


def _joined(views: list[dict[str, Tensor]], name: str) -> Tensor | None:
    return torch.cat([view[name] for view in views]) if name in views[0] else None
