"""The images and objects that a detector is trained on: in which order, and augmented by draws of their own."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor
from torch.utils.data import Dataset

from tacit import views
from tacit.errors import BadRecord
from tacit.evaluation.detection.augment import augment
from tacit.evaluation.detection.schedule import Schedule
from tacit.evaluation.detection.sets import DetectionSet, read_image, target

ORDER = 2**32 - 1  # the record number whose draws order an epoch


class Order:
    """Batches of (epoch, image), each epoch in an order of its own; what does not fill a batch waits for the next."""

    def __init__(self, count: int, batch: int, epochs: int, seed: int):
        self.count, self.batch, self.epochs, self.seed = count, batch, epochs, seed
        self.per_epoch = count // batch

    def __len__(self) -> int:
        return self.per_epoch * self.epochs

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for epoch in range(self.epochs):
            rows = views.rng(self.seed, epoch, ORDER, 0).permutation(self.count).tolist()
            for i in range(self.per_epoch):
                yield [(epoch, row) for row in rows[i * self.batch : (i + 1) * self.batch]]


class Examples(Dataset):
    """(image, target), or (name, reason) of an image that cannot be read."""

    def __init__(self, data: DetectionSet, schedule: Schedule, seed: int, channels: int, masks: bool):
        self.data, self.schedule, self.seed, self.channels, self.masks = data, schedule, seed, channels, masks

    def __getitem__(self, at: tuple[int, int]) -> tuple[Tensor, dict[str, Tensor]] | tuple[str, str]:
        (epoch, row), s = at, self.schedule
        scene = self.data.scenes[row]
        try:
            image, things = read_image(scene, self.channels), target(scene, self.masks)
        except BadRecord as error:
            return scene.path.name, str(error)
        rng = views.rng(self.seed, epoch, scene.id % 2**64, 0)
        return augment(image, things, rng, shorts=s.shorts, long=s.long, crop_shorts=s.crop_shorts)
