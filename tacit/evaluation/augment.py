"""How fine-tuning changes its training images: RandAugment, random erasing and repeats, all drawn by the record."""

from __future__ import annotations

from collections.abc import Iterator

from torch.utils.data import Dataset

from tacit.data import Batches
from tacit.data.batches import epoch_order
from tacit.views import Inputs, Views, rand_augment, rng

RANDAUGMENT = 1 << 41  # view numbers that no method has
ERASING = 1 << 42


class Augmented(Dataset):
    """Crops after RandAugment (Cubuk et al. 2020), with a number to draw erasing by; both of (seed, epoch, record).

    `augment`: as `rand_augment` takes it, or None.
    """

    def __init__(self, views: Views, augment: tuple[int, int] | str | None, inputs: Inputs):
        self.views, self.augment, self.inputs = views, augment, inputs

    def __getitem__(self, key: tuple[int, int]) -> dict:
        sample = self.views[key]
        (crop,) = sample["crops"]
        if self.augment is not None:
            number = self._number(key[0], sample["index"], RANDAUGMENT)
            sample["crops"] = [rand_augment(crop, self.augment, self.inputs, number)]
        sample["params"][0]["erase"] = self._number(key[0], sample["index"], ERASING)
        return sample

    def _number(self, epoch: int, index: int, of: int) -> int:
        return int(rng(self.views.seed, epoch, index, of).integers(2**62))


class Repeated(Batches):
    """Repeated augmentation (Hoffer et al. 2020; DeiT takes three): a record stands in a batch `repeats` times.

    An epoch has as many steps as without, and meets the first 1 / repeats of its order. The repeats of a record have
    epoch numbers of their own, `epoch * repeats + repeat`, and so are drawn each by itself.
    """

    def __init__(self, *args, repeats: int, **kwargs):
        super().__init__(*args, **kwargs)
        self.repeats = repeats

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, order = -1, None
        for step in range(self.start_step, self.total_steps):
            if step // self.steps_per_epoch != epoch:
                epoch = step // self.steps_per_epoch
                order = epoch_order(self.source, self.seed, epoch)
            first = step % self.steps_per_epoch * self.batch_size
            places = [divmod(place, self.repeats) for place in range(first, first + self.batch_size)]
            yield [(epoch * self.repeats + again, int(order[i])) for i, again in places]
