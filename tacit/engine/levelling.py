"""What methods share that read spectrograms normalised by the mean and the deviation of a data set."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tacit.data import Source
from tacit.engine.recipe import SoundRecipe
from tacit.settings import setting
from tacit.views import AUDIOSET_MEAN, AUDIOSET_STD, SoundInputs, kaldi_inputs, levels


@dataclass(frozen=True)
class LevelledRecipe(SoundRecipe):
    mean: float | None = setting(AUDIOSET_MEAN, "of the log mel energies, subtracted; none: measured on the data")
    std: float | None = setting(AUDIOSET_STD, "deviation of these, divided by twice; none: measured", low=1e-3)

    @property
    def inputs(self) -> SoundInputs:
        """With AudioSet's mean and deviation where they are still to be measured."""
        mean, std = (AUDIOSET_MEAN if self.mean is None else self.mean, AUDIOSET_STD if self.std is None else self.std)
        return kaldi_inputs(self.size, self.mels, self.rate, mean, std)

    def measured(self, source: Source) -> LevelledRecipe:
        if self.mean is not None and self.std is not None:
            return self
        mean, std = (round(level, 4) for level in levels(source, self.inputs))
        return replace(self, mean=mean if self.mean is None else self.mean, std=std if self.std is None else self.std)
