"""EsViT against its paper and official code: what is matched, which center moves when, the way in two parts."""

import dataclasses
import math

import pytest
import torch

from tacit import encoders
from tacit.encoders.chunks import ChunkAttention
from tacit.engine import Progress
from tacit.engine.monitors import health
from tacit.engine.recipe import problems as recipe_problems
from tacit.evaluation import choices
from tacit.methods.image.dino import DINO
from tacit.methods.image.esvit import EsViT, Settings
from tacit.objectives import across_regions, across_views
from tacit.settings import from_dict, to_dict, with_assignments
from tacit.views import augmented_multi_crop, mixed

START = Progress(step=0, steps=100, steps_per_epoch=10)
LATER = Progress(step=10, steps=100, steps_per_epoch=10)


def tiny(**changes) -> EsViT:
    torch.manual_seed(0)
    return EsViT(dataclasses.replace(EsViT.presets["small"], size=16, batch_size=4, **(EsViT.tiny | changes)))


def batch(method, seed: int = 0, count: int = 4) -> list[dict[str, torch.Tensor]]:
    g = torch.Generator().manual_seed(seed)
    return [{"image": torch.randn(count, 3, v.inputs.size, v.inputs.size, generator=g)} for v in method.views()]


def by_hand(method: EsViT, views) -> tuple[torch.Tensor, torch.Tensor]:
    """Both losses image by image and region by region."""
    s, v_head, r_head = method.s, method.view_head, method.region_head
    student = [method.encoder.features_and_tokens(v["image"]) for v in views]
    teacher = [method.teacher.features_and_tokens(v["image"]) for v in views[:2]]
    of_views, of_regions, pairs = 0.0, 0.0, 0
    for i in (0, 1):
        p = torch.softmax((v_head.teacher(teacher[i][0]) - v_head.center) / s.teacher_temperature, -1)
        pr = torch.softmax((r_head.teacher(teacher[i][1]) - r_head.center) / s.teacher_temperature, -1)
        for v, (feature, tokens) in enumerate(student):
            if v == i:
                continue
            q = torch.log_softmax(v_head.student(feature) / s.student_temperature, -1)
            qr = torch.log_softmax(r_head.student(tokens) / s.student_temperature, -1)
            of_views, pairs = of_views - (p * q).sum(-1).mean(), pairs + 1
            each = []
            for b in range(len(tokens)):
                for r in range(tokens.shape[1]):
                    similar = torch.cosine_similarity(tokens[b, r][None], teacher[i][1][b], dim=1)
                    each.append(-(pr[b, similar.argmax()] * qr[b, r]).sum())
            of_regions = of_regions + torch.stack(each).mean()
    return of_views / pairs, of_regions / pairs


def test_the_paper_is_the_default():
    s = Settings()
    assert EsViT.presets["paper"] == s
    assert (s.encoder, s.size, s.local_size, s.local_crops) == ("swin_tiny", 224, (96,), (8,))
    assert (s.batch_size, s.epochs, s.lr, s.lr_batch, s.warmup_epochs) == (512, 300, 5e-4, 256, 10)
    assert (s.weight_decay, s.weight_decay_end, s.clip, s.clip_by) == (0.04, 0.4, 3, "tensor")
    assert (s.prototypes, s.hidden, s.bottleneck, s.norm_last_layer) == (65536, 2048, 256, False)
    assert (s.momentum, s.student_temperature, s.drop_path, s.norm_eps) == (0.996, 0.1, 0.1, 1e-6)
    assert (s.teacher_temperature_start, s.teacher_temperature, s.teacher_temperature_epochs) == (0.04, 0.07, 30)
    assert (s.augment, s.mixup, s.cutmix, s.mix_targets) == ("dino", 0, 0, True)
    assert (s.neighbours, s.neighbours_teacher, s.neighbours_until) == ("one", "one", 1)
    assert (s.region, s.region_weight, s.region_from, s.center_momentum) == (True, 0.5, 0, 0.9)


def test_the_published_shapes():
    """49 regions at 224 pixels and 9 at 96, so 170 rows an image for the student and 98 for the teacher."""
    with torch.device("meta"):
        method = EsViT(Settings(prototypes=64))
        assert {m.eps for m in method.encoder.modules() if isinstance(m, torch.nn.LayerNorm)} == {1e-6}
        rows = [method.encoder.tokens(torch.empty(1, 3, v.inputs.size, v.inputs.size)).shape[1] for v in method.views()]
        assert rows == [49, 49] + [9] * 8
        assert (sum(rows), sum(rows[:2])) == (170, 98)
        assert choices.choose(method.encoder, torch.empty(1, 3, 224, 224), ["last4"])["last4"].shape == (1, 2304)


def test_the_losses_are_those_of_the_pairs_and_of_their_regions():
    method = tiny(drop_path=0.0, local_crops=(2, 1), local_size=(8, 12))  # several sizes: grids of 2, 1 and 2 cells
    with torch.no_grad():
        method.view_head.center.normal_(std=0.01)
        method.region_head.center.normal_(std=0.01)
    views = batch(method)
    assert [v["image"].shape[-1] for v in views] == [16, 16, 8, 8, 12]
    terms = method.loss(views, LATER).terms
    expected = by_hand(method, views)
    torch.testing.assert_close(terms["views"], 0.5 * expected[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(terms["regions"], 0.5 * expected[1], rtol=1e-5, atol=1e-6)
    small = [*views[:2], views[3], views[2], views[4]]
    torch.testing.assert_close(method.loss(small, LATER).terms["regions"], terms["regions"])


def test_one_region_one_head_and_one_center_make_it_dino():
    method = tiny(drop_path=0.0, local_crops=(2,), local_size=(4,))
    for name in ("encoder", "teacher"):
        one = getattr(method, name)
        one._rows = lambda y: y.mean((1, 2))[:, None]  # the whole view is its only region
    method.region_head.load_state_dict(method.view_head.state_dict())
    with torch.no_grad():
        for head in (method.view_head, method.region_head):
            head.center.fill_(0.01)
    terms = method.loss(batch(method), LATER).terms
    torch.testing.assert_close(terms["regions"], terms["views"])


def test_without_regions_it_is_the_loss_of_the_views_alone():
    both, alone = tiny(drop_path=0.0), tiny(drop_path=0.0, region=False)
    alone.load_state_dict({k: v for k, v in both.state_dict().items() if not k.startswith("region_head")})
    views = batch(both)
    terms = alone.loss(views, LATER).terms
    assert list(terms) == ["views"]
    torch.testing.assert_close(terms["views"], 2 * both.loss(views, LATER).terms["views"])
    dino = {"encoder": "swin_mini", "local_crops": 4, "local_size": 8, "prototypes": 32, "hidden": 32, "bottleneck": 16}
    assert sum(p.numel() for p in alone.parameters()) == sum(
        p.numel() for p in DINO(dataclasses.replace(DINO.presets["small"], size=16, **dino)).parameters()
    )
    none = tiny(drop_path=0.0, region_weight=0.0)
    assert float(none.loss(views, LATER).terms["regions"].detach()) == 0.0


def test_gradients_reach_the_student_through_every_crop_and_never_the_teacher():
    method = tiny(norm_last_layer=False)
    views = batch(method)
    for view in views:
        view["image"].requires_grad_(True)
    method.loss(views, LATER).terms["regions"].backward()
    assert all(view["image"].grad.abs().sum() > 0 for view in views)
    assert all(p.grad is not None for m in (method.encoder, method.region_head.student) for p in m.parameters())
    assert all(p.grad is None for p in method.view_head.parameters())
    teachers = (method.teacher, method.view_head.teacher, method.region_head.teacher)
    assert not any(p.requires_grad for m in teachers for p in m.parameters())


def test_both_last_layers_wait_for_an_epoch():
    method = tiny(freeze_last_layer=1.0, norm_last_layer=False)
    for progress, waits in ((START, True), (Progress(9, 100, 10), True), (LATER, False)):
        method.zero_grad()
        sum(method.loss(batch(method), progress).terms.values()).backward()
        method.before_update(progress)
        for head in (method.view_head.student, method.region_head.student):
            assert all((p.grad is None) == waits for p in head.last_layer.parameters())
            assert all(p.grad is not None for p in head.mlp.parameters())


def test_two_centers_and_the_teacher_move_after_the_step():
    method = tiny(momentum=0.9, drop_path=0.0)
    with torch.no_grad():
        for p in [*method.encoder.parameters(), *method.region_head.student.mlp.parameters()]:
            p.add_(0.01 * torch.randn_like(p))
    old = [p.clone() for p in method.region_head.teacher.parameters()]
    views = batch(method)
    step = method.loss(views, START)
    assert not method.view_head.center.any()
    pooled, tokens = method.teacher.features_and_tokens(torch.cat([v["image"] for v in views[:2]]))
    logits, of_regions = method.view_head.teacher(pooled), method.region_head.teacher(tokens)
    method.after_step([step.signals, step.signals], START)
    torch.testing.assert_close(method.view_head.center, 0.1 * logits.mean(0, keepdim=True))
    torch.testing.assert_close(method.region_head.center, 0.1 * of_regions.mean((0, 1))[None])
    assert not torch.allclose(method.view_head.center, method.region_head.center)
    m = method.momentum(START)
    online = method.region_head.student.parameters()
    for t, before, now in zip(method.region_head.teacher.parameters(), old, online, strict=True):
        torch.testing.assert_close(t, m * before + (1 - m) * now)
    assert method.handed_over is method.teacher


def test_regions_may_join_later_with_a_fresh_head_while_all_else_goes_on():
    method = tiny(region_from=2.0, freeze_last_layer=0, drop_path=0.0, momentum=0.9)
    fresh = {k: v.clone() for k, v in method.region_head.state_dict().items()}
    solver = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=1e-3, weight_decay=0.1)

    def step(progress):
        part = method.loss(batch(method), progress)
        solver.zero_grad()
        sum(part.terms.values()).backward()
        assert all(p.grad is not None for p in method.parameters() if p.requires_grad)  # none waited for by devices
        method.before_update(progress)
        solver.step()
        method.after_step([part.signals], progress)
        return part.terms

    first = step(Progress(0, 100, 10))
    assert float(first["regions"].detach()) == 0
    assert all(torch.equal(fresh[k], v) for k, v in method.region_head.state_dict().items())  # not even decayed
    assert method.view_head.center.any()
    alone = tiny(region=False, drop_path=0.0)
    torch.testing.assert_close(first["views"], across_views_of(alone, batch(alone)))
    second = step(Progress(20, 100, 10))
    assert float(second["regions"].detach()) > 0
    assert method.region_head.center.any()
    assert not torch.equal(fresh["student.mlp.0.weight"], method.region_head.student.mlp[0].weight)


def across_views_of(method: EsViT, views) -> torch.Tensor:
    """The whole loss of the views, of a method with the weights of seed 0."""
    images = [v["image"] for v in views]
    targets = method.targets(method.view_head.teacher(method.teacher(torch.cat(images[:2]))), torch.zeros(1, 32), START)
    student = [method.view_head.student(method.encoder(x)) for x in images]
    return across_views(targets, student, method.s.student_temperature)


@pytest.mark.parametrize("centering", [True, False])
def test_collapse_without_centering_is_seen(centering):
    method = tiny(centering=centering, momentum=0.9, freeze_last_layer=0, local_crops=(), local_size=())
    solver = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=3e-4)
    for i in range(36):
        progress = Progress(i, 480, 12)
        part = method.loss(batch(method, seed=i % 4, count=8), progress)
        solver.zero_grad()
        sum(part.terms.values()).backward()
        solver.step()
        method.after_step([part.signals], progress)
    assert (health(part.signals)["target_information"] < 0.1) != centering


def test_sizes_of_small_crops_are_checked_and_may_be_one():
    small = EsViT.presets["small"]
    (problem,) = EsViT.problems(dataclasses.replace(small, local_size=(16, 15), local_crops=(2, 2)))
    assert "local_size = 15: must be a multiple of the patch size of swin_mini" in problem
    (problem,) = EsViT.problems(dataclasses.replace(small, local_size=(16, 8)))
    assert "must be one size for each of local_crops = (4,)" in problem
    changed = with_assignments(small, ["local_crops=2,2", "local_size=12,8"])
    assert (changed.local_crops, changed.local_size) == ((2, 2), (12, 8))
    assert with_assignments(small, ["local_crops=6", "local_size=8"]).local_crops == (6,)
    none = with_assignments(small, ["local_crops=", "local_size="])
    assert EsViT.problems(none) + recipe_problems(none) == []
    assert from_dict(Settings, to_dict(none)) == none
    assert [v.name for v in tiny(local_crops=(1, 2), local_size=(8, 4)).views()][2:] == [
        "local 1",
        "local 2",
        "local 3",
    ]


def test_the_views_are_those_of_dino():
    ours, theirs = (cls(dataclasses.replace(cls.presets["small"], encoder="vit_mini")).views() for cls in (EsViT, DINO))
    assert ours == theirs
    assert EsViT.presets["small"].norm_eps == encoders.build("vit_mini", size=32).trunk.norm.eps


@pytest.mark.parametrize("encoder", ["vit_mini", "resnet_mini", "cvt_mini", "vil_mini"])
def test_other_trunks(encoder):
    method = tiny(encoder=encoder, drop_path=0.0)
    regions = {"vit_mini": 16, "resnet_mini": 4, "cvt_mini": 4, "vil_mini": 4}[encoder]
    assert method.encoder.tokens(batch(method)[0]["image"]).shape[1] == regions
    terms = method.loss(batch(method), LATER).terms
    sum(terms.values()).backward()
    assert all(math.isfinite(float(t.detach())) for t in terms.values())


def test_the_defaults_draw_nothing():
    method = tiny(drop_path=0.0)
    views = batch(method)
    state = torch.get_rng_state()
    method.loss(views, LATER)
    assert torch.equal(state, torch.get_rng_state())


def test_only_the_student_sees_mixed_images_and_its_targets_follow():
    views, terms, method = batch(tiny()), {}, None
    for targets in (False, True):
        method = tiny(drop_path=0.0, mixup=0.8, cutmix=1.0, mix_targets=targets)
        torch.manual_seed(5)
        terms[targets] = method.loss(views, LATER)
    torch.manual_seed(5)
    images, shares = mixed([v["image"] for v in views], 0.8, 1.0)
    pooled, tokens = method.teacher.features_and_tokens(torch.cat([v["image"] for v in views[:2]]))
    told = method.targets(method.view_head.teacher(pooled), method.view_head.center, LATER)
    seen = [method.encoder.features_and_tokens(x) for x in images]
    student = [method.view_head.student(feature) for feature, _ in seen]
    for targets, mixing in ((True, shares), (False, None)):
        torch.testing.assert_close(terms[targets].terms["views"], 0.5 * across_views(told, student, 0.1, mixing))
    told = method.targets(method.region_head.teacher(tokens), method.region_head.center, LATER)
    student = [method.region_head.student(t) for _, t in seen]
    expected = across_regions(told, tokens.chunk(2), student, [t for _, t in seen], 0.1, shares)
    torch.testing.assert_close(terms[True].terms["regions"], 0.5 * expected)
    assert abs(float((terms[True].terms["regions"] - terms[False].terms["regions"]).detach())) > 1e-4
    sum(terms[True].terms.values()).backward()
    assert not any(p.grad is not None for p in method.teacher.parameters())


def test_views_as_for_training_with_labels():
    method = tiny(augment="deit")
    assert method.views() == augmented_multi_crop(method.encoder.inputs, (4,), (8,))


def test_a_vils_neighbours_are_those_of_student_and_teacher_until_the_switch():
    changes = {"encoder": "vil_mini", "neighbours_teacher": "all", "neighbours_until": 0.75, "drop_path": 0.0}
    method = tiny(**changes)
    for step, student in ((0, "one"), (74, "one"), (75, "all"), (99, "all")):
        method.before_step(Progress(step, 100, 10))
        for encoder, expected in ((method.encoder, student), (method.teacher, "all")):
            found = {m.neighbours for m in encoder.modules() if isinstance(m, ChunkAttention)}
            assert found == {encoder.kwargs["neighbours"]} == {expected}
    published = tiny(encoder="vil_mini", window=2, drop_path=0.0)
    published.before_step(Progress(99, 100, 10))
    x = torch.randn(2, 3, 16, 16)
    for encoder in (published.encoder, published.teacher):  # drawn afresh in train mode, all in eval mode
        assert encoder.training
        assert any(not torch.equal(encoder(x), encoder(x)) for _ in range(4))
        assert torch.equal(encoder.eval()(x), encoder(x))
