"""Cross-modal transformers for emotion: what is corrupted, what counts, and that all streams get the same."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from tacit.api.training import problems_of
from tacit.data import open_source
from tacit.data.sequences import clip
from tacit.engine import Progress
from tacit.engine.optim import learning_rate
from tacit.engine.talking import span_of
from tacit.errors import DataError, UsageError
from tacit.methods.multimodal.emotion_xmodal import EmotionXModal, Settings
from tacit.objectives import feature_loss, token_loss
from tacit.views import Views, collate, finish, rng
from tacit.views.sequences import unpack
from tacit.views.talking import KEEP, MASK, SHOWN, SWAP

LENGTHS, DIMS = (6, 24, 12), (1, 5, 3)
TINY = replace(
    EmotionXModal.presets["small"], lengths=LENGTHS, dims=DIMS, vocabulary=12, mean=(0.0,) * 8, std=(1.0,) * 8,
    audio_span=3, vision_span=3, mask_ratio=0.4, dropout=0.0, text_dropout=0.0, modality_drop=0.0,
)  # fmt: skip
START = Progress(0, 20, 10)
STARTS = (0, 6, 30, 42)


def made(**changes) -> EmotionXModal:
    torch.manual_seed(0)
    return EmotionXModal(replace(TINY, **changes))


def batch(method: EmotionXModal, count: int = 8, without: tuple[str, ...] = ()) -> list[dict[str, torch.Tensor]]:
    (view,), samples = method.views(), []
    for i in range(count):
        g = np.random.default_rng(i)
        words = 4 + i % 3
        raw = {"text": g.integers(1, 12, words), "audio": g.normal(size=(4 * words, 5)),
               "vision": g.normal(size=(2 * words, 3))}  # fmt: skip
        one = clip({name: (values, None) for name, values in raw.items() if name not in without})
        params = view.draw(rng(0, 0, i, 0), *one.extent)
        crops = one.crops([view.cut(params)])
        samples.append({"crops": crops, "params": [params], "index": i, "label": -1, "bad": []})
    return finish(collate(samples), [view])


def test_the_mask_vector_another_span_or_itself_stands_in_each_place():
    method = made()
    (view,) = batch(method, 40)
    x, masked = method.corrupted(view)
    before, after = unpack(view["image"], LENGTHS, DIMS), unpack(x, LENGTHS, DIMS)
    assert torch.equal(masked, view["hidden"] == MASK)
    for m, name in enumerate(("text", "audio", "vision")):
        hidden = view["hidden"][:, STARTS[m] : STARTS[m + 1]]
        same = (before[name] == after[name]).all(-1) | before[name].isnan().all(-1)
        assert same[hidden != SWAP].all()
        assert torch.equal(before[name].isnan(), after[name].isnan())
        if name != "text":  # what is swapped comes from another record, span by span
            rows = (hidden == SWAP).nonzero()
            assert len(rows)
            for b, t in rows.tolist():
                found = (before[name] == after[name][b, t]).all(-1).nonzero()
                assert found[0, 0] != b
    assert ((after["text"] >= 1) | after["text"].isnan()).all()


def test_the_loss_is_of_what_was_asked_for_masked_swapped_or_kept():
    method = made().eval()
    (view,) = batch(method)
    x, masked = method.corrupted(view)
    states, _ = method.encoder.trunk.sequences(x, masked)
    expected = {}
    truth = unpack(view["image"], LENGTHS, DIMS)
    for m, name in enumerate(("text", "audio", "vision")):
        asked = view["hidden"][:, STARTS[m] : STARTS[m + 1]] != SHOWN
        told = method.predict(name, states[name])
        if name == "text":
            expected[name] = token_loss(told, truth[name][..., 0].nan_to_num(0).long(), asked)
        else:
            expected[name] = feature_loss(told, truth[name], asked)
    found = method.loss([view], START).terms
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    assert (view["hidden"] == KEEP).any()
    double = made(audio_weight=2.0).eval()
    double.load_state_dict(method.state_dict())
    torch.testing.assert_close(double.loss([view], START).terms["audio"], 2 * found["audio"])


def test_what_is_hidden_cannot_be_read_anywhere():
    """Another truth under the mask vector changes the targets alone: the states stay to the bit."""
    method = made().eval()
    (view,) = batch(method)
    view["hidden"] = torch.where(view["hidden"] == SHOWN, SHOWN, MASK).to(torch.int8)
    other = {**view, "image": view["image"].clone()}
    for m, (name, part) in enumerate(unpack(other["image"], LENGTHS, DIMS).items()):
        hidden = (view["hidden"][:, STARTS[m] : STARTS[m + 1]] == MASK)[..., None]
        changed = 1 + part % 11 if name == "text" else torch.randn_like(part)
        part.copy_(torch.where(hidden & ~part.isnan(), changed, part))
    a, b = (method.encoder.trunk.forward_features(*method.corrupted(v)) for v in (view, other))
    assert torch.equal(a, b)
    assert method.loss([view], START).terms["audio"] != method.loss([other], START).terms["audio"]


def test_a_modality_that_no_clip_has_counts_nothing():
    method = made()
    part = method.loss(batch(method, without=("vision",)), START)
    assert float(part.terms["vision"].detach()) == 0
    sum(part.terms.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)
    dropped = made(modality_drop=1.0)
    (view,) = batch(dropped)
    x, _ = dropped.corrupted(view)
    missing = torch.stack([p.isnan().all(-1).all(-1) for p in unpack(x, LENGTHS, DIMS).values()], 1)
    assert torch.equal(missing, view["absent"])
    assert (missing.sum(1) == 2).all()


def test_text_may_be_vectors_and_heads_are_tied_where_it_is_words():
    vectors = made(dims=(4, 5, 3), vocabulary=0, mean=(0.0,) * 12, std=(1.0,) * 12)
    assert vectors.heads["text"][-1].out_features == 4
    assert vectors.word_bias is None
    words = made()
    states = torch.randn(2, words.encoder.trunk.token_width)
    before = words.predict("text", states)
    with torch.no_grad():
        words.encoder.trunk.project["text"].weight[3] += 1
    changed = (words.predict("text", states) != before).any(0)
    assert changed.nonzero().flatten().tolist() == [3]


def test_the_rate_rises_for_a_twentieth_and_falls_in_a_line():
    s, per, total = Settings(), 1000, 100_000
    assert learning_rate(s, 2500, total, per) == pytest.approx(1e-4)
    assert learning_rate(s, 5000, total, per) == pytest.approx(2e-4)
    assert learning_rate(s, 52_500, total, per) == pytest.approx(1e-4)
    assert learning_rate(s, total, total, per) == 0
    assert (s.betas, s.weight_decay, s.batch_size, s.clip) == ((0.9, 0.98), 0.01, 256, 1.0)


def test_spans_cover_a_tenth_to_three_tenths_of_a_second():
    assert span_of(100) == 10  # 7 frames of 10 ms are too few
    assert span_of(30) == 7
    assert span_of(10) == 3
    assert span_of(0) == 7  # nothing is known of times


def test_other_encoders_and_other_data_are_refused(digits):
    found = problems_of(EmotionXModal, Settings(encoder="vit_mini"))
    assert any("reads feature sequences" in line or "spectrograms" in line for line in found)
    assert problems_of(EmotionXModal, Settings()) == []
    with pytest.raises(UsageError, match="read off the data"):
        EmotionXModal(Settings())
    with pytest.raises(DataError, match="holds images, and the method learns from feature sequences"):
        Views(open_source(digits), made().views(), 0)


def test_its_settings_are_read_off_the_data_once(tmp_path):
    for i in range(4):
        np.savez(tmp_path / f"{i}.npz", audio=np.full((3, 2), i + 1.0), text=np.array(["a", "b"]))
    source = open_source(f"sequences:{tmp_path}")
    s = EmotionXModal.presets["small"].measured(source)
    assert (s.lengths, s.dims, s.vocabulary, s.words) == ((2, 3, 0), (1, 2, 0), 4, ("a", "b"))
    assert s.mean == pytest.approx((2.5, 2.5))
    assert s.measured(source) is s
    json.dumps(s.inputs.to_dict())
    assert EmotionXModal(s).encoder.width == 2 * 32
