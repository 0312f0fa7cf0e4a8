"""A k-NN accuracy while a run goes on, where labels exist. It only looks: no label ever reaches the training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Subset

from tacit.data import Source, match_classes
from tacit.encoders import Encoder
from tacit.evaluation.knn import knn_predict
from tacit.views import Inputs, Plain

LIMIT = 2000  # records looked at: four fifths are the bank, the rest are asked for


@dataclass
class OnlineNeighbours:
    bank: Subset
    query: Subset
    classes: int

    @classmethod
    def of(cls, source: Source, val: Source | None, inputs: Inputs, *, seed: int) -> OnlineNeighbours | None:
        """Records of `val` are asked for, by those of `source` where it has the same classes, else by others of `val`.

        Without `val`, `source` is both. None when there are no labels, or only one class.
        """
        if val is not None and (source.labels is None or not match_classes(val, source.classes)):
            source, val = val, None
        if source.labels is None or len(np.unique(source.labels)) < 2:
            return None
        order = np.random.default_rng(seed).permutation(len(source))[:LIMIT]
        if val is not None:
            queries = np.random.default_rng(seed).permutation(len(val))[: LIMIT // 4]
            return cls(Subset(Plain(source, inputs), order), Subset(Plain(val, inputs), queries), len(source.classes))
        cut = len(order) * 4 // 5
        plain = Plain(source, inputs)
        return cls(Subset(plain, order[:cut]), Subset(plain, order[cut:]), len(source.classes))

    def accuracy(self, encoder: Encoder, device: torch.device) -> float:
        """20-NN accuracy of the encoder as it stands, in eval mode, restored to train mode afterwards."""
        training = encoder.training
        encoder.eval()
        try:
            bank, bank_labels = _features(encoder, self.bank, device)
            query, labels = _features(encoder, self.query, device)
        finally:
            encoder.train(training)
        predicted = knn_predict(bank, bank_labels, query, k=20, classes=self.classes)
        return float((predicted == labels).float().mean())


@torch.no_grad()
def _features(encoder: Encoder, records: Subset, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    features, labels = [], []
    for start in range(0, len(records), 256):
        batch = Plain.collate([records[i] for i in range(start, min(start + 256, len(records)))])
        if batch["image"] is not None:
            features.append(encoder(encoder.inputs.prepare(batch["image"].to(device))).float().cpu())
            labels.append(batch["label"])
    return torch.cat(features), torch.cat(labels)
