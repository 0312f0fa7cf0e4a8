"""What a page shows of a run that learned from films, their sound and what is said in them."""

import base64
import io
import re

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from benchmarks.made_clips import write_clips
from tacit import encoders
from tacit.data import open_source
from tacit.encoders import JointSpace, save_joint
from tacit.engine.samples import save_sample_views
from tacit.heads import common_space
from tacit.report import maps as maps_room
from tacit.report import report
from tacit.report import retrieval as retrieval_room
from tacit.report.contents import _pictures
from tacit.report.curves import CURVES
from tacit.report.pictures import FRAMES, GAP, Thumbnails
from tacit.report.retrieval import directions, ranked
from tacit.report.sample import Sample, take
from tacit.report.tiles import FRAME
from tacit.run import Run
from tacit.views import FilmClip, FilmInputs, SentenceBag, TextInputs, Views, WaveClip, WaveInputs

FILM = FilmInputs(4, 16, 8.0)
WAVE = WaveInputs(8000, 0.5, normalise=False, fixed=True)
WORDS = ("disc", "square", "ball", "moves", "slides", "the", "a", "to", "right", "left")
TEXT = TextInputs(WORDS, 2, 6)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Twelve clips; some have no sound or no text."""
    folder = tmp_path_factory.mktemp("clips")
    write_clips(
        folder, 12, shapes=2, motions=2, size=32, seconds=(0.6, 0.9), no_sound=0.3, no_text=0.3, seed=3
    )  # fmt: skip
    return folder


def made(of: str) -> encoders.Encoder:
    how = {
        "video": ((4, 8, 8), FILM, {}), "audio": ((128,), WAVE, {}),
        "text": (None, TEXT, {"words": len(WORDS) + 1, "dims": 8}),
    }[of]  # fmt: skip
    patch = {} if how[0] is None else {"patch": how[0]}
    return encoders.build(f"vatt_{of}_mini", inputs=how[1], **patch, **how[2])


@pytest.fixture(scope="module")
def run(clips, tmp_path_factory):
    """A run folder with three encoders and the space in which they meet, untrained."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("runs") / "vatt"
    parts = {of: made(of) for of in ("video", "audio", "text")}
    how = {"kind": "fac", "fine": 16, "coarse": 8, "audio_text": False}
    head = common_space(widths={of: e.width for of, e in parts.items()}, **how)
    save_joint(folder, parts, head, how, [("video", "text"), ("video", "audio")])
    about = {"method": "vatt", "data": [f"clips:{clips}"], "seed": 0, "settings": {"encoder": "vatt_video_mini"}}
    (folder / "settings.yaml").write_text(yaml.safe_dump(about))
    views = [FilmClip(FILM), WaveClip(WAVE, of=0), SentenceBag(TEXT, 0.5, of=0)]
    save_sample_views(folder / "views.npz", Views(open_source(f"clips:{clips}"), views, 0), views)
    return folder


def sample(source, inputs=FILM) -> Sample:
    n = len(source)
    x = np.random.default_rng(0).normal(size=(n, 8)).astype("f4")
    thumbnails = Thumbnails(source, np.arange(n), inputs)
    return Sample(x, [source.name(i) for i in range(n)], source.labels, source.classes, thumbnails, n, 0)


def test_the_page_shows_films_their_sounds_and_words(run, tmp_path, monkeypatch):
    monkeypatch.setattr(maps_room, "find_spec", lambda name: None)  # UMAP takes seconds to import
    monkeypatch.setattr(maps_room, "_tsne", lambda flat, seed: flat[:, :2])
    page = report([run], tmp_path / "page.html").read_text()
    parts = dict(re.findall(r'<h2 id="([a-z-]+)">(.*?)</section>', page, re.S))
    neighbours, retrieval, views = (parts[name] for name in ("neighbours", "retrieval", "views"))
    assert 'class="strip films"' in neighbours
    assert "<audio" in neighbours
    assert re.search("<q>[^<]*(disc|square|ball|box|block|circle)", neighbours)
    assert "From a sentence to films" in retrieval
    assert "From a sound to films" in retrieval
    assert retrieval.count('class="query asks"') == 2 * retrieval_room.QUERIES
    assert "no sound" in views
    assert "no sentence" in views
    assert 'class="said"' in views
    height = FRAMES * (FRAME + GAP) - GAP
    uri = re.search(f'<img src="data:image/jpeg;base64,([^"]+)"[^>]*height="{height}"', neighbours)[1]
    assert Image.open(io.BytesIO(base64.b64decode(uri))).size == (FRAME, height)
    assert len(page) < 4_000_000


def test_sounds_are_found_by_what_is_said_in_them(clips, tmp_path):
    parts = {of: made(of) for of in ("audio", "text")}
    how = {"kind": "fac", "fine": 16, "coarse": 8, "audio_text": True}
    head = common_space(widths={of: e.width for of, e in parts.items()}, **how)
    save_joint(tmp_path, parts, head, how, [("audio", "text")])
    about = {"method": "vatt", "data": [f"clips:{clips}"], "seed": 0, "settings": {}}
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(about))
    found = take(Run(tmp_path), None, limit=99, seed=0)
    shown = retrieval_room.retrieval_section({"a": found}, [Run(tmp_path)], seed=0).markup
    assert "From a sentence to sounds" in shown
    assert 'class="strip sounds"' in shown
    assert shown.count('class="query asks"') == retrieval_room.QUERIES
    assert "<audio" in shown


def test_frames_of_a_strip_are_those_the_encoder_looks_at(clips):
    source = open_source(f"clips:{clips}")
    thumbnails = Thumbnails(source, np.arange(len(source)), FILM)
    found = np.asarray(Image.open(io.BytesIO(base64.b64decode(thumbnails.strip(0, 16).partition(",")[2]))))
    film = source.record(0, ("video",))["video"]
    (wanted,) = film.crops([FILM.centre(*film.extent)])
    for place, frame in enumerate((0, 2, 3)):  # of four, the second of three is rounded to the even one
        top = place * (16 + GAP)
        assert np.abs(found[top : top + 16].astype(float) - wanted[frame]).mean() < 12  # what JPEG loses


def test_what_is_missing_is_no_picture_of_zeros(run, clips):
    with np.load(run / "views.npz") as stored:
        there, sentences = stored["there"], stored["sentences"]
    source = open_source(f"clips:{clips}")
    for i in range(8):
        record = source.record(i, ("audio", "text"))
        assert there[:, i].tolist() == [True, record["audio"] is not None]
        assert any(sentences[i]) == (record["text"] is not None)
    known = set(" ".join(sentences.ravel()).split())
    assert known
    assert known <= set(WORDS)
    markup = _pictures(Run(run), "views", 96)
    assert markup.count("no sound") == int((~there[1]).sum())


class Named(nn.Module):
    """What a record's sentence, or its film, is by its number in `order`, as a point of a line."""

    def __init__(self, inputs, seen):
        super().__init__()
        self.inputs, self.seen = inputs, seen

    def forward(self, x):
        rows = [self.seen.setdefault(tuple(row.flatten().tolist()), len(self.seen)) for row in x]
        return nn.functional.one_hot(torch.tensor(rows), 16).float()


class Same(nn.Module):
    def forward(self, features):
        ((of, x),) = features.items()
        return {(of, other): x for other in ("video", "text") if other != of}


def test_ranks_are_of_records_that_have_both(clips):
    source = open_source(f"clips:{clips}")
    with_text = [i for i in range(12) if source.record(i, ("text",))["text"] is not None]
    text = TextInputs(tuple(sorted({f"w{i}" for i in range(3)})) + WORDS, 2, 6)
    space = JointSpace({"video": Named(FILM, {}), "text": Named(text, {})}, Same(), [("video", "text")])
    assert directions(space) == [("text", "video")]
    found = ranked(space, sample(source), "text", "video")
    assert found.rows.tolist() == with_text
    assert found.cosine.shape == (len(with_text),) * 2
    found = found._replace(cosine=np.array([[0.9, 0.1], [0.5, 0.5]]))
    assert found.ranks.tolist() == [1, 2]  # ties count against the query


def test_retrieval_within_a_batch_is_explained():
    for name in ("text_to_video", "audio_to_video", "text_to_audio"):
        assert "held out" in CURVES[f"metric/{name}"].how
