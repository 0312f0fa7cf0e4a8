"""Classifiers that are kept: trained on few labels by SimCLR v2's recipe, saved, loaded, asked (arXiv 2006.10029).

The folder of a classifier is an encoder's folder too, with `head.safetensors` and `classifier.json` beside it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.optim.lars import Lars
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tacit import encoders
from tacit.data import Batches, Source, match_classes
from tacit.encoders import Encoder
from tacit.errors import DataError, RunFailed, UsageError
from tacit.evaluation import intervals
from tacit.evaluation.fine_tune import Classifier
from tacit.evaluation.logits import logits_of
from tacit.run import read_json, write_json
from tacit.views import Crop, Views, collate, finish

FORMAT = 1
KINDS = {
    "Linear": nn.Linear, "BatchNorm1d": nn.BatchNorm1d, "LayerNorm": nn.LayerNorm, "ReLU": nn.ReLU, "GELU": nn.GELU,
}  # fmt: skip


@dataclass(frozen=True)
class FewLabels:
    """Crops and flips alone, no decay, no warm-up, a cosine to 0; `lr` is times the root of the batch (section 3)."""

    epochs: int = 60
    batch_size: int = 1024
    lr: float = 0.005
    optimizer: str = "lars"  # or adamw, for transformers
    min_area: float = 0.08


RECIPES = {
    "one_percent": FewLabels(),
    "ten_percent": FewLabels(epochs=30),
    "one_percent_large": FewLabels(lr=0.002),  # ResNets with selective kernels, or wider ones
    "ten_percent_large": FewLabels(epochs=30, lr=0.002),
    "small": FewLabels(batch_size=64, lr=6e-5, optimizer="adamw", min_area=0.2),
}


def train_classifier(
    encoder: Encoder,
    source: Source,
    *,
    recipe: FewLabels,
    neck: nn.Module | None = None,
    neck_width: int | None = None,
    seed: int = 0,
    workers: int = 0,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Classifier:
    """A copy of `encoder` with a linear layer, trained as a whole on the labels of `source`; in evaluation mode.

    Args:
        neck: the first layers of the projector that the encoder was pre-trained with, of output width `neck_width`.

    Raises:
        DataError: `source` has no labels. RunFailed: a loss that is no number.
    """
    if source.labels is None:
        raise DataError("A classifier needs labels to learn from, and the data has none.")
    torch.manual_seed(seed)
    model = Classifier(deepcopy(encoder), len(source.classes), deepcopy(neck), neck_width).to(device).train()
    batch = min(recipe.batch_size, len(source))
    steps = recipe.epochs * (len(source) // batch)
    solver, view = _solver(model, recipe), Crop(inputs=encoder.inputs, name="fine-tune", scale=(recipe.min_area, 1.0))
    loader = DataLoader(
        Views(source, [view], seed), collate_fn=collate, num_workers=workers,
        batch_sampler=Batches(source, batch_size=batch, seed=seed, total_steps=steps),
    )  # fmt: skip
    for step, found in enumerate(loader):
        for group in solver.param_groups:
            group["lr"] = recipe.lr * batch**0.5 * 0.5 * (1 + np.cos(np.pi * step / steps))
        x, y = finish(found, [view])[0]["image"].to(device), found["label"].to(device)
        loss = F.cross_entropy(model(x).float(), y)
        if not torch.isfinite(loss):
            raise RunFailed(f"The loss is {float(loss)} at step {step} of {steps}. Lower lr ({recipe.lr:g}).")
        solver.zero_grad()
        loss.backward()
        solver.step()
        if progress is not None:
            progress(step + 1, steps)
    return model.eval()


def _solver(model: Classifier, recipe: FewLabels) -> torch.optim.Optimizer:
    """Of LARS the last layer and all vectors are left out: they take plain steps with momentum."""
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=0.0)
    named = list(model.named_parameters())
    plain = [p for name, p in named if p.ndim < 2 or name.startswith("head.")]
    adapted = [p for name, p in named if p.ndim > 1 and not name.startswith("head.")]
    return Lars([{"params": adapted, "always_adapt": True}, {"params": plain}], lr=0.0, momentum=0.9, weight_decay=0.0)


def save(model: Classifier, classes: Sequence[str], folder: str | os.PathLike) -> None:
    """Write the encoder's folder, head.safetensors and classifier.json, each whole or not at all.

    Raises:
        UsageError: layers between encoder and head that are none of linear, BatchNorm, LayerNorm, ReLU and GELU.
    """
    folder = Path(folder)
    encoders.save(model.encoder, folder)
    parts = {"neck": model.neck, "head": model.head}
    state = {f"{part}.{name}": t for part, module in parts.items() for name, t in module.state_dict().items()}
    encoders.write_tensors(folder / "head.safetensors", state)
    about = {"format": FORMAT, "classes": list(classes), "neck": _described(model.neck)}
    if model.several:
        about["several"] = True
    write_json(folder / "classifier.json", about)


def is_classifier(folder: str | os.PathLike) -> bool:
    return (Path(folder) / "classifier.json").is_file()


def load(folder: str | os.PathLike) -> tuple[Classifier, tuple[str, ...]]:
    """A classifier in evaluation mode and the names of its classes, from its folder or a distilled run's.

    Raises:
        DataError: the folder holds no classifier, or a damaged one.
    """
    path = Path(folder)
    path = path / "classifier" if is_classifier(path / "classifier") else path
    if not is_classifier(path):
        raise DataError(
            f"{folder} holds no classifier (no classifier.json). Train one on labels with: "
            f"tacit finetune RUN --data labelled/ --out {folder}"
        )
    encoder = encoders.load(path, foreign=True)
    try:
        about = read_json(path / "classifier.json")
        neck = nn.Sequential(*(KINDS[kind](**how) for kind, how in about["neck"]))
        widths = [layer.out_features for layer in neck if isinstance(layer, nn.Linear)]
        model = Classifier(encoder, len(about["classes"]), neck, widths[-1] if widths else None)
        model.load_state_dict({f"encoder.{n}": t for n, t in encoder.state_dict().items()} | _head(path))
    except (json.JSONDecodeError, KeyError, TypeError, RuntimeError, OSError, SafetensorError) as error:
        raise DataError(f"{path} holds no whole classifier: {str(error)[:300]}. Copy the folder again.") from error
    model.several = bool(about.get("several"))
    return model.eval(), tuple(about["classes"])


def _head(path: Path) -> dict[str, Tensor]:
    return load_file(path / "head.safetensors")


def _described(neck: nn.Module) -> list[tuple[str, dict[str, Any]]]:
    layers = list(neck) if isinstance(neck, nn.Sequential) else [] if isinstance(neck, nn.Identity) else [neck]
    found = []
    for layer in layers:
        kind = type(layer).__name__
        if kind == "Linear":
            how = {"in_features": layer.in_features, "out_features": layer.out_features, "bias": layer.bias is not None}
        elif kind == "BatchNorm1d" and (not layer.affine or layer.bias is not None):
            how = {"num_features": layer.num_features} | ({} if layer.affine else {"affine": False})
        elif kind == "LayerNorm" and layer.bias is not None:
            how = {"normalized_shape": layer.normalized_shape, "eps": layer.eps}
        elif kind in ("ReLU", "GELU"):
            how = {}
        else:
            raise UsageError(f"A {kind} between encoder and classifier cannot be kept; {', '.join(KINDS)} can.")
        found.append((kind, how))
    return found


def right(folder: str | os.PathLike, source: Source, *, workers: int = 0, device="cpu") -> np.ndarray:
    """Which of the readable records of labelled `source` the classifier of a folder names right: [M] of bool.

    The same records in the same order for every classifier, so that `evaluation.difference` pairs a student's with its
    teacher's.

    Raises:
        DataError: other classes than the classifier's.
    """
    model, classes = load(folder)
    if model.several:
        raise UsageError(
            f"{folder} tells several labels a record, none of which alone is right. Ask predict for scores."
        )
    if source.labels is None or not match_classes(source, classes):
        raise DataError(f"{folder} tells {', '.join(classes[:5])}, …; the data has other classes, or none.")
    found, index, _ = logits_of(model, source, workers=workers, device=device)
    return found.argmax(1).numpy() == source.labels[index.numpy()]


def accuracy(right: np.ndarray, *, seed: int = 0) -> dict[str, Any]:
    """{"value", "low", "high", "n"}: the share of `right` [M] with its 95 % interval by the bootstrap over records."""
    low, high = intervals.bootstrap(right.astype(np.float64), seed=seed)
    return {"value": float(right.mean()), "low": low, "high": high, "n": len(right)}
