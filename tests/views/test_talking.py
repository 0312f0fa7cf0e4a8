"""What is hidden of feature sequences: how much, in which pieces, never padding, and drawn by the record alone."""

import numpy as np
import pytest
import torch

from tacit.data.sequences import Clip, clip
from tacit.views import SequenceInputs, Talk, inputs_from_dict, rng
from tacit.views.talking import BESIDE, KEEP, MASK, SHOWN, SWAP

INPUTS = SequenceInputs((20, 200, 100), (1, 5, 3), 40, mean=(0.0,) * 8, std=(1.0,) * 8)
STARTS = (0, 20, 220, 320)


def talker(seed: int, words: int = 20) -> Clip:
    """A clip with a hole in its vision, where no face was found."""
    g = np.random.default_rng(seed)
    vision = g.normal(size=(words * 5, 3))
    vision[40:47] = 0
    return clip({
        "text": (g.integers(2, 40, words), None), "audio": (g.normal(size=(words * 10, 5)), None),
        "vision": (vision, None),
    })  # fmt: skip


def drawn(view: Talk, count: int = 1000) -> list[tuple[Clip, dict]]:
    clips = [talker(i, 12 + i % 9) for i in range(count)]
    return [(one, view.draw(rng(0, 0, i, 0), *one.extent)) for i, one in enumerate(clips)]


def test_15_per_cent_are_asked_for_in_spans_and_eight_of_ten_are_hidden():
    found = drawn(Talk(INPUTS))
    for m, modality in enumerate(("text", "audio", "vision")):
        valid = asked = 0
        kinds = {MASK: 0, SWAP: 0, KEEP: 0}
        for one, params in found:
            hidden = params["hidden"][STARTS[m] : STARTS[m + 1]]
            there = one.tracks[modality].valid
            valid += there.sum()
            asked += (hidden != SHOWN).sum()
            assert not hidden[len(there) :].any()
            assert not hidden[: len(there)][~there].any()
            for kind in kinds:
                kinds[kind] += (hidden == kind).sum()
            if m:
                edges = np.flatnonzero(np.diff(np.concatenate([[0], hidden != SHOWN, [0]])))
                assert set((edges[1::2] - edges[::2]).tolist()) <= {7}  # as long as set, and none touches another
        assert asked / valid == pytest.approx(0.15, abs=0.005)
        shares = [kinds[k] / asked for k in (MASK, SWAP, KEEP)]
        assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.02)


def test_modalities_are_left_out_but_never_all():
    absent = np.array([params["absent"] for _, params in drawn(Talk(INPUTS, drop=0.5), 2000)])
    assert not absent.all(1).any()
    assert absent.any(1).mean() > 0.8
    few = np.array([params["absent"] for _, params in drawn(Talk(INPUTS), 2000)])
    assert few.mean(0) == pytest.approx([0.1, 0.1, 0.1], abs=0.025)
    words = clip({"text": (np.arange(2, 12), None)})
    assert not any(Talk(INPUTS, drop=1.0).draw(rng(0, 0, i, 0), words)["absent"][0] for i in range(50))


def test_aligned_hides_the_same_time_elsewhere_and_does_not_ask_for_it():
    view, plain = Talk(INPUTS, aligned=True), Talk(INPUTS)
    beside = 0
    for i in range(100):
        one = talker(i)
        hidden = view.draw(rng(0, 0, i, 0), one)["hidden"]
        before = plain.draw(rng(0, 0, i, 0), one)["hidden"]
        for word in np.flatnonzero(np.isin(before[:20], (MASK, SWAP))):
            audio = hidden[20 + word * 10 : 30 + word * 10]
            assert (audio != SHOWN).all()
            assert not (audio == KEEP).any()
        assert ((before != SHOWN) <= (hidden != BESIDE)).all()  # what was asked for still is
        beside += (hidden == BESIDE).sum()
    assert beside


def test_short_sequences_have_short_spans():
    short = clip({"audio": (np.ones((9, 5)), None)})
    lengths = set()
    for i in range(200):
        hidden = Talk(INPUTS).draw(rng(0, 0, i, 0), short)["hidden"][20:29]
        lengths.add(int((hidden != SHOWN).sum()))
    assert lengths == {0, 2}


def test_a_row_is_packed_and_unpacked_with_gaps():
    one = talker(0, 4)
    row = torch.from_numpy(INPUTS.packing.pack(one))[None]
    parts = INPUTS.parts(row)
    assert torch.equal(parts["text"][0, :4, 0], torch.from_numpy(one.tracks["text"].values).float())
    assert parts["text"][0, 4:].isnan().all()
    assert torch.equal(parts["audio"][0, :40], torch.from_numpy(one.tracks["audio"].values))
    assert parts["audio"][0, 40:].isnan().all()
    deaf = INPUTS.parts(INPUTS.without(row, ("audio",)))
    assert deaf["audio"].isnan().all()
    assert torch.equal(deaf["vision"].nan_to_num(9), parts["vision"].nan_to_num(9))


def test_features_are_normalised_and_ids_are_not():
    inputs = SequenceInputs((2, 2, 1), (1, 2, 1), 9, mean=(1.0, 2.0, 3.0), std=(2.0, 4.0, 1.0))
    x = torch.tensor([[[5.0, 7.0, 3.0, 2.0, 1.0, float("nan"), 4.0]]])
    assert inputs.prepare(x)[0, 0].nan_to_num(99).tolist() == [5, 7, 1, 0, 0, 99, 1]
    assert inputs_from_dict(inputs.to_dict()) == inputs


def test_the_summary_looks_at_what_is_there():
    inputs = SequenceInputs((3, 3, 0), (1, 2, 0), 4)
    nan = float("nan")
    x = torch.tensor([[[2.0, 2.0, 3.0, 1.0, 5.0, 3.0, 5.0, nan, nan]], [[nan] * 9]])
    found = inputs.summary(x)
    torch.testing.assert_close(found[0], torch.tensor([0, 0, 2 / 3, 1 / 3, 2.0, 5.0, 1.0, 0.0]))
    assert not found[1].any()
