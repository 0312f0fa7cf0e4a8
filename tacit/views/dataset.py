"""From records to batches: views drawn in the workers, finished in one pass where the model is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from tacit.data import Recording, Source
from tacit.data.kinds import LACKING, MODALITIES, WORDS
from tacit.data.recording import Silence
from tacit.errors import BadRecord, DataError
from tacit.views.crop import View
from tacit.views.kinds import AnyInputs, field_of
from tacit.views.random import rng

TRIES = 20
LONG = ("audio", "video")  # of which one part may be broken, and others not
REPLACEMENT = 1 << 40  # a view number no method has, for draws of a replacement record


class Views(Dataset):
    """`self[(epoch, index)]`: the crops of a record, one a view, with the parameters of what is still to be done.

    A third number in the key is how often the record came before in the epoch; other crops are drawn each time.

    A view reads the picture or the sound its `field` names, `image` unless it says another, and draws by its number, or
    by that of the view that its `of` names (see `Rendering`). One that is `grouped` gets the number of the record's
    group as a parameter, or the record's own where there are no groups. No view flips a record whose mirror image is
    another thing (`Source.sided`). A record that cannot be read is replaced by another, drawn from (seed, epoch, index)
    alone, and reported in `bad`.

    A view that is `timed` is told how long the record is, as `seconds=…`. Where a record lacks a view's field, or its
    sound is silence, the view's `absent()` gives what stands in for it and its parameters; without that, or without
    `stand_ins`, the record is replaced.

    Raises:
        DataError: a view reads what the records do not have.
    """

    def __init__(self, source: Source, views: Sequence[View], seed: int, stand_ins: bool = True):
        self.source, self.views, self.seed = source, list(views), seed
        self.fields = [getattr(view, "field", "image") for view in views]
        of = [getattr(view, "of", None) for view in views]
        self.numbers = [number if other is None else other for number, other in enumerate(of)]
        self._timed = [getattr(view, "timed", False) for view in views]
        self._absent = [getattr(view, "absent", None) if stand_ins else None for view in views]
        check_fields(source, set(self.fields))
        self._bad: dict[int, str] = {}
        self._group = None
        if source.groups is not None and any(getattr(view, "grouped", False) for view in self.views):
            self._group = np.unique(source.groups, return_inverse=True)[1]

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: tuple[int, int] | tuple[int, int, int]) -> dict[str, Any]:
        epoch, wanted, *again = key
        repeat, bad = sum(again), []
        for attempt in range(TRIES):
            index = wanted if not attempt else self._another(epoch, wanted, repeat, attempt)
            try:
                return {**self._read(epoch, index, repeat), "bad": bad}
            except BadRecord as error:
                if self.fields[0] not in LONG:
                    self._bad[index] = str(error)
                bad.append((index, self.source.name(index), str(error)))
        raise DataError(
            f"{TRIES} records in a row cannot be read, the last: {bad[-1][1]}: {bad[-1][2]}. "
            "Is the folder what you meant, and is its disk still there?"
        )

    def _another(self, epoch: int, index: int, repeat: int, attempt: int) -> int:
        return int(rng(self.seed, epoch, index, REPLACEMENT + attempt, repeat).integers(len(self.source)))

    def _read(self, epoch: int, index: int, repeat: int) -> dict[str, Any]:
        if index in self._bad:
            raise BadRecord(self._bad[index])
        distinct = list(dict.fromkeys(self.fields))
        record = self.source.record(index, distinct)
        seconds = self._seconds(record) if any(self._timed) else 0.0
        params: list[Any] = []
        crops: list[Any] = [None] * len(self.views)
        for n, (number, view, field) in enumerate(zip(self.numbers, self.views, self.fields, strict=True)):
            if record[field] is None:
                crops[n], drawn = self._stand_in(n)
                params.append(drawn)
                continue
            told = {"seconds": seconds} if self._timed[n] else {}
            drawn = view.draw(rng(self.seed, epoch, index, number, repeat), *record[field].extent, **told)
            if self.source.sided is not None and self.source.sided[index]:
                drawn["flip"] = False
            if getattr(view, "grouped", False):
                drawn["group"] = int(index if self._group is None else self._group[index])
            params.append(drawn)
        for field in distinct:  # each picture or sound is decoded once
            if record[field] is None:
                continue
            numbers = [n for n, other in enumerate(self.fields) if other == field]
            found = self._cut(record[field], numbers, params)
            for n, crop in zip(numbers, found or [None] * len(numbers), strict=True):
                if found is None:
                    crops[n], params[n] = self._stand_in(n)
                    continue
                change = getattr(self.views[n], "change", None)
                crops[n] = crop if change is None else change(crop, params[n])
        return {"crops": crops, "params": params, "index": index, "label": record.get("label", -1)}

    def _cut(self, field: Any, numbers: list[int], params: list[Any]) -> list[Any] | None:
        """What these views read of a field; None where it is silence that may be missing."""
        cuts = [self.views[n].cut(params[n]) for n in numbers]
        try:
            return field.crops(cuts)
        except Silence:
            if any(self._absent[n] is None for n in numbers):
                raise
            return None

    def _stand_in(self, n: int) -> tuple[np.ndarray, dict[str, Any]]:
        """The crop and the parameters of view n for a record without its field."""
        if self._absent[n] is None:
            raise BadRecord(f"no {LACKING.get(self.fields[n], self.fields[n])}")
        return self._absent[n]()

    def _seconds(self, record: dict[str, Any]) -> float:
        if "seconds" in record:
            return record["seconds"]
        return max((x.samples / x.rate for x in record.values() if isinstance(x, Recording)), default=0.0)


def check_fields(source: Source, wanted: set[str]) -> None:
    """Raises `DataError` where records lack what a method learns from."""
    missing, title = sorted(wanted - set(source.fields)), source.title or "The data"
    timed = [field for field in MODALITIES if field in missing]
    if timed and ("video" in source.fields or "text" in source.fields):
        what = " and no ".join(LACKING[field] for field in timed)
        raise DataError(
            f"None of the records of {title} has {what}, and the method learns from it. docs/data.md says where it is "
            "looked for: beside each film, or in a column of a table."
        )
    if "video" in missing or "text" in missing:
        raise DataError(
            f"{title} holds {WORDS[source.fields[0]][1]}, and the method learns from films. Give a folder or a table "
            "of films: --data clips:PATH (docs/data.md says in what form)."
        )
    if "sequences" in missing or (missing and "sequences" in source.fields):
        wants = next((field for field in ("sequences", "audio") if field in missing), "image")
        how = " by --data sequences:PATH (docs/data.md says in what form)" if wants == "sequences" else ""
        raise DataError(
            f"{title} holds {WORDS[source.fields[0]][1]}, and the method learns from {WORDS[wants][1]}. "
            f"Give these{how}, or take another method; tacit methods lists them."
        )
    if "audio" in missing:
        raise DataError(
            f"{title} holds images, and the method learns from sounds. Give sounds (docs/audio.md says in what form), "
            "or take a method for images; tacit methods lists them."
        )
    if missing and "video" in source.fields:
        raise DataError(f"{title} holds films, and the method learns from images. Give images, or take another method.")
    if missing and "audio" in source.fields:
        raise DataError(
            f"{title} holds sounds, and the method learns from images. Give images, or take a method for sounds: "
            "tacit methods --modality audio"
        )
    if missing:
        raise DataError(
            f"{title} has no {' and no '.join(missing)} beside each picture, which the method "
            "compares. Give episodes of frames: --data episodes:FOLDER, or exams of slices: --data exams:FOLDER"
        )


def check_field(source: Source, inputs: AnyInputs) -> None:
    """Raises `DataError` for images where an encoder listens, or the like."""
    field = field_of(inputs)
    if field not in source.fields:
        title, wants = source.title or "The data", WORDS[field][1]
        raise DataError(f"{title} holds {WORDS[source.fields[0]][1]}, and the encoder looks at {wants}. Give {wants}.")


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """`{"views": [{"image": [B, C, H, W], "params": {name: [B, …]}}, …], "index": [B], "label": [B], "bad": […]}`.

    Of views of sounds "image" is [B, 1, n], until `finish` makes a spectrogram of it; of films [B, C, T, H, W], of
    sentences [B, L, W].
    """
    views = []
    for number in range(len(samples[0]["crops"])):
        params = [sample["params"][number] for sample in samples]
        views.append(
            {
                "image": stack([sample["crops"][number] for sample in samples]),
                "params": {name: _column([p[name] for p in params]) for name in params[0]},
            }
        )
    return {
        "views": views,
        "index": torch.tensor([sample["index"] for sample in samples]),
        "label": torch.tensor([sample["label"] for sample in samples]),
        "bad": [item for sample in samples for item in sample["bad"]],
    }


def finish(batch: dict[str, Any], views: Sequence[View]) -> list[dict[str, Tensor]]:
    """What `loss` gets: every view of a collated batch, finished."""
    return [v.finish(part["image"], part["params"]) for v, part in zip(views, batch["views"], strict=True)]


def stack(images: list[np.ndarray]) -> Tensor:
    """B x [H, W, C] -> [B, C, H, W], whose channels stay last in memory; bytes stay bytes unless a record of the batch
    has floats. Sounds B x [1, n] -> [B, 1, n]; films B x [T, H, W, C] -> [B, C, T, H, W]; ids B x [L, W] -> [B, L, W].
    """
    if images[0].ndim == 2:
        return torch.from_numpy(np.stack(images))
    if images[0].ndim == 4:
        return torch.from_numpy(np.stack(images)).permute(0, 4, 1, 2, 3).contiguous()
    if len({image.dtype for image in images}) > 1:
        images = [i.astype(np.float32) / 255 if i.dtype == np.uint8 else i for i in images]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def _column(values: list[Any]) -> Tensor:
    if isinstance(values[0], np.ndarray):
        return torch.from_numpy(np.stack(values))
    column = torch.tensor(values)
    return column.float() if column.is_floating_point() else column


class Plain(Dataset):
    """Records as an evaluation sees them: centre crop, or the middle of a recording; nothing random, nothing replaced.

    Of films the frames of the middle, of sentences those nearest to it. An unreadable record is `{"index", "reason"}`
    alone; `Plain.collate` leaves it out and lists it in `bad`.

    Raises:
        DataError: images for an encoder of sounds, or the reverse.
    """

    def __init__(self, source: Source, inputs: AnyInputs):
        check_field(source, inputs)
        self.source, self.inputs, self.field = source, inputs, field_of(inputs)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            record = self.source.record(index, (self.field,))
            if record[self.field] is None:
                return {"index": index, "reason": f"no {LACKING.get(self.field, self.field)}"}
            (image,) = record[self.field].crops([self.inputs.centre(*record[self.field].extent)])
            if self.field == "text":
                image = self.inputs.encode(image)
        except BadRecord as error:
            return {"index": index, "reason": str(error)}
        return {"image": image, "index": index, "label": record.get("label", -1)}

    @staticmethod
    def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
        """`{"image": [B, C, H, W] or None, "index": [B], "label": [B], "bad": [(index, reason), …]}`; of sounds "image"
        is [B, 1, n]."""
        good = [s for s in samples if "image" in s]
        return {
            "image": stack([s["image"] for s in good]) if good else None,
            "index": torch.tensor([s["index"] for s in good], dtype=torch.long),
            "label": torch.tensor([s["label"] for s in good], dtype=torch.long),
            "bad": [(s["index"], s["reason"]) for s in samples if "reason" in s],
        }
