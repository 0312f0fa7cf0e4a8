"""What is done to sounds of other rates than an encoder's, said once."""

from __future__ import annotations

import numpy as np

from tacit.data.source import Source
from tacit.errors import BadRecord

LOOKED_AT = 32  # records, evenly spaced; their headings alone are read


def note_rates(source: Source, rate: int) -> list[str]:
    """Add to the notes of sounds what rates and channels they have and what becomes of them; returns what was added."""
    rates, channels = set(), set()
    for index in np.unique(np.linspace(0, len(source) - 1, LOOKED_AT).astype(int)) if len(source) else ():
        try:
            recording = source.record(int(index), ("audio",))["audio"]
        except BadRecord:
            continue
        if recording is None:  # a clip without sound
            continue
        rates.add(recording.rate)
        channels.add(recording.channels)
    notes = []
    if others := sorted(rates - {rate}):
        said = f"Sounds are resampled from {' and '.join(f'{r:,}' for r in others)} Hz to {rate:,} Hz"
        low = f"; of those with less, nothing is above {others[0] // 2:,} Hz" if others[0] < rate else ""
        notes.append(f"{said}{low}.")
    if max(channels, default=1) > 1:
        notes.append("Of several channels the mean is taken.")
    notes = [note for note in notes if note not in source.notes]
    source.notes = [*source.notes, *notes]
    return notes
