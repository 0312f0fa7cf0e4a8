"""What a run is watched by, without labels: the health of features and embeddings, and the call of a collapse."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from tacit.evaluation import label_free

ROWS = 512  # of a batch that the monitors look at: enough for a spectrum, cheap beside a step

# Embeddings spread over fewer directions than this, or by less than this share of a uniform spread, hold nothing a loss
# could tell records by. Healthy runs at their worst moment (the first steps) stay above 4 directions and 0.2.
COLLAPSED_RANK = 2.0
COLLAPSED_STD = 0.05
# Nats that the prototypes of a target tell of the record it is of. Too sharp, all records have one prototype; too flat,
# all have all of them: both ways it is nothing.
COLLAPSED_INFORMATION = 0.02


@torch.no_grad()
def health(signals: dict[str, Tensor]) -> dict[str, float]:
    """The monitors of one batch from a method's signals (see `Step`); names as in metrics.csv."""
    # On the CPU, where every linear algebra routine exists; it is small and seldom.
    signals = {name: signal.cpu() for name, signal in signals.items()}
    values = {}
    if (features := signals.get("features")) is not None:
        features = features[:ROWS].float()
        values["feature_std"] = label_free.feature_std(features)
        values["rankme"] = label_free.rankme(features)
    if (x := signals.get("embeddings")) is not None:
        x = x[:ROWS].float()
        values["embedding_std"] = label_free.feature_std(x)
        values["embedding_rank"] = label_free.rankme(x - x.mean(0))
        values["uniformity"] = label_free.uniformity(x)
        if (positives := signals.get("positives")) is not None:
            values["alignment"] = label_free.alignment(x, positives[:ROWS])
            values["positive_similarity"] = (x * positives[:ROWS].float()).sum(1).mean()
        if (negatives := signals.get("negatives")) is not None:
            values["negative_similarity"] = (x.mean(0) @ negatives.float()).mean()
    if (p := signals.get("targets")) is not None:
        p = p[:ROWS].float()
        each, all_of = (torch.special.entr(q).sum(-1).mean() for q in (p, p.mean(0, keepdim=True)))
        values |= {"target_entropy": each, "prototype_entropy": all_of, "target_information": all_of - each}
    known = ("embedding_scale", "momentum", "queue_age")
    values |= {n: s for n, s in signals.items() if n in known or n.startswith("metric/")}
    return {name: float(value) for name, value in values.items()}


def about_mean(features: Tensor, views: int = 2) -> dict[str, Tensor]:
    """`embeddings` of features [views B, D], and `positives` of two views, for methods whose loss compares no records.

    Nothing keeps such features away from a common direction, so what tells records apart is what is left of them about
    the mean of their view.
    """
    about = [F.normalize((x - x.mean(0)).detach().float(), dim=1) for x in features.chunk(views)]
    return {"embeddings": torch.cat(about)} | ({"positives": torch.cat(about[::-1])} if views == 2 else {})


@dataclass
class CollapseWatch:
    """Calls a collapse once `patience` checks in a row see one; a dip of a few steps is not called."""

    patience: int = 3
    recent: deque = field(default_factory=deque)

    def see(self, values: dict[str, float]) -> str | None:
        """The reason, once, when the last `patience` checks all show a collapse; else None."""
        if "embedding_std" not in values and "target_information" not in values:
            return None
        self.recent.append(_reason(values))
        if len(self.recent) > self.patience:
            self.recent.popleft()
        if len(self.recent) == self.patience and all(self.recent):
            return self.recent[-1]
        return None


def _reason(values: dict[str, float]) -> str | None:
    if values.get("target_information", 1.0) < COLLAPSED_INFORMATION:
        how = "one prototype each, the same" if values["prototype_entropy"] < 1 else "all prototypes alike"
        return (
            f"the targets say nothing of the records ({how}; {values['target_information']:.3f} nats, "
            f"limit {COLLAPSED_INFORMATION})"
        )
    if "embedding_std" not in values:
        return None
    if values["embedding_std"] < COLLAPSED_STD:
        return (
            f"all embeddings are nearly the same (spread {values['embedding_std']:.3f} of a uniform spread's 1, "
            f"limit {COLLAPSED_STD})"
        )
    if values.get("embedding_scale", 1.0) < COLLAPSED_STD:
        return (
            f"all embeddings shrink to one point (their dimensions vary by {values['embedding_scale']:.3f} of what the "
            f"loss asks for, limit {COLLAPSED_STD})"
        )
    if values["embedding_rank"] < COLLAPSED_RANK:
        return f"the embeddings lie along {values['embedding_rank']:.1f} directions (limit {COLLAPSED_RANK})"
    return None


REMEDY = (
    "Usual remedies: a lower --set lr=… , a longer --set warmup_epochs=… , a momentum nearer to 1, a larger batch, "
    "or the method's preset unchanged. Look at embedding_std, embedding_rank, embedding_scale and target_information "
    "in the report."
)
