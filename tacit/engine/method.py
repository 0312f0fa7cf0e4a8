"""What the engine asks of a method, and what a method may rely on. Every file under `methods/` is one such class."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from tacit import encoders
from tacit.encoders import Encoder
from tacit.engine.recipe import Recipe
from tacit.engine.schedules import Progress
from tacit.views import View


class Step(NamedTuple):
    """What a method makes of one batch.

    terms: the loss is the sum of these scalars; each is logged as `loss/<name>`.
    signals: detached tensors the monitors look at, any of
        features [N, D]      the encoder's pooled features
        embeddings [N, D]    what the loss compares, L2-normalised
        positives [N, D]     row n belongs to the same record as row n of `embeddings`
        negatives [D, K]     what every embedding is pushed away from
        targets [N, K]       probabilities over prototypes that a student is to match
        embedding_scale []   where the loss is to keep embeddings from shrinking: the mean standard deviation of their
                             dimensions, not normalised, as a share of what it asks for
        queue_age []         mean age of the negatives, in steps
        metric/NAME []       a number of the method's own, logged under that name
        and whatever the method's own `after_step` needs.
    """

    terms: dict[str, Tensor]
    signals: dict[str, Tensor]


class Method(nn.Module):
    """A published system: it owns encoders, heads, teachers and the objective, and knows nothing of files or loops.

    `Settings` is a frozen dataclass under `Recipe` whose defaults are the paper's; `presets` holds complete settings by
    name, `paper` and `small` at least. The online encoder is `self.encoder`; `handed_over` is that, unless the paper
    hands over another.
    """

    title: ClassVar[str]
    paper: ClassVar[str]  # authors, year, title, arXiv number
    modality: ClassVar[str]
    family: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()  # what the encoder must be able to do, see `Encoder.can`
    Settings: ClassVar[type[Recipe]]
    presets: ClassVar[dict[str, Recipe]]
    tiny: ClassVar[dict[str, object]] = {}  # what the contract test changes in `small` to be fast

    encoder: Encoder

    @property
    def handed_over(self) -> Encoder:
        """The encoder that is checked while the run goes on, and saved for use: the online one, or the teacher's."""
        return self.encoder

    def hand_over(self, run: Path) -> None:
        """Leave in the run folder what is for use: the encoder, and whatever else the paper ends with."""
        encoders.save(self.handed_over, run / "encoder")

    @classmethod
    def problems(cls, settings: Recipe) -> list[str]:
        """What cannot work for this method, beyond `recipe.problems`: one sentence each."""
        return []

    def views(self) -> list[View]:
        """The view pipelines, in the order in which `loss` gets their batches."""
        raise NotImplementedError

    def after_init(self) -> None:
        """Once, when the encoder's weights have been replaced by `--init`: let its copies follow."""

    def look(self, batches: Iterator[list[dict[str, Tensor]]]) -> None:
        """Once, before the first step of a new run: what is to be learned of the data before anything is trained.

        `batches` are as `loss` gets them, of the records in the order of the first epoch, and are read as they are
        asked for. What is learned here is kept in buffers, which checkpoints hold.
        """

    def before_step(self, progress: Progress) -> None:
        """Once an optimiser step, before its first micro-batch."""

    def loss(self, views: list[dict[str, Tensor]], progress: Progress) -> Step:
        """The loss of one micro-batch. It must not change any state that a backward pass needs."""
        raise NotImplementedError

    def reconstructions(self, views: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Of methods that reconstruct: pictures of n records, [n, C, H, W] as the encoder's inputs, in the order they
        are shown: "input", "masked" and "reconstruction"."""
        return {}

    def before_update(self, progress: Progress) -> None:
        """Once an optimiser step, when gradients are there and clipped: what must not move loses its gradient here."""

    def after_step(self, signals: list[dict[str, Tensor]], progress: Progress) -> None:
        """Once an optimiser step, after the update, with the signals of the step's micro-batches."""
