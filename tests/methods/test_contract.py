"""What every method owes the house, tested on each one the table names, at its own tiny settings."""

import dataclasses
import inspect
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

import tacit
from tacit import encoders
from tacit.data import Cut
from tacit.data.film import FilmCut
from tacit.data.recording import Recording, Segment
from tacit.data.sequences import clip as talk
from tacit.data.transcript import Sentence, Transcript
from tacit.encoders import Encoder
from tacit.engine import ClipRecipe, DINORecipe, Method, Progress, Recipe, SoundRecipe
from tacit.engine.bootstrapping import Bootstrapping
from tacit.engine.clustering import Clustering
from tacit.engine.distilling import Distilling
from tacit.engine.levelling import LevelledRecipe
from tacit.engine.recipe import problems as recipe_problems
from tacit.engine.talking import SequenceRecipe
from tacit.errors import Unknown
from tacit.evaluation import classifier
from tacit.methods import METHODS, find
from tacit.settings import describe, from_dict, problems, to_dict
from tacit.views import collate, finish, rng

BATCH = 8
WORDS = ("one", "two", "three")


@pytest.fixture(params=METHODS)
def name(request) -> str:
    return request.param


@pytest.fixture
def cls(name) -> type[Method]:
    return find(name)


def settings_of(cls: type[Method], **changes) -> Recipe:
    tiny = {"size": 16, "batch_size": BATCH, **cls.tiny, **changes}
    if "teacher" in cls.Settings.__dataclass_fields__:
        tiny["teacher"] = teacher(tiny.get("channels", 3))
    return dataclasses.replace(cls.presets["small"], **tiny)


@cache
def teacher(channels: int) -> str:
    """The folder of a classifier, for methods that cannot do without one."""
    folder = tempfile.mkdtemp()
    encoder = encoders.build("vit_mini", size=16, channels=channels, depth=1)
    classifier.save(classifier.Classifier(encoder, 3), ["a", "b", "c"], folder)
    return folder


def make(cls: type[Method], seed: int = 0) -> Method:
    settings = settings_of(cls)  # which may make a teacher, by the same generator
    torch.manual_seed(seed)
    return cls(settings)


def batch(method: Method, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    """A batch the way the engine makes it: parameters drawn by record, crops, then `finish`."""
    pipelines = method.views()
    g = torch.Generator().manual_seed(seed)
    samples = []
    for i in range(BATCH):
        if method.modality in ("audio", "sequences"):
            samples.append({"audio": heard, "sequences": talked}[method.modality](pipelines, seed, i))
            continue
        if method.modality == "video+audio+text":
            samples.append(clip(pipelines, seed, i))
            continue
        params = [view.draw(rng(seed, 0, i, number), 20, 20) for number, view in enumerate(pipelines)]
        cuts = [view.cut(p) for view, p in zip(pipelines, params, strict=True)]
        assert all(isinstance(cut, Cut) for cut in cuts)
        crops = [torch.randint(0, 256, (*cut.size, 3), generator=g, dtype=torch.uint8).numpy() for cut in cuts]
        samples.append({"crops": crops, "params": params, "index": i, "label": -1, "bad": []})
    return finish(collate(samples), pipelines)


def heard(pipelines, seed: int, index: int) -> dict:
    """The same of a sound of half a second, a tone that rises."""
    t = np.arange(8000) / 16_000
    recording = Recording(0.3 * np.sin(2 * np.pi * (300 + 200 * index + 1000 * t) * t).astype(np.float32), 16_000)
    params = [
        view.draw(rng(seed, 0, index, getattr(view, "of", number)), *recording.extent)
        for number, view in enumerate(pipelines)
    ]
    cuts = [view.cut(p) for view, p in zip(pipelines, params, strict=True)]
    assert all(isinstance(cut, Segment) for cut in cuts)
    return {"crops": recording.crops(cuts), "params": params, "index": index, "label": -1, "bad": []}


def clip(pipelines, seed: int, index: int) -> dict:
    """The same of a film of three seconds, its sound and two sentences; some records lack one of them."""
    t = np.arange(3000) / 1000
    record = {
        "audio": Recording(0.3 * np.sin(2 * np.pi * 30 * (1 + index) * t).astype(np.float32), 1000),
        "text": Transcript(
            [Sentence(0.0, 1.5, f"a {WORDS[index % 3]}"), Sentence(1.5, 3.0, f"{WORDS[index % 3]} two")]
        ),
    }
    crops, params = [], []
    for number, view in enumerate(pipelines):
        if (index, view.field) in ((3, "audio"), (5, "text")):
            crop, drawn = view.absent()
        else:
            generator = rng(seed, 0, index, number if view.of is None else view.of)
            extent = (30, 10.0, 20, 20) if view.field == "video" else record[view.field].extent
            drawn = view.draw(generator, *extent, seconds=3.0)
            cut = view.cut(drawn)
            if view.field == "video":
                assert isinstance(cut, FilmCut)
                crop = generator.integers(0, 256, (len(cut.times), *cut.size, 3), dtype=np.uint8)
            else:
                (crop,) = record[view.field].crops([cut])
            crop = view.change(crop, drawn) if hasattr(view, "change") else crop
        crops.append(crop)
        params.append(drawn)
    return {"crops": crops, "params": params, "index": index, "label": -1, "bad": []}


def talked(pipelines, seed: int, index: int) -> dict:
    """The same of feature sequences: three words, and audio and vision that say them again."""
    generator = np.random.default_rng([seed, index])
    words = generator.integers(1, 9, 3)
    audio = np.repeat(np.eye(5)[words % 5], 5, 0) + generator.normal(0, 0.1, (15, 5))
    vision = np.repeat(np.eye(3)[words % 3], 2, 0) + generator.normal(0, 0.1, (6, 3))
    one = talk({"text": (words, None), "audio": (audio, None), "vision": (vision, None)})
    params = [view.draw(rng(seed, 0, index, number), *one.extent) for number, view in enumerate(pipelines)]
    cuts = [view.cut(p) for view, p in zip(pipelines, params, strict=True)]
    return {"crops": one.crops(cuts), "params": params, "index": index, "label": -1, "bad": []}


def steps(method: Method, count: int) -> list[float]:
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for step in range(count):
        torch.manual_seed(step)
        progress = Progress(step, 20, 10)
        method.before_step(progress)
        part = method.loss(batch(method, seed=0), progress)
        loss = sum(part.terms.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.after_step([part.signals], progress)
        losses.append(float(loss.detach()))
    return losses


def test_it_says_what_it_is(cls):
    for field in ("title", "paper", "modality", "family"):
        assert getattr(cls, field)
    assert "arXiv" in cls.paper
    assert {"paper", "small"} <= set(cls.presets)
    assert issubclass(cls.Settings, Recipe)
    # What all share, or a family of methods does.
    families = (
        ClipRecipe, DINORecipe, SequenceRecipe, SoundRecipe, LevelledRecipe, Bootstrapping, Distilling, Clustering,
    )  # fmt: skip
    assert cls.Settings.__mro__[1] in (Recipe, *families)
    assert dataclasses.is_dataclass(cls.Settings)
    assert cls.Settings.__dataclass_params__.frozen


def test_a_paper_is_a_file(cls):
    path = Path(inspect.getfile(cls))
    assert len(path.read_text().splitlines()) <= 180
    assert "arXiv" in inspect.getmodule(cls).__doc__


def test_every_setting_has_a_sentence_and_survives_a_file(cls):
    for preset in cls.presets.values():
        assert all(row["help"] for row in describe(preset))
        assert from_dict(cls.Settings, to_dict(preset)) == preset


def test_its_presets_are_sound(cls):
    for preset in cls.presets.values():
        assert problems(preset) + recipe_problems(preset) + cls.problems(preset) == []


def test_the_loss_is_a_finite_sum_of_scalars_with_gradients(cls):
    method = make(cls)
    part = method.loss(batch(method), Progress(0, 20, 10))
    assert part.terms
    for term in part.terms.values():
        assert term.ndim == 0
        assert torch.isfinite(term)
    sum(part.terms.values()).backward()
    assert isinstance(method.encoder, Encoder)
    assert all(p.grad is not None for p in method.encoder.parameters() if p.requires_grad)
    assert not any(s.requires_grad for s in part.signals.values())


def test_the_loss_of_one_batch_falls(cls):
    losses = steps(make(cls), 12)
    # Not below the very first: a queue starts with random keys, which are easy negatives, and the loss first rises.
    assert min(losses[-3:]) < max(losses[:6])


def test_the_same_seed_gives_the_same_steps(cls):
    first, second = make(cls), make(cls)
    assert steps(first, 2) == steps(second, 2)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_its_state_goes_on_where_it_stopped(cls):
    whole, broken = make(cls), make(cls)
    steps(whole, 2)
    steps(broken, 2)
    fresh = make(cls, seed=9)
    fresh.load_state_dict(broken.state_dict())
    progress = Progress(2, 20, 10)
    values = []
    for method in (whole, fresh):
        torch.manual_seed(0)
        method.before_step(progress)
        values.append(float(sum(method.loss(batch(method, 3), progress).terms.values()).detach()))
    assert values[0] == values[1]


def test_other_channels_than_three(cls):
    if cls.modality in ("audio", "sequences"):  # mixed down to one, whatever the file has; one row
        assert cls(settings_of(cls)).encoder.inputs.channels == 1
        assert "channels = 2: must be" in problems(settings_of(cls, channels=2))[0]
        return
    if cls.modality == "video+audio+text":
        assert "channels = 2: must be" in problems(settings_of(cls, channels=2))[0]
        return
    assert cls(settings_of(cls, channels=2)).encoder.inputs.channels == 2


def test_the_signals_let_the_monitors_see_a_collapse(cls):
    method = make(cls)
    signals = method.loss(batch(method), Progress(0, 20, 10)).signals
    assert signals["features"].shape[1] == method.encoder.width
    assert signals["embeddings" if "embeddings" in signals else "targets"].ndim == 2


def test_an_unknown_method_is_answered_with_the_nearest():
    with pytest.raises(Unknown, match="Did you mean 'moby'"):
        find("mobi")


def test_the_table_names_every_method_file():
    root = Path(tacit.__file__).parent / "methods"
    files = {p.stem for p in root.glob("*/*.py") if p.stem != "__init__"}
    assert files == {target.split(":")[0].rsplit(".", 1)[1] for target in METHODS.values()}


def test_a_look_at_its_memory_leaves_a_method_as_it_was(cls):
    from tacit.engine.memory import bytes_a_record

    method, twin = make(cls), make(cls)
    views = batch(method)
    before = torch.get_rng_state()
    assert bytes_a_record(method, views, torch.bfloat16) > 0
    assert torch.equal(torch.get_rng_state(), before)
    for (name, a), b in zip(method.state_dict().items(), twin.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert all(p.grad is None for p in method.parameters())
    assert steps(method, 2) == steps(twin, 2)
