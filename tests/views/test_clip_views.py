"""Views of records of several modalities: films, waveforms and bags of sentences."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from benchmarks.made_clips import write_clips, write_film
from tacit.data import Batches, open_source
from tacit.errors import DataError, UsageError
from tacit.views import (
    FilmClip,
    FilmInputs,
    Inputs,
    Plain,
    SentenceBag,
    TextInputs,
    Views,
    WaveClip,
    WaveInputs,
    collate,
    field_of,
    finish,
    inputs_from_dict,
    rng,
    texts_of,
    vocabulary,
)

FILM = FilmInputs(4, 16, 10.0)
WAVE = WaveInputs(8000, 0.5, False, fixed=True)
TEXT = TextInputs(("disc", "square", "the", "a"), 5, 6)
VIEWS = [
    FilmClip(FILM, span=0.5),
    WaveClip(WAVE, span=0.5, of=0),
    SentenceBag(TEXT, 0.4, span=0.5, of=0),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Twelve clips of a second, some of which lack their pictures, sound or text."""
    folder = tmp_path_factory.mktemp("made")
    write_clips(folder, 12, shapes=2, size=32, seconds=(0.8, 1.4), rate=8000, no_sound=0.3, no_text=0.3, no_video=0.3)
    return folder


def test_views_of_one_moment_begin_alike():
    for index in range(200):
        told = {"seconds": 9.0}
        drawn = [
            VIEWS[0].draw(rng(0, 0, index, 0), 90, 10.0, 48, 64, **told),
            VIEWS[1].draw(rng(0, 0, index, 0), 72_000, 8000, **told),
            VIEWS[2].draw(rng(0, 0, index, 0), **told),
        ]
        assert {params["start"] for params in drawn} == {rng(0, 0, index, 0).random() * 8.5}
        assert VIEWS[1].cut(drawn[1]).start == round(drawn[0]["start"] * 8000)
    assert VIEWS[0].draw(rng(0, 0, 0, 0), 3, 10.0, 48, 64, seconds=0.3)["start"] == 0


@pytest.mark.parametrize("way", ["vgg", "inception"])
def test_the_place_of_a_film_is_drawn_as_published(way):
    view, height, width = FilmClip(FilmInputs(4, 56, 10.0), way=way), 120, 160
    drawn = [view.draw(rng(1, 0, k, 0), 40, 10.0, height, width, seconds=4.0) for k in range(2000)]
    boxes = np.array([[d[k] for k in ("top", "left", "height", "width")] for d in drawn], float)
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 0] + boxes[:, 2] <= height).all()
    assert (boxes[:, 1] + boxes[:, 3] <= width).all()
    aspect, area = boxes[:, 3] / boxes[:, 2], boxes[:, 2] * boxes[:, 3] / (height * width)
    if way == "vgg":
        plain = (boxes[:, 2] == 105) & (boxes[:, 3] == 105)  # 120 x 224 / 256, without jitter
        assert abs(plain.mean() - 0.2) < 0.04
        assert boxes[:, 3].min() == pytest.approx(105 / 1.2, abs=1)
        assert boxes[:, 3].max() == pytest.approx(105 / 0.8, abs=1)
        assert boxes[:, 2].max() == height  # no more than there is
    else:
        assert area.min() < 0.12
        assert area.max() > 0.8
        assert 0.48 < aspect.min() < 0.6
        assert 1.7 < aspect.max() < 2.1
    assert abs(np.mean([d["flip"] for d in drawn]) - 0.5) < 0.05
    assert abs(np.mean([d["jitter"] for d in drawn]) - 0.8) < 0.05
    with pytest.raises(UsageError, match="way = 'other'"):
        FilmClip(FILM, way="other")


def test_colours_change_alike_in_all_frames_of_a_film_and_lie_in_minus_one_to_one():
    view = FilmClip(FILM, colours_p=1.0)
    params = {"valid": torch.tensor([True, True])}
    drawn = [view.draw(rng(2, 0, k, 0), 40, 10.0, 16, 16, seconds=4.0) for k in range(2)]
    params |= {k: torch.tensor([d[k] for d in drawn]) for k in drawn[0]}
    frame = torch.randint(0, 256, (2, 3, 1, 16, 16), dtype=torch.uint8)
    x = view.finish(frame.expand(-1, -1, 4, -1, -1).contiguous(), params)["image"]
    assert x.shape == (2, 3, 4, 16, 16)
    torch.testing.assert_close(x, x[:, :, :1].expand_as(x))
    assert -1 <= x.min() < -0.8
    assert 0.8 < x.max() <= 1
    assert not torch.allclose(x, FILM.prepare(frame).expand_as(x), atol=0.02)
    plain = FilmClip(FILM, colours=None).finish(frame.expand(-1, -1, 4, -1, -1).contiguous(), params)["image"]
    torch.testing.assert_close(plain, FILM.prepare(frame).expand_as(plain))


def batches(folder, workers: int) -> list:
    source = open_source(f"clips:{folder}")
    plan = Batches(source, batch_size=4, seed=5, total_steps=6)
    loader = DataLoader(Views(source, VIEWS, 5), batch_sampler=plan, num_workers=workers, collate_fn=collate)
    return [finish(batch, VIEWS) for batch in loader]


def test_what_a_record_lacks_is_zero_and_not_valid(made):
    source = open_source(f"clips:{made}")
    data = Views(source, VIEWS, 0)
    batch = collate([data[(0, i)] for i in range(12)])
    out = finish(batch, VIEWS)
    assert batch["bad"] == []
    for view, found in zip(VIEWS, out, strict=True):
        there = [source.record(i, (view.field,))[view.field] is not None for i in range(12)]
        assert found["valid"].tolist() == there
        assert True in there
        assert False in there
        assert (found["image"].flatten(1) != 0).any(1).tolist() == there
    begun = torch.stack([part["params"]["start"] for part in batch["views"]])
    there = torch.stack([found["valid"] for found in out])
    for column in range(12):  # what there is of a record begins at one moment
        assert len(begun[there[:, column], column].unique()) == 1
    assert begun.unique().numel() > 6
    assert out[0]["image"].shape == (12, 3, 4, 16, 16)
    assert out[1]["image"].shape == (12, 1, 4000)
    assert out[2]["image"].shape == (12, 5, 6)
    assert out[2]["image"].dtype == torch.int64


def test_films_are_stacked_with_their_channels_before_time():
    films = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 6, 3), dtype=np.uint8)  # [B, T, H, W, C]
    samples = [{"crops": [x], "params": [{"valid": True}], "index": 0, "label": -1, "bad": []} for x in films]
    np.testing.assert_array_equal(collate(samples)["views"][0]["image"].numpy(), films.transpose(0, 4, 1, 2, 3))


def test_any_number_of_workers_gives_the_same_views(made):
    for views, others in zip(batches(made, 0), batches(made, 2), strict=True):
        for view, other in zip(views, others, strict=True):
            assert torch.equal(view["image"], other["image"])
            assert torch.equal(view["valid"], other["valid"])


class Needed:
    """A view of sounds that nothing stands in for."""

    name, field, inputs, of = "sound", "audio", WAVE, 0
    draw, cut = VIEWS[1].draw, VIEWS[1].cut
    timed = True


def test_without_a_stand_in_a_record_is_replaced(made):
    source = open_source(f"clips:{made}")
    data = Views(source, [Needed()], 0)
    lacking = [i for i in range(12) if source.record(i, ("audio",))["audio"] is None]
    found = data[(0, lacking[0])]
    assert found["index"] not in lacking
    assert found["bad"][0] == (lacking[0], source.name(lacking[0]), "no sound")


def test_silence_may_be_missing_sound_and_short_sound_ends_in_zeros(tmp_path):
    t = np.arange(2000) / 8000
    for k, wave in enumerate((np.zeros(2000), np.sin(2 * np.pi * 440 * t))):
        write_film(tmp_path / f"{k}.mp4", np.zeros((10, 32, 32, 3), np.uint8), 10, wave.astype(np.float32), 8000)
    source = open_source(tmp_path, kind="video")
    data = Views(source, [VIEWS[0], WaveClip(WAVE, noise=0.0, of=0)], 0)
    x = finish(collate([data[(0, 0)], data[(0, 1)]]), data.views)[1]
    assert x["valid"].tolist() == [False, True]
    begun = (data[(epoch, 1)] for epoch in range(50))
    early = next(found for found in begun if found["params"][1]["start"] < 0.1)
    assert early["crops"][1][0, :1000].any()
    assert not early["crops"][1][0, 3000:].any()


def test_noise_is_a_share_of_the_loudest_sample():
    wave = np.zeros((1, 4000), np.float32)
    wave[0, 7] = -0.5
    view = VIEWS[1]
    heard = view.change(wave, {"noise": 3})
    assert np.std(heard - wave) == pytest.approx(0.005, rel=0.05)
    np.testing.assert_array_equal(heard, view.change(wave, {"noise": 3}))
    assert not np.array_equal(heard, view.change(wave, {"noise": 4}))


def test_words_and_their_ids(made):
    texts = ["The disc's edge; the END.", "the Disc", "a été"]
    assert vocabulary(texts) == ("the", "a", "disc", "disc's", "edge", "end", "été")
    assert vocabulary(texts, most=1) == ("the",)
    assert vocabulary(texts, least=2) == ("the",)
    ids = TEXT.encode(["The disc, the unknown square!", "nothing known here", "a " * 9])
    assert ids.tolist() == [[3, 1, 3, 2, 0, 0], [0] * 6, [4] * 6, [0] * 6, [0] * 6]
    assert "disc" in vocabulary(texts_of(open_source(f"clips:{made}")))
    bag = VIEWS[2]
    out = bag.finish(torch.tensor(np.stack([ids, 0 * ids])), {"valid": torch.tensor([True, True])})
    assert out["valid"].tolist() == [True, False]  # of whose words none is known


def test_plain_records_are_of_the_middle_and_list_what_is_lacking(made):
    source = open_source(f"clips:{made}")
    for inputs, shape in ((FILM, (3, 4, 16, 16)), (WAVE, (1, 4000)), (TEXT, (5, 6))):
        plain, field = Plain(source, inputs), field_of(inputs)
        batch = Plain.collate([plain[i] for i in range(12)])
        lacking = [i for i in range(12) if source.record(i, (field,))[field] is None]
        assert [i for i, _ in batch["bad"]] == lacking
        assert inputs.prepare(batch["image"]).shape == (12 - len(lacking), *shape)
        assert {reason for _, reason in batch["bad"]} == {
            {"video": "no video", "audio": "no sound"}.get(field, "no text")
        }


def test_inputs_travel_as_a_dict():
    for inputs in (FILM, WAVE, TEXT, Inputs(32)):
        assert inputs_from_dict(inputs.to_dict()) == inputs
    with pytest.raises(UsageError, match="kind 'smell'"):
        inputs_from_dict({"kind": "smell"})


def test_windows_are_spread_evenly():
    cuts = FILM.windows(4, 40, 10.0, 20, 30)
    np.testing.assert_allclose([cut.times[0] for cut in cuts], [0, 1.2, 2.4, 3.6])
    assert {cut.left for cut in cuts} == {5.0}
    three = FILM.windows(2, 40, 10.0, 20, 30, places=3)
    assert [cut.left for cut in three] == [0, 5, 10, 0, 5, 10]
    assert [cut.top for cut in FILM.windows(1, 40, 10.0, 30, 20, places=3)] == [0, 5, 10]
    assert FILM.centre(2, 10.0, 20, 20).times[0] == 0
    assert [cut.start for cut in WAVE.windows(4, 16_000, 8000)] == [0, 4000, 8000, 12_000]
    assert WAVE.windows(1, 16_000, 8000) == [WAVE.centre(16_000, 8000)]


def test_records_of_another_kind_are_refused(digits, tones, made, tmp_path):
    for folder, what in ((digits, "images"), (tones, "sounds")):
        with pytest.raises(DataError, match=f"holds {what}, and the method learns from films"):
            Views(open_source(folder), VIEWS, 0)
    write_film(tmp_path / "a.mp4", np.zeros((5, 32, 32, 3), np.uint8), 10, None, 0)
    with pytest.raises(DataError, match=r"None of the records of .* has sound and no text|has sound"):
        Views(open_source(tmp_path, kind="video"), VIEWS, 0)
