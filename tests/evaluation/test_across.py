import math

import numpy as np
import pytest
import torch
from torch import nn

from tacit import encoders
from tacit.data.transcript import Sentence, Transcript
from tacit.encoders import JointSpace, load_joint
from tacit.errors import BadRecord, DataError, UsageError
from tacit.evaluation.across import ACROSS, chances, embedded, evaluate_across, joint_twin, run_across
from tacit.evaluation.protocols import parse
from tacit.evaluation.retrieval import Scores, one_way
from tacit.heads import common_space
from tacit.scores import sign
from tacit.views import FilmInputs, TextInputs, WaveInputs

WORDS = ("red", "green", "blue", "grey")
FILM = FilmInputs(2, 4, 2.0)
TEXT = TextInputs(WORDS, 3, 4)
ANGLES = torch.tensor([0.0, 0.4, 1.0, 1.8, 2.8])


class Reel:
    """A film of four seconds at 2 frames a second; each second k has the grey level `levels[k]`."""

    extent = (8, 2.0, 4, 4)

    def __init__(self, levels):
        self.levels = levels

    def crops(self, cuts):
        return [
            np.stack([np.full((4, 4, 3), self.levels[min(int(t), 3)], np.uint8) for t in cut.times]) for cut in cuts
        ]


class Records:
    """Films, each with a sentence that names its own number; record 3 has no sentence and film 4 is broken."""

    fields, groups, fingerprint, title = ("video", "text"), None, "f", "clips"
    labels = np.array([0, 1, 0, 1, 0])

    def __len__(self):
        return 5

    def name(self, index):
        return f"{index}.mp4"

    def record(self, index, fields):
        (field,) = fields
        if field == "text":
            said = [Sentence(0.0, 2.0, WORDS[min(index, 3)]), Sentence(2.0, 4.0, "unheard")]
            return {"text": None if index == 3 else Transcript(said)}
        if index == 4:
            raise BadRecord("truncated")
        return {"video": Reel([40 * index + 4, 40 * index + 4, 40 * index + 24, 40 * index + 24])}


class Angle(nn.Module):
    """What an input says of its record, as a point on the circle: films by their level, words by their number."""

    def __init__(self, inputs, of):
        super().__init__()
        self.inputs, self.of = inputs, of

    def forward(self, x):
        if self.of == "text":
            turn = ANGLES[x[:, 0, 0] - 1]
        else:
            turn = ANGLES[((x[:, 0, 0, 0, 0] + 1) / 2 * 255 / 40).floor().long()]
        return torch.stack([turn.cos(), turn.sin()], 1)


class Same(nn.Module):
    def forward(self, features):
        ((of, x),) = features.items()
        return {(of, other): 2 * x for other in ("video", "text") if other != of}


@pytest.fixture
def joint():
    return JointSpace({"video": Angle(FILM, "video"), "text": Angle(TEXT, "text")}, Same(), [("video", "text")])


def asked(*specs):
    return [parse(spec) for spec in specs]


def by_metric(found, of="run"):
    return {(r["protocol"], r["metric"]): r["value"] for r in found["results"] if r["of"] == of}


def test_each_finds_its_own(joint):
    found = evaluate_across(joint, Records(), asked("text_to_video:k=1/2", "video_to_text:k=1/2"), baselines=False)
    scores = by_metric(found)
    assert scores["text_to_video", "recall_at_1"] == 1
    assert scores["video_to_text", "recall_at_1"] == 1
    assert scores["text_to_video", "median_rank"] == 1
    counts = {r["protocol"]: (r["n"], r["settings"]["candidates"]) for r in found["results"]}
    assert counts == {"text_to_video": (3, 4), "video_to_text": (3, 4)}  # film 3 is a candidate that nobody means
    assert found["bad_files"] == [("4.mp4", "truncated")]
    assert sign("median_rank") == -1


def test_another_of_the_class_will_do(joint):
    class Mixed(Records):
        def record(self, index, fields):
            return super().record({0: 2, 2: 0}.get(index, index) if fields == ("text",) else index, fields)

    own = by_metric(evaluate_across(joint, Mixed(), asked("text_to_video:k=1"), baselines=False))
    assert own["text_to_video", "recall_at_1"] == pytest.approx(1 / 3)  # the words of 0 and 2 have changed places
    same = evaluate_across(joint, Mixed(), asked("text_to_video:k=1:by=class"), baselines=False)
    assert by_metric(same)["text_to_video", "recall_at_1"] == 0.75  # 4, whose film is broken, says what 3 does
    assert same["results"][0]["settings"]["chance"] == 0.5


def test_windows_are_averaged_as_they_are_or_by_similarity(joint):
    class Long(nn.Module):
        """Twice as long, and turned, for the later part of a film."""

        inputs = FILM

        def forward(self, x):
            late = ((x[:, 0, 0, 0, 0] + 1) / 2 * 255 % 40 > 14).float()[:, None]
            return torch.cat([1 - late, 3 * late], 1)

    joint.encoders["video"] = Long()
    how = run_across(windows=4)
    z, index = embedded(joint, Records(), "video", "text", how, {})
    assert index.tolist() == [0, 1, 2, 3]
    torch.testing.assert_close(z, torch.tensor([[1.0, 3.0]]).repeat(4, 1))  # two windows of each, times 2, over 4
    z, _ = embedded(joint, Records(), "video", "text", run_across(windows=4, average="similarities"), {})
    torch.testing.assert_close(z, torch.tensor([[0.5, 0.5]]).repeat(4, 1))


def test_inner_products_of_means_are_means_of_similarities():
    g = torch.Generator().manual_seed(0)
    q = nn.functional.normalize(torch.randn(5, 3, generator=g), dim=1)
    windows = nn.functional.normalize(torch.randn(5, 4, 3, generator=g), dim=2)
    ids = torch.arange(5)
    found = one_way(q, ids, windows.mean(1), ids, hits=(1,), unit=False)
    mean = torch.einsum("qd,nwd->qnw", q, windows).mean(2)
    ranks = 1 + (mean > mean.diagonal()[:, None]).sum(1)
    assert found.values["rank"].tolist() == ranks.tolist()
    by_cosine = one_way(q, ids, windows.mean(1), ids, hits=(1,))
    assert by_cosine.values["rank"].tolist() != ranks.tolist()


def test_chance_is_that_of_drawing_without_putting_back():
    answers = torch.tensor([0, 1, 1, 2, 2, 2, 3, 3, 3, 3])
    found = Scores({"rank": np.ones(2)}, np.array([0, 1]))
    one, five = chances(found, torch.tensor([0, 1]), answers, [1, 5])
    assert one == pytest.approx((0.1 + 0.2) / 2)
    assert five == pytest.approx((0.5 + 1 - math.comb(8, 5) / math.comb(10, 5)) / 2, abs=1e-6)
    assert chances(found, torch.tensor([3, 3]), answers, [7]) == [1.0]


def test_what_cannot_be_asked_is_said(joint):
    with pytest.raises(UsageError, match="no encoder of audio"):
        evaluate_across(joint, Records(), asked("audio_to_video"))
    with pytest.raises(UsageError, match="knn cannot be asked for with text_to_video"):
        evaluate_across(joint, Records(), asked("text_to_video", "knn"))
    joint.pairs = []
    with pytest.raises(UsageError, match="did not bring the two together"):
        evaluate_across(joint, Records(), asked("text_to_video"))
    joint.pairs = [("video", "text")]
    unlabelled = Records()
    unlabelled.labels = None
    with pytest.raises(UsageError, match="Give --label COLUMN"):
        evaluate_across(joint, unlabelled, asked("text_to_video:by=class"))

    class Mute(Records):
        def record(self, index, fields):
            return {"text": None} if fields == ("text",) else super().record(index, fields)

    with pytest.raises(DataError, match="None of the 5 records of clips has text"):
        evaluate_across(joint, Mute(), asked("text_to_video"), baselines=False)
    assert set(ACROSS) >= {"text_to_video", "audio_to_video", "text_to_audio"}


def test_the_random_twin_has_other_weights_and_keeps_the_run_as_it_is():
    torch.manual_seed(0)
    parts = {
        "video": encoders.build("vatt_video_mini", inputs=FILM, patch=(1, 2, 2), depth=1),
        "audio": encoders.build("vatt_audio_mini", inputs=WaveInputs(100, 1.0, False, True), patch=(50,), depth=1),
    }
    head = common_space("fac", {of: e.width for of, e in parts.items()}, 8, 4, audio_text=False)
    with torch.no_grad():
        for part in (*parts.values(), head):
            for p in part.parameters():
                p.fill_(0.5)
    joint = JointSpace(parts, head, [("video", "audio")])
    twin, again, other = joint_twin(joint, 1), joint_twin(joint, 1), joint_twin(joint, 2)
    first = twin.head.audio.weight
    assert not torch.equal(first, joint.head.audio.weight)
    assert torch.equal(first, again.head.audio.weight)
    assert not torch.equal(first, other.head.audio.weight)
    assert all((p == 0.5).all() for p in joint.parameters())
    names = [dict(space.encoders["video"].named_parameters())["trunk.patch_embed.weight"] for space in (twin, again)]
    assert torch.equal(*names)
    assert not torch.equal(names[0], joint.encoders["video"].trunk.patch_embed.weight)


def test_a_table_says_what_films_and_words_are():
    from tacit.evaluation.tables import _inputs

    assert _inputs(FILM.to_dict()).startswith(f"{FILM.frames} frames of {FILM.size} px")
    assert _inputs(TEXT.to_dict()).endswith(f"of {len(TEXT.words)} words")


def test_tables_have_words_for_every_kind_of_inputs():
    from tacit.evaluation.tables import _feature, _inputs
    from tacit.views import SequenceInputs, kaldi_inputs
    from tacit.views.kinds import KINDS

    made = [FILM, TEXT, WaveInputs(100, 1.0, False, True), kaldi_inputs(8), SequenceInputs((4, 16, 0), (1, 5, 0), 9)]
    assert {type(inputs) for inputs in made} == set(KINDS.values())
    raw = {"of": "raw-input", "settings": {}}
    for inputs in made:
        assert _inputs(inputs.to_dict())
        assert _feature(raw, inputs.to_dict()) != "pixels"
    assert _inputs(made[-1].to_dict()).endswith("text 4 x 1, audio 16 x 5")


def test_an_encoder_of_a_run_sends_to_the_run(tmp_path):
    (tmp_path / "joint").mkdir()
    (tmp_path / "joint" / "joint.json").write_text("{}")
    with pytest.raises(DataError, match=f"Give the run itself: {tmp_path}"):
        load_joint(tmp_path / "encoders" / "audio")
