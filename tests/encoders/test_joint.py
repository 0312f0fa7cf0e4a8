import pytest
import torch

from tacit import encoders
from tacit.encoders import load_joint, save_joint, word_vectors
from tacit.errors import BadSettings, DataError
from tacit.heads import common_space
from tacit.views import FilmInputs, TextInputs, WaveInputs

FILM = FilmInputs(4, 16, 2.0, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
WAVE = WaveInputs(1000, 0.5, normalise=False, fixed=True)
TEXT = TextInputs(("a", "dog", "barks"), 2, 5)
HOW = {"kind": "fac", "fine": 12, "coarse": 8, "audio_text": False}
X = {
    "video": torch.randn(3, 3, 4, 16, 16, generator=torch.Generator().manual_seed(0)),
    "audio": torch.randn(3, 1, 500, generator=torch.Generator().manual_seed(1)),
    "text": torch.tensor([[1, 2, 0, 0, 0], [2, 3, 1, 0, 0], [0] * 5]),
}


def made(shared: bool = False) -> dict[str, encoders.Encoder]:
    torch.manual_seed(0)
    found = {
        "video": encoders.build("vatt_video_mini", inputs=FILM, patch=(2, 8, 8), depth=1, shared=shared),
        "audio": encoders.build("vatt_audio_mini", inputs=WAVE, patch=(50,), depth=1, shared=shared),
        "text": encoders.build("vatt_text_mini", inputs=TEXT, words=4, dims=6, depth=1, shared=shared),
    }
    if shared:
        encoders.share_stack(list(found.values()))
    return found


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("names", [("video", "audio", "text"), ("audio", "text")])
def test_what_is_saved_is_what_is_loaded(tmp_path, shared, names):
    parts = {of: encoder for of, encoder in made(shared).items() if of in names}
    how = HOW | {"audio_text": "video" not in names}
    head = common_space(widths={of: e.width for of, e in parts.items()}, **how)
    pairs = [(names[0], "text")]
    save_joint(tmp_path, parts, head, how, pairs)
    space = load_joint(tmp_path)
    assert space.pairs == pairs
    assert set(space.encoders) == set(names)
    first = encoders.load(tmp_path)  # alone, and as every verb loads it
    assert first.inputs == parts[names[0]].inputs
    head.eval()
    for of in names:
        parts[of].eval()
        other = "text" if of == names[0] else names[0]
        torch.testing.assert_close(space.embed(of, X[of], other), head({of: parts[of](X[of])})[of, other])
    torch.testing.assert_close(first(X[names[0]]), parts[names[0]](X[names[0]]))
    assert not space.training


def test_one_stack_is_one_set_of_weights_and_each_encoder_is_whole_alone(tmp_path):
    parts = made(shared=True)
    assert parts["video"].trunk.stack is parts["text"].trunk.stack
    encoders.save(parts["text"], tmp_path)
    torch.testing.assert_close(encoders.load(tmp_path)(X["text"]), parts["text"].eval()(X["text"]))
    assert not encoders.load(tmp_path).trunk.words.weight.requires_grad


def test_a_fresh_twin_has_the_same_inputs_and_drops_nothing():
    encoder = made()["video"]
    encoders.set_drop_token(encoder, 0.25)
    twin = encoders.like(encoder)
    assert (twin.inputs, twin.trunk.keep) == (encoder.inputs, 1.0)
    assert twin.feature == "state of the aggregating token after the last norm"
    assert [tuple(p.shape) for p in twin.parameters()] == [tuple(p.shape) for p in encoder.parameters()]


def test_a_joint_space_that_is_not_there_or_damaged(tmp_path):
    with pytest.raises(DataError, match="holds no joint space"):
        load_joint(tmp_path)
    (tmp_path / "joint").mkdir()
    (tmp_path / "joint" / "joint.json").write_text('{"widths": {}}')
    with pytest.raises(DataError, match="is damaged"):
        load_joint(tmp_path)


def test_what_cannot_be_built_is_said():
    assert encoders.problems("vatt_video_mini", (5, 20, 20), (2, 8, 8)) == [
        "frames = 5: must be a multiple of the 2 frames of a patch of vatt_video_mini. Set frames=4 or frames=6.",
        "size = 20: must be a multiple of the 8 pixels of a patch of vatt_video_mini. Set size=16 or size=24.",
    ]
    assert "reads films" in encoders.problems("vatt_video_mini", 32)[0]
    assert "reads pictures" in encoders.problems("vit_mini", (4, 32, 32))[0]
    assert "longer than the 20 samples" in encoders.problems("vatt_audio_mini", (20,), (64,))[0]
    with pytest.raises(BadSettings, match="reads waveforms"):
        encoders.build("vatt_audio_mini", size=32)


@pytest.mark.parametrize("first", ["", "3 4\n"])
def test_word_vectors(tmp_path, first):
    path = tmp_path / "words.txt"
    path.write_text(first + "dog 1 2 3 4\nCat 0.5 -1 0 2e-1\nof the 9 9 9 9\ndog 7 7 7 7\n", encoding="utf-8")
    found = word_vectors(path, {"dog", "cat", "bird"}, 4)
    assert {word: x.tolist() for word, x in found.items()} == {
        "dog": [1, 2, 3, 4], "cat": pytest.approx([0.5, -1, 0, 0.2]),
    }  # fmt: skip
    with pytest.raises(DataError, match=r"word_width = 3: .* holds vectors of 4 numbers. Set word_width=4"):
        word_vectors(path, {"dog"}, 3)
    with pytest.raises(DataError, match="none of the 1 words"):
        word_vectors(path, {"bird"}, 4)


def test_word_vectors_that_are_none(tmp_path):
    path = tmp_path / "words.txt"
    with pytest.raises(DataError, match="holds no word vectors"):
        word_vectors(path, {"dog"}, 4)
    path.write_text("dog 1 2 3 4\ncat 1 2\n")
    with pytest.raises(DataError, match="line 2: 2 numbers and not 4"):
        word_vectors(path, {"dog"}, 4)
    path.write_text("dog 1 2 three 4\n")
    with pytest.raises(DataError, match="line 1"):
        word_vectors(path, {"dog"}, 4)
