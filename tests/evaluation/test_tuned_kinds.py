"""Fine-tuning on films and waveforms: that it learns what takes several frames, what is mixed, and how it is tested."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tacit import encoders, evaluation
from tacit.data import Recording, Source
from tacit.errors import Unknown, UsageError
from tacit.evaluation.fine_tune import Classifier, fine_tune, rate
from tacit.evaluation.logits import windowed_logits
from tacit.evaluation.protocols import everything
from tacit.evaluation.recipes import FILMS, WAVES, Recipe
from tacit.evaluation.tuned_kinds import kind_of, recipe_of
from tacit.views import FilmInputs, Inputs, TextInputs, WaveInputs, kaldi_inputs

FILM = FilmInputs(4, 8, 4.0)
WAVE = WaveInputs(1000, 0.2, normalise=False, fixed=True)


class Reel:
    """Two seconds of grey, wider than tall, that becomes brighter or darker, from any level."""

    extent = (8, 4.0, 8, 16)

    def __init__(self, index: int):
        self.first = 100 + 5 * (index // 2 % 10)
        self.step = 10 if index % 2 else -10

    def crops(self, cuts):
        levels = [[self.first + self.step * (int(4 * t) % 8) for t in cut.times] for cut in cuts]
        return [np.stack([np.full((8, 8, 3), level, np.uint8) for level in of]) for of in levels]


def tone(index: int) -> Recording:
    t = np.arange(400) / 1000
    wave = np.sin(2 * np.pi * (200 if index % 2 else 60) * t + index) * 0.5
    return Recording(wave.astype(np.float32), 1000)


class Store:
    """What a table of clips is to a source; every eighth record lacks the modality."""

    def __init__(self, field: str, count: int):
        self.field, self.count = field, count
        self.fields = (field,)

    def __len__(self):
        return self.count

    def name(self, index):
        return f"{index}.mp4"

    def stamp(self):
        return "s"


class Clips(Source):
    def record(self, index, fields=None):
        number = int(self.store.rows[index]) if hasattr(self.store, "rows") else index
        made = Reel(number) if self.fields[0] == "video" else tone(number)
        label = int(self.labels[index])
        return {self.fields[0]: None if number % 8 == 7 else made, "seconds": 2.0, "name": "", "label": label}

    def select(self, rows):
        found = super().select(rows)
        return Clips(
            **{name: getattr(found, name) for name in ("store", "channels", "labels", "classes", "fingerprint")}
        )


def clips(field: str, count: int = 48) -> Clips:
    return Clips(Store(field, count), 3, np.arange(count) % 2, ["down", "up"], "f", field)


def encoder_of(inputs, **kwargs) -> encoders.Encoder:
    torch.manual_seed(0)
    of = "video" if isinstance(inputs, FilmInputs) else "audio"
    patch = (2, 4, 4) if of == "video" else (20,)
    return encoders.build(f"vatt_{of}_mini", inputs=inputs, patch=patch, **{"depth": 1, **kwargs})


@pytest.mark.parametrize(("field", "inputs", "recipes"), [("video", FILM, FILMS), ("audio", WAVE, WAVES)])
def test_it_learns_and_leaves_the_encoder_alone(field, inputs, recipes):
    encoder, source = encoder_of(inputs, drop_rate=0.0, stem=3.0), clips(field)
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    recipe = replace(recipes["small"], epochs=12, batch_size=16, lr=3e-2)
    predicted, index = fine_tune(encoder, source, source, classes=2, recipe=recipe)
    assert index.tolist() == [i for i in range(48) if i % 8 != 7]
    assert (predicted.numpy() == source.labels[index]).mean() > 0.9
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())


def test_the_papers_recipe():
    film, wave = FILMS["vatt"], WAVES["vatt"]
    assert rate(2_499, 100_000, 1, film) == pytest.approx(0.005)
    assert rate(51_250, 100_000, 1, film) == pytest.approx(0.0025)
    assert rate(100_000, 100_000, 1, film) == pytest.approx(0.0)
    assert (film.smoothing, film.dropout, film.mixup) == (0.1, 0.5, 0.0)
    assert (wave.smoothing, wave.dropout, wave.mixup) == (0.0, 0.0, 5.0)
    view = kind_of(FILM).view(FILM, film)
    assert (view.way, view.scale, view.ratio, view.flip) == ("inception", (0.08, 1.0), (0.5, 2.0), 0.5)
    assert kind_of(FILM).view(FILM, FILMS["small"]).colours is None


def test_waveforms_are_mixed_by_shares_of_their_own_as_their_labels_say():
    torch.manual_seed(0)
    y = torch.arange(4000) % 4
    waves = y[:, None, None].float().expand(-1, 1, 3)
    x, shares = kind_of(WAVE).mix(WAVES["vatt"], 4)(waves, y)
    torch.testing.assert_close(x[:, 0, 0], (shares * torch.arange(4.0)).sum(1))
    torch.testing.assert_close(shares.sum(1), torch.ones(4000))
    two = shares[(shares > 0).sum(1) == 2].amax(1)
    assert len(two.unique()) > 1000
    assert float((2 * two - 1).square().mean() / 4) == pytest.approx(1 / (4 * 11), rel=0.1)  # Beta(5, 5)'s variance
    assert kind_of(FILM).mix(FILMS["vatt"], 4) is None


class Said(torch.nn.Module):
    """The logits are where in time and place a piece begins."""

    def __init__(self, inputs):
        super().__init__()
        self.encoder = type("Of", (), {"inputs": inputs})()

    def forward(self, x):
        return torch.stack([x[:, 0, 0].amin((1, 2)), x[:, 0, 0].amax((1, 2))], 1)


def test_a_film_is_tested_in_four_windows_of_three_crops():
    seen = []

    class Watched(Reel):
        def crops(self, cuts):
            seen.append([(float(cut.times[0]), cut.left) for cut in cuts])
            return super().crops(cuts)

    class One(Clips):
        def record(self, index, fields=None):
            return {"video": Watched(0)}

    source = One(Store("video", 1), 3, np.zeros(1, np.int64), ["a"], "f")
    found, index, bad = kind_of(FILM).logits(Said(FILM), source)
    assert seen == [[(t / 3, left) for t in range(4) for left in (0.0, 4.0, 8.0)]]
    first = np.mean([100 - 10 * int(4 * t / 3) for t in range(4)])
    expected = torch.tensor([[first, first]]) / 127.5 - 1
    torch.testing.assert_close(found, expected.float())
    assert (index.tolist(), bad) == ([0], [])


def test_a_sound_is_tested_in_four_windows():
    model = Classifier(encoder_of(WAVE), 2).eval()
    torch.nn.init.normal_(model.head.weight)
    found, _, _ = windowed_logits(model, clips("audio", 2))
    with torch.no_grad():
        pieces = torch.from_numpy(np.stack(tone(1).crops(WAVE.windows(4, 400, 1000))))
        torch.testing.assert_close(found[1], model(pieces).mean(0))


class Stopped(Exception):
    pass


@pytest.mark.parametrize(("field", "inputs", "recipes"), [("video", FILM, FILMS), ("audio", WAVE, WAVES)])
def test_a_broken_off_training_goes_on_bit_for_bit(field, inputs, recipes, tmp_path, monkeypatch):
    encoder, source, ends = encoder_of(inputs), clips(field), []
    recipe = replace(recipes["vatt"], steps=6, batch_size=8)  # drops tokens and features, and mixes waveforms
    whole = torch.optim.SGD.step

    def kept(self, *args):
        whole(self, *args)
        ends.append([p.detach().clone() for group in self.param_groups for p in group["params"]])

    monkeypatch.setattr(torch.optim.SGD, "step", kept)
    fine_tune(encoder, source, source, classes=2, recipe=recipe)
    path = tmp_path / "x.ckpt"

    def stop(done, total):
        if done == 4:
            raise Stopped

    with pytest.raises(Stopped):
        fine_tune(encoder, source, source, classes=2, recipe=recipe, checkpoint=path, save_steps=1, progress=stop)
    torch.randn(3)
    fine_tune(encoder, source, source, classes=2, recipe=recipe, checkpoint=path)
    assert len(ends) == 12
    assert all(torch.equal(a, b) for a, b in zip(ends[5], ends[-1], strict=True))


def test_the_last_layer_is_not_clipped_under_vatts_recipe(monkeypatch):
    clipped = []
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda given, most: clipped.append((len(list(given)), most)))
    encoder, source = encoder_of(FILM), clips("video", 16)
    for clip_head in (False, True):
        recipe = replace(FILMS["vatt"], steps=1, batch_size=8, clip_head=clip_head)
        fine_tune(encoder, source, source, classes=2, recipe=recipe)
    count = len(list(encoder.parameters()))
    assert clipped == [(count, 0.75), (count + 2, 0.75)]


def test_it_is_a_protocol_and_says_what_it_did():
    encoder, source = encoder_of(FILM), clips("video")
    found = evaluation.evaluate(encoder, source, None, ["fine_tune:epochs=1:flip=no"])
    assert [(r["of"], r["n"]) for r in found["results"]] == [("run", 9), ("random-init", 9)]
    said = found["results"][0]["settings"]
    assert said["tested"] == "mean of the logits of 4 windows x 3 crops"
    assert (said["left_out"], said["flip"], said["epochs"]) == ("RandAugment", False, 1)
    found = evaluation.evaluate(encoder, source, source, ["fine_tune:recipe=vatt:steps=1"], baselines=False)
    said = found["results"][0]["settings"]
    assert (said["steps"], "left_out" in said, "epochs" in said) == (1, False, False)


def test_what_is_not_for_an_encoder_is_refused():
    encoder, source = encoder_of(FILM), clips("video")
    for protocol in ("linear_sgd", "attentive", "correspondence"):
        with pytest.raises(
            UsageError, match=rf"^{protocol} is for images, and the encoder looks at films\. There is: knn,"
        ):
            evaluation.evaluate(encoder, source, None, [protocol])
    with pytest.raises(Unknown, match="recipe for films 'deit'"):
        evaluation.evaluate(encoder, source, None, ["fine_tune:recipe=deit"])
    with pytest.raises(Unknown, match="recipe for images 'vatt'"):
        recipe_of("vatt", Inputs(8, 3))
    with pytest.raises(UsageError, match="Give one"):
        evaluation.evaluate(encoder, source, source, ["fine_tune:epochs=1:steps=1"])
    _, skipped = everything("class", 2, FILM)
    assert {name for name, why in skipped.items() if why == "it is for images"} == {
        "linear_sgd", "attentive", "correspondence",
    }  # fmt: skip
    for other in (TextInputs(("a",), 1, 2), kaldi_inputs(8), WaveInputs(1000, 1.0, normalise=True)):
        with pytest.raises(UsageError, match="fine_tune is for images, films and waveforms of one length"):
            kind_of(other)
    found = evaluation.evaluate(encoder, source, source, ["label_free"], baselines=False)
    assert found["results"][0]["settings"]["left_out"]["lidar"] == "its views are of images"


def test_the_recipes_of_pictures_have_nothing_of_vatts():
    assert (Recipe().steps, Recipe().dropout, Recipe().drop_token, Recipe().optimizer) == (0, 0.0, 1.0, "adamw")
