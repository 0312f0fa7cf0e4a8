"""Self-supervised learning with cross-modal transformers for emotion recognition (Khare et al. 2021, arXiv 2011.10652).

Of text, audio and vision of somebody talking, as sequences of features, some positions are hidden, and told from what
is left of all three. Every modality asks each other one, by stacks of cross-modal attention (MulT: Tsai et al. 2019,
arXiv 1906.00295). There is no official code, and of the paper abstract and introduction alone could be read: the
pieces are the paper's, the numbers usual ones. Fine-tuning is `tacit evaluate --protocol emotion`.

Traps of MulT's code that this keeps clear of: it hides the future by default, and masks no padding. What is hidden of a
sequence is hidden wherever it is read, as query, key and value.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit import encoders
from tacit.data.sequences import MODALITIES, UNKNOWN
from tacit.engine import Method, Progress, Step
from tacit.engine.monitors import about_mean
from tacit.engine.talking import SequenceRecipe
from tacit.heads import position_head
from tacit.objectives import feature_loss, token_loss
from tacit.settings import again, setting
from tacit.views import Talk
from tacit.views.sequences import unpack
from tacit.views.talking import BESIDE, MASK, SHOWN, SWAP


@dataclass(frozen=True)
class Settings(SequenceRecipe):
    encoder: str = again(SequenceRecipe, "encoder", "emotion_xmodal_base")
    epochs: int = again(SequenceRecipe, "epochs", 100)
    epoch_steps: int | None = again(SequenceRecipe, "epoch_steps", 1000)
    batch_size: int = again(SequenceRecipe, "batch_size", 256)
    lr: float = again(SequenceRecipe, "lr", 2e-4)
    lr_batch: int = again(SequenceRecipe, "lr_batch", 256)
    lr_warmup: float = again(SequenceRecipe, "lr_warmup", 0.0)
    lr_end: float = again(SequenceRecipe, "lr_end", 0.0)
    lr_cosine: str = again(SequenceRecipe, "lr_cosine", "line")
    warmup_epochs: float = again(SequenceRecipe, "warmup_epochs", 5.0)
    betas: tuple[float, float] = again(SequenceRecipe, "betas", (0.9, 0.98))
    weight_decay: float = again(SequenceRecipe, "weight_decay", 0.01)
    clip: float | None = again(SequenceRecipe, "clip", 1.0)

    mask_ratio: float = setting(0.15, "share of the positions of each modality that are asked for", low=0.01, high=0.9)
    aligned: bool = setting(False, "hide the other modalities at the same time, so that nothing can be copied")
    modality_drop: float = setting(0.1, "chance that a modality of a record is left out, never all", low=0, high=1)
    text_weight: float = setting(1.0, "of the loss of text", low=0)
    audio_weight: float = setting(1.0, "of the loss of audio", low=0)
    vision_weight: float = setting(1.0, "of the loss of vision", low=0)
    stream: str = setting("crossed", "stacks for each pair of modalities, or one stack over all positions (BERT)",
                          choices=("crossed", "single"))  # fmt: skip
    future_mask: bool = setting(False, "positions attend to no later ones, as in MulT's commands")
    dropout: float = setting(0.1, "of the encoder's blocks and inputs", low=0, high=0.9)
    attention_dropout: float = setting(0.1, "of attention's weights", low=0, high=0.9)
    text_dropout: float = setting(0.1, "of what enters as text; MulT's .25", low=0, high=0.9)

    @property
    def weights(self) -> dict[str, float]:
        return dict(zip(MODALITIES, (self.text_weight, self.audio_weight, self.vision_weight), strict=True))


class EmotionXModal(Method):
    title = "Cross-modal transformers for emotion"
    paper = (
        "Khare et al. 2021, Self-Supervised learning with cross-modal transformers for emotion recognition, "
        "arXiv 2011.10652"
    )
    modality = "sequences"
    family = "masked"
    Settings = Settings
    presets = {
        "paper": Settings(),
        # For some thousand short clips on one CPU: the narrowest encoder, batches of a quarter, a rate for its width,
        # and no dropout of attention's weights, which would take as long as all else.
        "small": Settings(
            encoder="emotion_xmodal_mini", epochs=20, epoch_steps=None, warmup_epochs=1, batch_size=64, lr=2e-3,
            lr_batch=64, attention_dropout=0.0,
        ),
    }  # fmt: skip
    tiny = {
        "lengths": (4, 16, 8), "dims": (1, 5, 3), "vocabulary": 9, "mean": (0.0,) * 8, "std": (1.0,) * 8,
        "audio_span": 2, "vision_span": 2, "mask_ratio": 0.4,
    }  # fmt: skip

    @classmethod
    def problems(cls, s: Settings) -> list[str]:
        if s.encoder in encoders.SEQUENCE_ENCODERS:
            return []
        known = ", ".join(encoders.SEQUENCE_ENCODERS)
        return [f"encoder = {s.encoder}: the method reads feature sequences. Choose one of {known}."]

    def __init__(self, s: Settings):
        super().__init__()
        self.s = s
        self.encoder = encoders.build(
            s.encoder, inputs=s.inputs, single_stream=s.stream == "single", future_mask=s.future_mask,
            dropout=s.dropout, attention_dropout=s.attention_dropout, text_dropout=s.text_dropout,
        )  # fmt: skip
        trunk = self.encoder.trunk
        dims = dict(zip(MODALITIES, s.dims, strict=True))
        self.of_ids = bool(s.vocabulary)
        self.heads = nn.ModuleDict(
            {
                name: position_head(trunk.token_width, trunk.width, 0 if name == "text" and self.of_ids else dims[name])
                for name in trunk.names
            }
        )
        self.word_bias = nn.Parameter(torch.zeros(s.vocabulary)) if self.of_ids else None

    def views(self) -> list[Talk]:
        s = self.s
        return [Talk(self.encoder.inputs, s.mask_ratio, s.spans, s.aligned, s.modality_drop)]

    def corrupted(self, view: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Rows [B, 1, n] with spans of other records where `SWAP` is and without modalities left out; where the mask
        vector comes [B, P]. No stream ever gets any other version."""
        s, x, hidden = self.s, view["image"].clone(), view["hidden"]
        before, after = unpack(view["image"], s.lengths, s.dims), unpack(x, s.lengths, s.dims)
        start = 0
        for m, (name, length) in enumerate(zip(MODALITIES, s.lengths, strict=True)):
            if name in before:
                at = slice(start, start + length)
                row, col = (hidden[:, at] == SWAP).nonzero(as_tuple=True)
                donor, place, offset = (view[k][:, at][row, col] for k in ("donor", "place", "offset"))
                if name == "text" and self.of_ids:
                    low = UNKNOWN + 1 if s.words else 1
                    other = (low + (place * (s.vocabulary - low)).long().clamp_max(s.vocabulary - low - 1))[:, None]
                else:
                    count, rows = (~before[name].isnan().any(-1)).sum(1), len(x)
                    whose = (row + 1 + (donor * (rows - 1)).long()) % rows
                    begin = place * (count[whose] - s.spans[m]).clamp_min(0)
                    other = before[name][whose, (begin.long() + offset).clamp_max(length - 1)]
                own = before[name][row, col]
                after[name][row, col] = torch.where(other.isnan(), own, other.to(own.dtype))  # nothing there: kept
                after[name][view["absent"][:, m]] = float("nan")
            start += length
        return x, (hidden == MASK) | (hidden == BESIDE)

    def predict(self, name: str, states: Tensor) -> Tensor:
        """What stood at positions with the states [..., token width]: features, or logits of words."""
        told = self.heads[name](states)
        if name != "text" or not self.of_ids:
            return told
        return F.linear(told, self.encoder.trunk.project["text"].weight, self.word_bias)

    def loss(self, views: list[dict[str, Tensor]], progress: Progress) -> Step:
        (view,) = views
        x, masked = self.corrupted(view)
        trunk, targets = self.encoder.trunk, unpack(view["image"], self.s.lengths, self.s.dims)
        states, valid = trunk.sequences(x, masked)
        asked = (view["hidden"] != SHOWN) & (view["hidden"] != BESIDE)
        terms, signals, start = {}, {}, 0
        for name, length in zip(MODALITIES, self.s.lengths, strict=True):
            if name in states:
                chosen = asked[:, start : start + length] & valid[name]
                told, truth = self.predict(name, states[name][chosen]), targets[name][chosen]
                every = torch.ones(len(told), dtype=torch.bool, device=told.device)
                if name == "text" and self.of_ids:
                    value = token_loss(told, truth[:, 0].long(), every)
                    right = (told.detach().argmax(-1) == truth[:, 0]).float()
                    signals["metric/text_accuracy"] = right.sum() / max(len(right), 1)
                else:
                    value = feature_loss(told, truth, every)
                    of_nothing = truth.abs().mean() if len(truth) else truth.new_ones(())
                    signals[f"metric/{name}_explained"] = 1 - value.detach() / of_nothing.clamp_min(1e-6)
                terms[name] = self.s.weights[name] * value
            start += length
        pooled = trunk.forward_head(torch.cat(list(states.values()), 1)).detach().float()
        return Step(terms, {"features": pooled, **about_mean(pooled, views=1), **signals})
