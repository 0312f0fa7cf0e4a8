"""The checks of VATT's own: what is compared with what, what is missing, what is dropped, and what is shared."""

import dataclasses
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tacit
from benchmarks.made_clips import write_clips
from tacit import encoders
from tacit.data import Source
from tacit.data.source import Place
from tacit.engine import Progress
from tacit.engine.clips import clip_problems, encode_there
from tacit.engine.optim import learning_rate
from tacit.engine.samples import save_sample_views
from tacit.errors import BadSettings, DataError
from tacit.methods.multimodal.vatt import VATT, Settings
from tacit.views import Views, collate, finish

BATCH, START = 6, Progress(0, 20, 10)
WORDS = ("a", "dog", "barks", "cat", "sleeps")


def settings(**changes) -> Settings:
    tiny = {"size": 16, "batch_size": BATCH, "vocabulary": WORDS, "dropout": 0.0, "drop_token": 1.0}
    return dataclasses.replace(VATT.presets["small"], **(VATT.tiny | tiny | changes))


def made(**changes) -> VATT:
    torch.manual_seed(0)
    return VATT(settings(**changes))


def batch(**valid: list[int]) -> list[dict[str, torch.Tensor]]:
    """Film, sound and sentences; `valid` names those that have a modality, by default all."""
    torch.manual_seed(1)
    images = {
        "video": torch.randn(BATCH, 3, 4, 16, 16), "audio": torch.randn(BATCH, 1, 2000),
        "text": torch.randint(1, 6, (BATCH, 5, 16)),
    }  # fmt: skip
    here = {of: torch.zeros(BATCH).bool() for of in images}
    for of in images:
        here[of][valid.get(of, range(BATCH))] = True
    return [{"image": x, "valid": here[of]} for of, x in images.items()]


def test_the_papers_schedule_and_the_codes():
    code = Settings()
    rates = {2500: 5e-5, 5000: 1e-4, 252_500: 7.5e-5, 500_000: 5e-5}
    for step, rate in rates.items():
        assert learning_rate(code, step, 500_000, 1000) == pytest.approx(rate, rel=1e-9)
    paper = dataclasses.replace(code, warmup_epochs=10.0, lr_cosine="quarter")
    for step, rate in {5000: 5e-5, 10_000: 1e-4, 255_000: 5e-5 + 5e-5 * 0.5**0.5, 500_000: 5e-5}.items():
        assert learning_rate(paper, step, 500_000, 1000) == pytest.approx(rate, rel=1e-9)
    assert (code.betas, code.eps, code.weight_decay, code.clip) == ((0.9, 0.999), 1e-7, 0.0, None)
    assert (code.epochs * code.epoch_steps, code.batch_size, code.seconds) == (500_000, 2048, 3.2)


def test_the_spaces_of_the_paper():
    head = made(fine=Settings.fine, coarse=Settings.coarse).head
    x = {of: torch.randn(4, 96) for of in ("video", "audio", "text")}
    assert {pair: z.shape[1] for pair, z in head(x).items() if "video" in pair} == {
        ("video", "audio"): 512, ("audio", "video"): 512, ("video", "text"): 256, ("text", "video"): 256,
    }  # fmt: skip


def test_text_that_is_missing_changes_nothing_of_video_and_audio():
    method = made()
    whole = method.loss(batch(), START).terms
    part = method.loss(batch(text=[0, 2, 3]), START).terms
    torch.testing.assert_close(part["video_audio"], whole["video_audio"])
    assert abs(part["video_text"] - whole["video_text"]) > 1e-3
    junk = batch(text=[0, 2, 3])
    junk[2]["image"][[1, 4, 5]] = 1
    torch.testing.assert_close(method.loss(junk, START).terms, part)


@pytest.mark.parametrize("of", ["video", "audio", "text"])
def test_what_a_missing_modality_is_filled_with_does_not_matter(of):
    views, other = batch(**{of: [0, 3, 4]}), batch(**{of: [0, 3, 4]})
    number = ["video", "audio", "text"].index(of)
    other[number]["image"][[1, 2, 5]] = 3
    first, second = made(), made()
    torch.testing.assert_close(first.loss(views, START).terms, second.loss(other, START).terms)
    for a, b in zip(first.buffers(), second.buffers(), strict=True):  # statistics of BatchNorm
        torch.testing.assert_close(a, b)


def test_where_everything_is_missing_the_loss_is_0_with_gradients_of_0():
    method = made()
    terms = method.loss(batch(audio=[], text=[]), START).terms
    assert [term.item() for term in terms.values()] == [0, 0]
    sum(terms.values()).backward()
    for name, p in method.named_parameters():
        assert torch.equal(p.grad, torch.zeros_like(p)), name


def test_sentences_without_a_known_word_are_no_candidates_unless_asked():
    few, none = batch(), batch()
    few[2]["image"][:, 2:] = 0
    none[2]["image"] = few[2]["image"][:, :2].clone()
    method = made()
    torch.testing.assert_close(method.loss(few, START).terms, method.loss(none, START).terms)
    code = made(empty_sentences=True)
    assert abs(code.loss(few, START).terms["video_text"] - code.loss(none, START).terms["video_text"]) > 1e-3


def test_weights():
    method = made()
    even = method.loss(batch(), START).terms
    method = made(video_text=3.0)
    odd = method.loss(batch(), START).terms
    torch.testing.assert_close(odd["video_text"] / even["video_text"], torch.tensor(1.5))
    torch.testing.assert_close(odd["video_audio"] / even["video_audio"], torch.tensor(0.5))
    assert list(made(video_audio=0.0).encoders) == ["video", "text"]


@pytest.mark.parametrize("agnostic", [False, True])
def test_one_set_of_weights_learns_from_all_three_or_each_from_its_own(agnostic):
    method = made(agnostic=agnostic)
    learned = {}
    views = batch()
    for number, of in enumerate(method.encoders):
        method.zero_grad(set_to_none=True)
        x = views[number]["image"].flatten(0, 1) if of == "text" else views[number]["image"]
        method.encoders[of](x).square().sum().backward()
        learned[of] = {p for p in method.parameters() if p.grad is not None and p.grad.abs().max() > 0}
    common = learned["video"] & learned["audio"] & learned["text"]
    stack = set(method.encoder.trunk.stack.parameters())
    assert common == (stack if agnostic else set())
    assert learned["video"] - common == set(method.encoder.parameters()) - common
    if agnostic:
        assert all(e.trunk.stack is method.encoder.trunk.stack for e in method.encoders.values())


def test_tokens_are_dropped_in_training_never_of_text_and_not_by_what_is_handed_over(tmp_path):
    method = made(drop_token=0.5)
    seen = {}
    for of, encoder in method.encoders.items():
        encoder.trunk.stack.register_forward_pre_hook(lambda p, args, of=of: seen.update({of: args[0].shape[1]}))
    method.loss(batch(), START)
    assert seen == {"video": 1 + 2, "audio": 1 + 7, "text": 1 + 16}  # of 4, 15 and 16
    method.hand_over(tmp_path)
    encoder = encoders.load(tmp_path).train()
    encoder.trunk.stack.register_forward_pre_hook(lambda p, args: seen.update(video=args[0].shape[1]))
    encoder(batch()[0]["image"])
    assert seen["video"] == 1 + 4


def test_what_is_handed_over_compares_as_the_method_does(tmp_path):
    method = made().eval()
    method.hand_over(tmp_path)
    space, x = encoders.load_joint(tmp_path), batch()
    z = method.head({"video": method.encoder(x[0]["image"]), "audio": method.encoders["audio"](x[1]["image"])})
    torch.testing.assert_close(space.embed("video", x[0]["image"], "text"), z["video", "text"])
    torch.testing.assert_close(space.embed("audio", x[1]["image"], "video"), z["audio", "video"])
    assert space.pairs == [("video", "text"), ("video", "audio")]
    assert encoders.load(tmp_path / "encoders" / "text").inputs.words == WORDS


def test_sound_and_text_without_film(tmp_path):
    method = made(fields=("audio", "text"), audio_text=1.0)
    assert method.s.encoders == ("vatt_audio_mini", "vatt_text_mini")
    assert method.encoder.inputs.rate == 1000
    step = method.loss(batch()[1:], START)
    assert list(step.terms) == ["audio_text"]
    step.terms["audio_text"].backward()
    assert all(p.grad is not None for p in method.parameters() if p.requires_grad)
    method.hand_over(tmp_path)
    assert (tmp_path / "encoder").is_dir()
    assert set(encoders.load_joint(tmp_path).encoders) == {"audio", "text"}
    assert "Give a pair of them a weight, as --set audio_text=1" in clip_problems(settings(fields=("audio", "text")))[0]


def test_settings_that_cannot_be_are_said():
    assert "reads no audio" in clip_problems(settings(audio_encoder="vit_mini"))[0]
    assert "one stack has one size" in clip_problems(settings(agnostic=True, text_encoder="vatt_text_small"))[0]
    assert "size = 20: must be a multiple" in clip_problems(settings(size=20))[0]
    assert [clip_problems(preset) for preset in VATT.presets.values()] == [[]] * len(VATT.presets)


def test_rows_that_are_not_there_are_not_encoded():
    seen = []

    def encoder(x: torch.Tensor) -> torch.Tensor:
        seen.append(len(x))
        return 2 * x

    x, here = torch.arange(5.0)[:, None], torch.tensor([False, True, False, False, True])
    assert encode_there(encoder, x, here)[:, 0].tolist() == [2, 2, 2, 2, 8]
    assert encode_there(encoder, x, torch.zeros(5).bool())[:, 0].tolist() == [0, 0, 0, 0, 0]
    assert encode_there(encoder, x, torch.ones(5).bool())[:, 0].tolist() == [0, 2, 4, 6, 8]
    assert seen == [2, 1, 5]


class Clips:
    """Films of three seconds whose grey grows, sounds whose level does, and what is said in each second."""

    fields = ("video", "audio", "text")

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "frames").mkdir()
        for i in range(30):
            Image.fromarray(np.full((24, 24, 3), 8 * i, np.uint8)).save(folder / "frames" / f"{i}.png")
        with wave.open(str(folder / "sound.wav"), "wb") as f:
            f.setparams((1, 2, 1000, 0, "NONE", ""))
            f.writeframes((np.arange(3000) * 10).astype("<i2").tobytes())
        (folder / "said.srt").write_text(
            "".join(f"{i}\n00:00:0{i},000 --> 00:00:0{i},999\nA {WORDS[i + 1]}.\n\n" for i in range(3))
        )

    def __len__(self) -> int:
        return 4

    def name(self, index: int) -> str:
        return str(index)

    def seconds(self, index: int) -> float:
        return 3.0

    def stamp(self) -> str:
        return "1"

    def read(self, index: int, field: str = "video") -> Place | None:
        if (index, field) in ((2, "audio"), (3, "text")):
            return None
        what = {"video": "frames", "audio": "sound.wav", "text": "said.srt"}[field]
        return Place(self.folder / what, rate=10.0, seconds=3.0)


@pytest.fixture
def source(tmp_path) -> Source:
    return Source(Clips(tmp_path), 3, None, None, "x")


def test_views_are_of_one_moment(source):
    method = made(frames=4, fps=4.0, colour=0.0, noise=0.0, sentences=1)
    dataset = Views(source, method.views(), 0)
    film, sound, text = finish(collate([dataset[(epoch, 0)] for epoch in range(20)]), method.views())
    grey = (film["image"][:, 0, 0, 0, 0] + 1) / 2 * 255 / 8 / 10  # seconds
    level = sound["image"][:, 0, 0] * 32768 / 10 / 1000
    assert (grey - level).abs().max() < 0.11  # a frame is a tenth of a second
    assert level.std() > 0.3
    assert level.max() <= 2.01  # a second is left
    spoken = text["image"][:, 0, 1] - 2  # the number of the second that overlaps most
    assert ((level - spoken).abs() <= 0.51).all()


def test_records_that_lack_something_are_taken(source):
    method = made()
    dataset = Views(source, method.views(), 0)
    views = finish(collate([dataset[(0, i)] for i in range(4)]), method.views())
    assert [view["valid"].tolist() for view in views] == [[True] * 4, [True, True, False, True], [True] * 3 + [False]]
    assert all(term.isfinite() for term in method.loss(views, START).terms.values())


def test_words_and_modalities_are_read_off_the_data(source, tmp_path):
    blank = settings(vocabulary=())
    found = blank.measured(source)
    assert found.vocabulary == ("a", "barks", "cat", "dog")
    assert found.fields == ("video", "audio", "text")
    assert blank.measured(source) == found
    assert dataclasses.replace(blank, words=3).measured(source).vocabulary == ("a", "barks")
    assert dataclasses.replace(blank, least=4).measured(source).vocabulary == ("a",)
    with pytest.raises(BadSettings, match="least = 99"):
        dataclasses.replace(blank, least=99).measured(source)
    path = tmp_path / "vectors.txt"
    path.write_text("dog 1 2 3\ncat 4 5 6\nbird 7 8 9\n")
    known = dataclasses.replace(blank, word_vectors=str(path), word_width=3, train_words=False).measured(source)
    assert known.vocabulary == ("cat", "dog")
    table = VATT(known).encoders["text"].trunk.words.weight
    assert table[1:].tolist() == [[4, 5, 6], [1, 2, 3]]
    assert not table.requires_grad
    with pytest.raises(DataError, match="Set word_width=3"):
        dataclasses.replace(known, word_width=4, vocabulary=()).measured(source)


def test_people_are_shown_the_film_and_the_sound(source, tmp_path):
    method = made()
    save_sample_views(tmp_path / "views.npz", Views(source, method.views(), 0), method.views())
    stored = np.load(tmp_path / "views.npz")
    assert (stored["names"].tolist(), str(stored["kind"])) == (["film", "sound"], "video")
    views, height, width, _ = np.delete(stored["views"].shape, 1)
    assert views == 2
    assert width == 4 * height  # four square frames


def test_sounds_that_share_a_direction_at_first_are_no_collapse():
    method = made()
    with torch.no_grad():
        method.head.audio.bias.fill_(10.0)
    found = method.loss(batch(), START).signals
    assert found["embeddings"].shape == found["positives"].shape == (BATCH, method.s.fine)
    assert found["embeddings"].mean(0).norm() < 0.5  # as a whole they lean nowhere
    torch.testing.assert_close(found["embeddings"].norm(dim=1), torch.ones(BATCH))


def test_data_that_leaves_nothing_to_compare_is_one_line(tmp_path):
    folder = write_clips(tmp_path / "sounds", 4, seconds=(0.5, 0.6), no_video=1.0).parent
    tiny = [f"{name}={value}" for name, value in VATT.tiny.items() if name != "vocabulary"]
    with pytest.raises(BadSettings, match=r"No two of audio, text are compared.*--set audio_text=1"):
        tacit.pretrain("vatt", f"clips:{folder}", tmp_path / "run", preset="small", batch_size=4, set=tiny)
    assert not (tmp_path / "run").exists()
