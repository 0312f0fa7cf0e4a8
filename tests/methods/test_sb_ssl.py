"""Slices of exams: views without colour, donors and negatives of other exams, and GMML's loss where it is GMML's."""

import dataclasses

import numpy as np
import pytest
import torch

from tacit.data import open_source
from tacit.engine import Progress
from tacit.errors import DataError
from tacit.methods.image.gmml import GMML
from tacit.methods.image.sb_ssl import SBSSL, Settings
from tacit.objectives import batch_info_nce, masked_l1
from tacit.views import Views, collate, finish

START = Progress(step=0, steps=100, steps_per_epoch=10)


def tiny(**changes) -> SBSSL:
    torch.manual_seed(0)
    small = {"size": 16, "batch_size": 8, "hidden": 32, "out": 16, **changes}
    return SBSSL(dataclasses.replace(SBSSL.presets["small"], **small))


@pytest.fixture(scope="module")
def exams(tmp_path_factory):
    root = tmp_path_factory.mktemp("exams") / "sagittal"
    root.mkdir()
    rng = np.random.default_rng(0)
    for i, slices in enumerate((3, 9, 5)):
        np.save(root / f"e{i}.npy", (rng.uniform(0, 80, (slices, 20, 20)) + 50 * i).astype(np.uint8))
    return f"exams:{root.parent}"


def batch(method: SBSSL, exams: str, rows=(0, 1, 4, 5, 6, 12, 13, 16)) -> list[dict[str, torch.Tensor]]:
    pipelines = method.views()
    records = Views(open_source(exams, channels=method.s.channels), pipelines, seed=2)
    return finish(collate([records[(0, i)] for i in rows]), pipelines)


def test_what_is_published_and_what_follows_gmml_is_the_default():
    s, g = Settings(), GMML.presets["paper"]
    assert SBSSL.presets["paper"] == s
    assert SBSSL.presets["contrastive"] == dataclasses.replace(s, contrast=True)
    same = ("encoder", "size", "channels", "epochs", "lr", "lr_batch", "lr_scaling", "lr_warmup", "lr_end", "share",
            "warmup_epochs", "weight_decay", "weight_decay_end", "clip", "clip_by", "donor_share", "align", "max_block",
            "unbiased", "masked_only", "depths", "decoder_layers", "drop_path")  # fmt: skip
    assert {n: getattr(s, n) for n in same} == {n: getattr(g, n) for n in same}
    assert (s.batch_size, s.fills, s.min_area, s.degrees, s.flip) == (64, ("noise", "zeros"), 0.25, 10.0, 0.5)
    assert (s.contrast, s.adjacent) == (False, False)


def test_views_have_no_colour_and_targets_are_alike_in_all_channels(exams):
    method = tiny()
    crop = method.views()[0].crop.crop
    assert crop.jitter == (0.2, 0.2, 0.0, 0.0)
    assert (crop.gray_p, crop.solarize_p, crop.blur_p, crop.scale) == (0, 0, 0, (0.25, 1.0))
    for view in batch(method, exams):
        for name in ("clean", "image"):
            torch.testing.assert_close(view[name][:, 0], view[name][:, 1])
            torch.testing.assert_close(view[name][:, 0], view[name][:, 2])
        hidden = view["mask"].float().mean((1, 2, 3))
        assert (hidden > 0.25).all()
        assert (hidden < 0.95).all()


def test_values_are_z_scored_by_the_settings_which_travel_with_the_encoder():
    inputs = tiny(mean=0.4, std=0.2, channels=2).encoder.inputs
    assert inputs.mean == (0.4, 0.4)
    assert inputs.std == (0.2, 0.2)
    torch.testing.assert_close(inputs.prepare(torch.full((1, 2, 4, 4), 0.5)), torch.full((1, 2, 4, 4), 0.5))


def test_the_loss_of_reconstruction_is_gmmls(exams):
    method, views = tiny(), batch(tiny(), exams)
    gmml = GMML(dataclasses.replace(GMML.presets["small"], size=16))
    gmml.load_state_dict(method.state_dict())
    found = method.loss(views, START)
    other = gmml.loss(views, START)
    assert list(found.terms) == ["reconstruction"]
    torch.testing.assert_close(found.terms["reconstruction"], other.terms["global"])
    assert set(found.signals) == set(other.signals)
    for name, signal in found.signals.items():
        torch.testing.assert_close(signal, other.signals[name])


def test_donors_are_other_exams(exams):
    """Exams differ in brightness by more than a view changes it, so that whose pixels they are can be read."""
    method = tiny(fills=(), flip=0.0, degrees=0.0)
    assert {v["group"].tolist() == [0, 0, 1, 1, 1, 2, 2, 2] for v in batch(method, exams)} == {True}
    sources = {0: 0, 1: 0}
    for rows in ((0, 1, 2, 16), (3, 4, 5, 1)):  # three of one exam, one of another
        for view in batch(method, exams, rows):
            for i in range(3):
                hidden = view["mask"][i, 0]
                sources[int(torch.equal(view["image"][i, 0][hidden], view["clean"][3, 0][hidden]))] += 1
    assert sources == {0: 0, 1: 12}


def test_contrast_leaves_other_slices_of_the_exam_out(exams):
    method = tiny(contrast=True, head="linear")
    views = batch(method, exams)
    found = method.loss(views, START)
    assert list(found.terms) == ["reconstruction", "contrast"]
    images, clean = (torch.cat([v[n] for v in views]) for n in ("image", "clean"))
    z = method.projector(method.encoder(images))
    keys = method.teacher_projector(method.teacher(clean))
    (a, b), (ka, kb), groups = z.chunk(2), keys.chunk(2), torch.tensor([0, 0, 1, 1, 1, 2, 2, 2])
    expected = batch_info_nce(a, kb, 0.2, groups) + batch_info_nce(b, ka, 0.2, groups)
    torch.testing.assert_close(found.terms["contrast"], expected)
    assert not torch.isclose(expected, batch_info_nce(a, kb, 0.2) + batch_info_nce(b, ka, 0.2))
    torch.testing.assert_close(
        found.terms["reconstruction"],
        masked_l1(torch.cat([method.reconstructions([v])["reconstruction"] for v in views]), clean,
                  torch.cat([v["mask"] for v in views])),
    )  # fmt: skip


def test_no_gradient_reaches_the_teacher_which_follows_after_the_step(exams):
    method = tiny(contrast=True)
    method.after_init()
    assert all(torch.equal(p, q) for p, q in zip(method.encoder.parameters(), method.teacher.parameters(), strict=True))
    sum(method.loss(batch(method, exams), START).terms.values()).backward()
    taught = [*method.teacher.parameters(), *method.teacher_projector.parameters()]
    assert all(p.grad is None for p in taught)
    before = method.teacher.trunk.norm.weight.clone()
    with torch.no_grad():
        method.encoder.trunk.norm.weight += 1
    method.after_step([], START)
    torch.testing.assert_close(method.teacher.trunk.norm.weight, before + 0.01)
    assert method.momentum(START) == 0.99
    assert method.momentum(Progress(100, 100, 10)) == 1.0


def test_the_neighbour_is_what_is_pulled_near(exams):
    method = tiny(contrast=True, adjacent=True)
    assert [v.field for v in method.views()] == ["image", "next"]
    first, second = batch(tiny(contrast=True, adjacent=True, min_area=1.0, degrees=0.0), exams, (3, 4, 5, 11))
    assert first["clean"].shape == second["clean"].shape
    assert torch.isfinite(sum(method.loss([first, second], START).terms.values()))
    with pytest.raises(DataError, match="exams:FOLDER"):
        Views(open_source(np.zeros((4, 8, 8), np.uint8)), method.views(), 0)
    assert any("contrast=true" in p for p in SBSSL.problems(dataclasses.replace(Settings(), adjacent=True)))


def test_what_it_shows_and_hands_over(exams):
    method = tiny().eval()
    views = batch(method, exams)
    shown = method.reconstructions(views)
    assert list(shown) == ["input", "masked", "reconstruction"]
    assert all(x.shape == (8, 3, 16, 16) and not x.requires_grad for x in shown.values())
    assert torch.equal(shown["input"], views[0]["clean"])
    assert method.handed_over.feature == "mean of the patch tokens after the last norm"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"fills": ("nosie",)}, "fills = nosie"),
        ({"fills": (), "donor_share": 0.0}, "nothing would be overwritten"),
        ({"depths": (6, 8)}, "depths = 6,8"),
        ({"encoder": "swin_mini"}, "plain ViT"),
        ({"max_block": 0.03}, "there are none"),
    ],
)
def test_what_cannot_work_is_said_first(changes, said):
    s = dataclasses.replace(SBSSL.presets["small"], **changes)
    assert any(said in problem for problem in SBSSL.problems(s))
