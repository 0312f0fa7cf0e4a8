"""SimCLR v2's third stage (Chen et al. 2020, arXiv 2006.10029, section 2.3): a student that answers as its teacher.

The teacher is a classifier that was fine-tuned on few labels, kept by `tacit.evaluation.classifier.save`. The student,
as large or smaller, sees the same crops of unlabelled images and learns the teacher's probabilities. The paper first
distils the large network into itself, then into the small one. The term of labelled images, which the paper adds in
one comparison, is left out: all its results that count are with unlabelled images alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from tacit import encoders
from tacit.engine import Method, Progress, Recipe, Step
from tacit.errors import BadSettings, DataError
from tacit.evaluation import classifier
from tacit.objectives import sharpen, soft_cross_entropy
from tacit.settings import again, setting
from tacit.teachers import Frozen
from tacit.views import Crop


@dataclass(frozen=True)
class Settings(Recipe):
    # Rates, decay and batch as in the first stage, for half as long.
    encoder: str = again(Recipe, "encoder", "resnet50")
    epochs: int = again(Recipe, "epochs", 400)
    batch_size: int = again(Recipe, "batch_size", 4096)
    optimizer: str = again(Recipe, "optimizer", "lars_lr_inside")
    lr: float = again(Recipe, "lr", 0.1)
    lr_batch: int = again(Recipe, "lr_batch", 1)
    lr_scaling: str = again(Recipe, "lr_scaling", "sqrt")
    lr_warmup: float = again(Recipe, "lr_warmup", 0.0)
    lr_end: float = again(Recipe, "lr_end", 0.0)
    warmup_epochs: float = again(Recipe, "warmup_epochs", 20.0)
    weight_decay: float = again(Recipe, "weight_decay", 1e-4)

    teacher: str = setting("", "folder of the fine-tuned classifier, or run of a distilled one; must be given")
    temperature: float = setting(1.0, "divides both networks' logits; 0.1 to distil a network into itself", low=1e-3)
    min_area: float = setting(0.08, "smallest share of the image's area a crop may hold", low=0.001, high=1)


class SimCLRv2Distillation(Method):
    title = "SimCLR v2, distillation"
    paper = "Chen et al. 2020, Big Self-Supervised Models are Strong Semi-Supervised Learners, arXiv 2006.10029"
    modality = "image"
    family = "distillation"
    Settings = Settings
    presets = {
        "paper": Settings(),
        "self": Settings(temperature=0.1),
        # As `small` of the first stage: small batches, a short warm-up, larger crops, a ViT and so AdamW.
        "small": Settings(
            encoder="vit_mini", size=32, epochs=20, warmup_epochs=1, batch_size=64, optimizer="adamw", lr=5e-4,
            lr_batch=64, weight_decay=0.05, min_area=0.2,
        ),
    }  # fmt: skip

    def __init__(self, s: Settings):
        super().__init__()
        self.s = s
        if not s.teacher:
            raise BadSettings(["teacher: not given. Name a fine-tuned classifier's folder: --set teacher=FOLDER"])
        try:
            teacher, self.classes = classifier.load(s.teacher)
        except DataError as error:
            raise BadSettings([f"teacher = {s.teacher}: {error}"]) from error
        seen = teacher.encoder.inputs
        if (seen.size, seen.channels) != (s.size, s.channels):
            raise BadSettings(
                [
                    f"size = {s.size}, channels = {s.channels}: both networks see the same crops, and the teacher was "
                    f"trained on {seen.size} pixels and {seen.channels} channels. "
                    f"Set size={seen.size} and channels={seen.channels}."
                ]
            )
        self.encoder = encoders.build(
            s.encoder, size=s.size, channels=s.channels, patch=s.patch, window=s.window, mean=seen.mean, std=seen.std,
            interpolation=seen.interpolation,
        )  # fmt: skip
        self.head = nn.Linear(self.encoder.width, len(self.classes))
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)
        self.teacher = Frozen(teacher)

    def views(self) -> list[Crop]:
        return [Crop(inputs=self.encoder.inputs, scale=(self.s.min_area, 1.0), ratio=(3 / 4, 4 / 3), flip=0.5)]

    def loss(self, views: list[dict[str, Tensor]], progress: Progress) -> Step:
        (images,) = (view["image"] for view in views)  # [B, C, H, W]
        features = self.encoder(images)
        targets = sharpen(self.teacher(images), self.s.temperature)  # [B, classes]
        logits = self.head(features)
        signals = {"features": features.detach(), "targets": targets}
        return Step({"teacher": soft_cross_entropy(targets, logits, self.s.temperature)}, signals)

    def hand_over(self, run: Path) -> None:
        """The encoder, and the whole classifier in `classifier/`: a teacher in its turn."""
        super().hand_over(run)
        model = classifier.Classifier(self.encoder, len(self.classes))
        model.head = self.head
        classifier.save(model, self.classes, run / "classifier")
