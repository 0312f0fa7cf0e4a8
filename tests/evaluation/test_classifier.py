"""Classifiers on disk: they come back whole, with a part of a projector between, and are taught few labels."""

import pytest
import torch
from torch import nn

from tacit import encoders
from tacit.data import open_source
from tacit.errors import DataError, UsageError
from tacit.evaluation import classifier
from tacit.evaluation.classifier import RECIPES, Classifier, FewLabels, train_classifier
from tacit.heads import mlp


def encoder(name: str = "vit_mini", **kwargs) -> encoders.Encoder:
    torch.manual_seed(0)
    return encoders.build(name, size=16, **({"depth": 1} if name == "vit_mini" else {}), **kwargs)


def neck_of(e: encoders.Encoder) -> nn.Sequential:
    return mlp(e.width, e.width, 16, 3, bias=False, last_norm="bn_no_shift")[:3]


@pytest.mark.parametrize("middle", [False, True])
def test_a_classifier_comes_back_from_its_folder(middle, tmp_path):
    e = encoder("resnet_mini")
    model = Classifier(e, 3, neck_of(e) if middle else None, e.width if middle else None)
    nn.init.normal_(model.head.weight)
    x = torch.rand(4, 3, 16, 16)
    model.train()(x)  # running statistics
    classifier.save(model, ["a", "b", "c"], tmp_path)
    back, classes = classifier.load(tmp_path)
    assert classes == ("a", "b", "c")
    assert not back.training
    assert torch.equal(back(x), model.eval()(x))
    assert torch.equal(encoders.load(tmp_path)(x), e(x))  # its folder is an encoder's too


def test_what_cannot_be_kept_or_read_is_named(tmp_path):
    e = encoder()
    with pytest.raises(UsageError, match="A Tanh between encoder and classifier"):
        classifier.save(Classifier(e, 2, nn.Tanh()), ["a", "b"], tmp_path / "a")
    with pytest.raises(DataError, match="holds no classifier"):
        classifier.load(tmp_path)
    classifier.save(Classifier(e, 2), ["a", "b"], tmp_path)
    (tmp_path / "classifier.json").write_text('{"format": 1, "classes": ["a"], "neck": []}')
    with pytest.raises(DataError, match="no whole classifier"):
        classifier.load(tmp_path)
    (tmp_path / "head.safetensors").write_bytes(b"")
    with pytest.raises(DataError, match="no whole classifier"):
        classifier.load(tmp_path)


def test_it_learns_by_the_middle_of_the_projector_and_leaves_both_alone(digits, tmp_path):
    e, source = encoder(patch=8), open_source(digits)
    neck = neck_of(e)
    before = [t.clone() for t in (*e.state_dict().values(), *neck.state_dict().values())]
    recipe = FewLabels(epochs=8, batch_size=32, lr=4e-4, optimizer="adamw", min_area=0.5)
    model = train_classifier(e, source, recipe=recipe, neck=neck, neck_width=e.width)
    assert not model.training
    classifier.save(model, source.classes, tmp_path)
    right = classifier.right(tmp_path, source)
    assert right.shape == (200,)
    assert right.mean() > 0.2  # chance is 0.1, with a standard error of 0.02
    after = [*e.state_dict().values(), *neck.state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_lars_moves_a_weight_by_a_thousandth_of_its_length_and_the_head_plainly():
    e = encoder("resnet_mini")
    model = Classifier(e, 3)
    solver = classifier._solver(model, FewLabels())
    weight, head, shift = model.encoder.trunk.conv1.weight, model.head.weight, model.encoder.trunk.bn1.bias
    before = [p.detach().clone() for p in (weight, head, shift)]
    for p in model.parameters():
        p.grad = torch.full_like(p, 0.5)
    for group in solver.param_groups:
        group["lr"] = 0.16
    solver.step()
    moved = [old - p.detach() for p, old in zip((weight, head, shift), before, strict=True)]
    assert float(moved[0].norm()) == pytest.approx(0.16 * 1e-3 * float(before[0].norm()), rel=1e-4)
    torch.testing.assert_close(moved[1], torch.full_like(head, 0.08))
    torch.testing.assert_close(moved[2], torch.full_like(shift, 0.08))


def test_the_papers_recipes():
    assert RECIPES["one_percent"].lr * 1024**0.5 == pytest.approx(0.16)
    assert RECIPES["one_percent_large"].lr * 1024**0.5 == pytest.approx(0.064)
    assert [RECIPES[name].epochs for name in ("one_percent", "ten_percent")] == [60, 30]


def test_other_classes_are_refused(digits, tmp_path):
    classifier.save(Classifier(encoder(), 2), ["cat", "dog"], tmp_path / "c")
    with pytest.raises(DataError, match="tells cat, dog"):
        classifier.right(tmp_path / "c", open_source(digits))
    with pytest.raises(DataError, match="needs labels"):
        train_classifier(encoder(), open_source(digits, labels=None), recipe=RECIPES["small"])
