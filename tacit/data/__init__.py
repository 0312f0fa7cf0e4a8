from tacit.data.balanced import Balanced
from tacit.data.batches import Batches, epoch_order, unvisited
from tacit.data.open import match_classes, open_source, open_splits, parts_of
from tacit.data.picture import Cut, Picture
from tacit.data.rates import note_rates
from tacit.data.recording import Recording, Segment
from tacit.data.source import Source, mix

__all__ = [
    "Balanced",
    "Batches",
    "Cut",
    "Picture",
    "Recording",
    "Segment",
    "Source",
    "epoch_order",
    "match_classes",
    "mix",
    "note_rates",
    "open_source",
    "open_splits",
    "parts_of",
    "unvisited",
]
