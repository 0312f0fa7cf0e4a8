"""The framework's tasks by hand, one by one: who sees what, where each gradient goes, and what avoids collapse."""

import dataclasses
import math

import pytest
import torch

from tacit import encoders
from tacit.data import open_source
from tacit.engine import Progress
from tacit.engine.recipe import problems as recipe_problems
from tacit.methods.image.lowshot_mim_cluster import LowShotMIMCluster, Settings
from tacit.objectives import batch_info_nce, masked_l1, me_max, patchify
from tacit.views import Views, collate, finish

START, LATER = Progress(0, 100, 10), Progress(10, 100, 10)
NONE = {"view_weight": 0.0, "patch_weight": 0.0, "pixel_weight": 0.0}


def tiny(**changes) -> LowShotMIMCluster:
    torch.manual_seed(0)
    small = dataclasses.replace(LowShotMIMCluster.presets["small"], size=16, batch_size=4, drop_path=0.0)
    return LowShotMIMCluster(dataclasses.replace(small, **(LowShotMIMCluster.tiny | {"local_crops": 2} | changes)))


def batch(method: LowShotMIMCluster, digits, count: int = 4) -> list[dict[str, torch.Tensor]]:
    pipelines = method.views()
    records = Views(open_source(digits), pipelines, seed=2)
    return finish(collate([records[(0, i)] for i in range(count)]), pipelines)


def grads(method, term) -> dict[str, bool]:
    """Which parts the gradient of a term reaches."""
    method.zero_grad()
    term.backward(retain_graph=True)
    parts = {"encoder": method.encoder, "teacher": method.teacher, "decoder": method.decoder}
    parts |= {"mlp": method.clusters.student.mlp, "teacher_head": method.clusters.teacher}
    parts |= dict(method.clusters.student.last_layer.items())
    return {name: any(p.grad is not None and p.grad.any() for p in part.parameters()) for name, part in parts.items()}


def test_the_defaults_are_those_that_the_abstract_and_its_sources_leave():
    s = Settings()
    assert LowShotMIMCluster.presets["paper"] == s
    assert (s.encoder, s.batch_size, s.lr, s.lr_batch, s.warmup_epochs, s.lr_end) == (
        "deit_small",
        1024,
        5e-4,
        256,
        10,
        1e-6,
    )
    assert (s.weight_decay, s.weight_decay_end, s.momentum, s.clip, s.drop_path) == (0.04, 0.4, 0.996, 3.0, 0.1)
    assert (s.prototypes, s.patch_prototypes, s.hidden, s.bottleneck, s.freeze_last_layer) == (8192, 8192, 2048, 256, 1)
    assert (s.student_temperature, s.teacher_temperature_start, s.teacher_temperature) == (0.1, 0.04, 0.07)
    assert (s.global_area, s.local_area, s.local_crops, s.local_size) == ((0.25, 1), (0.05, 0.25), 10, 96)
    assert (s.view_weight, s.patch_weight, s.pixel_weight, s.contrast_weight) == (1, 1, 1, 0)
    assert (s.corrupt, s.fills, s.share, s.donor_share, s.avoid) == ("pixels", ("zeros",), 0.5, 0.3, ("centring",))
    base = dataclasses.replace(s, encoder="deit_base_patch16_224")
    assert recipe_problems(base) + LowShotMIMCluster.problems(base) == []


def test_with_1024_prototypes_of_256_they_begin_as_msns():
    head = tiny(prototypes=1024, bottleneck=256).clusters.student
    weight = head.last_layer["views"].weight_v
    assert 0.99 / 16 < weight.abs().max() <= 1 / 16
    z = torch.randn(3, 256)
    cosines = torch.nn.functional.cosine_similarity(z[:, None], weight[None], dim=-1)
    torch.testing.assert_close(head.last_layer["views"](torch.nn.functional.normalize(z)), cosines)


@pytest.mark.parametrize("corrupt", ["pixels", "tokens"])
def test_every_term_by_hand(corrupt, digits):
    """Pairs of views one by one, hidden patches image by image, pixels of what is hidden alone."""
    method = tiny(corrupt=corrupt, mask_share=1.0, contrast_weight=1.0, avoid=("centring", "me_max"))
    with torch.no_grad():
        for center in method.clusters.centers.values():
            center.center.normal_(std=0.01)
    views, head = batch(method, digits), method.clusters
    student = [method.encode(v["image"], v["mask"]) for v in views[:2]]
    seen = [method.teacher.features_and_tokens(v.get("clean", v["image"])) for v in views[:2]]
    features = [x for x, _ in student] + [method.encoder(v["image"]) for v in views[2:]]
    z, zt = [head.student.embed(x) for x in features], [head.teacher.embed(x) for x, _ in seen]

    def wanted(kind, embedding):
        return ((head.teacher.last_layer[kind](embedding) - head.centers[kind].center) / 0.04).softmax(-1)

    def cost(kind, target, embedding):
        return -(target * (head.student.last_layer[kind](embedding) / 0.1).log_softmax(-1)).sum(-1)

    pairs = [(i, v) for i in (0, 1) for v in range(4) if v != i]
    of_views = torch.stack([cost("views", wanted("views", zt[i]), z[v]).mean() for i, v in pairs]).mean()
    contrast = torch.stack([batch_info_nce(z[v], zt[i], 0.2) for i, v in pairs]).mean()
    patches, said = [], []
    for (_, tokens), (_, clean), v in zip(student, seen, views[:2], strict=True):
        mask = v["mask"].flatten(1)
        if corrupt == "pixels":
            mask = patchify(v["mask"].float(), 4).mean(-1) >= 0.5
        for b, row in enumerate(mask):
            own = cost(
                "patches", wanted("patches", head.teacher.embed(clean[b, row])), head.student.embed(tokens[b, row])
            )
            patches.append(own.mean() if row.any() else own.sum())
            said.append(head.student.last_layer["patches"](head.student.embed(tokens[b, row])))
    targets = torch.cat([v.get("clean", v["image"]) for v in views[:2]])
    where = torch.cat([v["mask"] for v in views[:2]])
    if corrupt == "tokens":
        where = where.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None]
    restored = masked_l1(method.decoder(torch.cat([tokens for _, tokens in student])), targets, where)
    every = torch.cat([head.student.last_layer["views"](x) for x in z])
    expected = {
        "pixels": restored, "contrast": contrast, "patches": torch.stack(patches).mean(), "views": of_views,
        "views_me_max": me_max((every / 0.1).softmax(-1)),
        "patches_me_max": me_max((torch.cat(said) / 0.1).softmax(-1)),
    }  # fmt: skip
    terms = method.loss(views, LATER).terms
    assert set(terms) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(
            terms[name], value, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_where_each_gradient_goes(digits):
    method = tiny(avoid=("centring", "me_max"), norm_last_layer=False)
    terms = method.loss(batch(method, digits), LATER).terms
    everywhere = {"encoder": True, "teacher": False, "teacher_head": False}
    for name in ("views", "views_me_max"):
        assert grads(method, terms[name]) == everywhere | {
            "mlp": True,
            "views": True,
            "patches": False,
            "decoder": False,
        }
    for name in ("patches", "patches_me_max"):
        assert grads(method, terms[name]) == everywhere | {
            "mlp": True,
            "views": False,
            "patches": True,
            "decoder": False,
        }
    assert grads(method, terms["pixels"]) == everywhere | {
        "mlp": False,
        "views": False,
        "patches": False,
        "decoder": True,
    }


def test_patches_that_are_not_hidden_get_no_gradient_of_their_own(digits, monkeypatch):
    method = tiny(**(NONE | {"patch_weight": 1.0}))
    views, kept = batch(method, digits), []
    encode = method.encode

    def remember(*inputs):
        features, tokens = encode(*inputs)
        tokens.retain_grad()
        kept.append(tokens)
        return features, tokens

    monkeypatch.setattr(method, "encode", remember)
    method.loss(views, LATER).terms["patches"].backward()
    hidden = patchify(torch.cat([v["mask"] for v in views]).float(), 4).mean(-1) >= 0.5
    assert hidden.any()
    assert not hidden.all()
    assert not kept[0].grad[~hidden].any()
    assert kept[0].grad[hidden].any()


ARMS = {
    "contrastive": (NONE | {"contrast_weight": 1.0, "corrupt": "none"}, {"contrast"}, 4),
    "clustering": (NONE | {"view_weight": 1.0, "corrupt": "none"}, {"views"}, 4),
    "msn": (NONE | {"view_weight": 1.0, "corrupt": "drop", "avoid": ("me_max",)}, {"views", "views_me_max"}, 4),
    "mim_pixel": (NONE | {"pixel_weight": 1.0}, {"pixels"}, 2),
    "simmim": (NONE | {"pixel_weight": 1.0, "corrupt": "tokens"}, {"pixels"}, 2),
    "mim_token": (NONE | {"patch_weight": 1.0, "corrupt": "tokens"}, {"patches"}, 2),
}


@pytest.mark.parametrize("arm", ARMS)
def test_what_is_switched_off_is_not_built_and_the_rest_trains(arm, digits):
    changes, terms, crops = ARMS[arm]
    method = tiny(**changes, momentum=0.9)
    views = batch(method, digits)
    assert len(views) == crops
    step = method.loss(views, START)
    assert set(step.terms) == terms
    sum(step.terms.values()).backward()
    trained = [p for p in method.parameters() if p.requires_grad]
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in trained)
    before = [p.clone() for p in method.teacher.parameters()]
    method.before_update(START)
    with torch.no_grad():
        for p in trained:
            p.sub_(0.01 if p.grad is None else p.grad)
    method.after_step([step.signals], START)
    assert any(not torch.equal(a, b) for a, b in zip(before, method.teacher.parameters(), strict=True))
    assert method.handed_over is method.teacher
    assert (method.decoder is None) == ("pixels" not in terms)


def test_dropped_patches_are_no_part_of_the_students_large_crops(digits):
    method = tiny(**(NONE | {"view_weight": 1.0, "corrupt": "drop", "drop_ratio": 0.5}))
    view = batch(method, digits)[0]
    features, tokens = method.encode(view["image"], view["mask"])
    assert tokens.shape[1] == 8
    spoiled = torch.where(view["mask"].repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None], 9.0, view["image"])
    torch.testing.assert_close(method.encode(spoiled, view["mask"])[0], features)
    assert not torch.allclose(method.encoder(spoiled), method.encoder(view["image"]))


def test_the_targets_of_each_avoidance(digits):
    for avoid in ((), ("centring",), ("sinkhorn",), ("me_max",), ("centring", "sinkhorn", "me_max")):
        method = tiny(avoid=avoid, sinkhorn=100)
        with torch.no_grad():
            method.clusters.centers["views"].center.normal_()
        z = torch.nn.functional.normalize(torch.randn(64, 16, generator=torch.Generator().manual_seed(0)), dim=1)
        _, wanted, mean = method.clusters.compare("views", z, z, LATER)
        logits = method.clusters.teacher.last_layer["views"](z)
        torch.testing.assert_close(mean, logits.mean(0, keepdim=True))
        assert not wanted.requires_grad
        if "sinkhorn" in avoid:  # exactly uniform marginals
            torch.testing.assert_close(wanted.sum(0), torch.full((32,), 2.0), atol=1e-3, rtol=0)
        else:
            center = method.clusters.centers["views"].center if "centring" in avoid else 0.0
            torch.testing.assert_close(wanted, ((logits - center) / 0.04).softmax(-1))
        assert ("views_me_max" in method.loss(batch(method, digits), LATER).terms) == ("me_max" in avoid)


def test_a_teacher_that_says_one_thing_of_all_is_told_apart_by_each_remedy():
    """Constant logits cost nothing without avoidance; once the center has followed them, the targets are uniform."""
    z = torch.nn.functional.normalize(torch.ones(8, 16), dim=1)
    for avoid, entropy in (((), None), (("centring",), math.log(32)), (("sinkhorn",), math.log(32))):
        method = tiny(avoid=avoid, center_momentum=0.0)
        for _ in range(2):
            _, wanted, mean = method.clusters.compare("views", z, z, LATER)
            signals = {"views_logits": mean, "patches_logits": method.clusters.centers["patches"].center.clone()}
            method.clusters.follow([signals], 1.0)
        found = torch.special.entr(wanted).sum(1).mean().item()
        assert found < 3.2 if entropy is None else found == pytest.approx(entropy, abs=1e-4)


def test_a_prior_gives_prototypes_unequal_shares():
    method = tiny(avoid=("sinkhorn",), sinkhorn=300, prior_power=0.5)
    z = torch.nn.functional.normalize(torch.randn(64, 16, generator=torch.Generator().manual_seed(0)), dim=1)
    shares = method.clusters.compare("views", z, z, LATER)[1].sum(0)
    expected = torch.arange(1, 33) ** -0.5
    torch.testing.assert_close(shares / shares.sum(), expected / expected.sum(), atol=1e-4, rtol=0)


def test_the_prototypes_wait_and_the_head_may_normalise_its_batch(digits):
    method = tiny(head_norm=True)
    for progress, waits in ((START, True), (LATER, False)):
        method.zero_grad()
        sum(method.loss(batch(method, digits), progress).terms.values()).backward()
        method.before_update(progress)
        layers = method.clusters.student.last_layer.values()
        assert all((layer.weight_v.grad is None) == waits for layer in layers)
    assert any(isinstance(part, torch.nn.BatchNorm1d) for part in method.clusters.student.mlp)


@pytest.mark.parametrize("corrupt", ["pixels", "tokens"])
def test_what_it_shows(corrupt, digits):
    method = tiny(corrupt=corrupt, mask_share=1.0).eval()
    views = batch(method, digits)
    shown = method.reconstructions(views)
    assert list(shown) == ["input", "masked", "reconstruction"]
    assert all(x.shape == (4, 3, 16, 16) and not x.requires_grad for x in shown.values())
    mask = views[0]["mask"]
    pixels = mask if corrupt == "pixels" else mask.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None]
    assert torch.equal(shown["masked"].masked_fill(pixels, 0), shown["input"].masked_fill(pixels, 0))
    assert not torch.equal(shown["masked"], shown["input"])
    assert tiny(**(NONE | {"view_weight": 1.0, "corrupt": "none"})).reconstructions(views) == {}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"avoid": ("centering",)}, "avoid = centering: choose among centring, sinkhorn, me_max"),
        ({"avoid": ("me_max", "me_max")}, "name each once"),
        (NONE, "nothing would be learned"),
        ({"corrupt": "none"}, "corrupt = none: nothing is hidden to tell"),
        ({"local_size": 15}, "local_size = 15: must be a multiple of the patch size"),
        ({"corrupt": "tokens", "mask_ratio": (0.5, 0.1)}, "mask_ratio = 0.5,0.1"),
    ],
)
def test_what_cannot_work_is_refused(changes, said):
    (problem,) = LowShotMIMCluster.problems(dataclasses.replace(LowShotMIMCluster.presets["small"], **changes))
    assert said in problem


def test_it_hands_over_a_class_token(tmp_path):
    tiny().hand_over(tmp_path)
    assert encoders.load(tmp_path).feature == "class token after the last norm"
