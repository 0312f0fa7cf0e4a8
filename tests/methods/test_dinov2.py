"""DINOv2 against its paper and official code: who sees which patches, what is assigned, what moves when, and rates."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from tacit import encoders
from tacit.engine import Progress
from tacit.engine.monitors import health
from tacit.engine.optim import clip_parts, learning_rate, optimiser, weight_decay
from tacit.engine.recipe import problems as recipe_problems
from tacit.engine.recipe import steps_per_epoch
from tacit.methods.image.dinov2 import DINOv2, Settings
from tacit.objectives import koleo, sinkhorn
from tacit.views import rng

START = Progress(step=0, steps=100, steps_per_epoch=10)
LATER = Progress(step=10, steps=100, steps_per_epoch=10)
SOFTMAX = {"sinkhorn": 0, "shared_head": True}


def tiny(**changes) -> DINOv2:
    torch.manual_seed(0)
    small = dataclasses.replace(DINOv2.presets["small"], size=16, batch_size=4, drop_path=0.0)
    return DINOv2(dataclasses.replace(small, **(DINOv2.tiny | {"local_crops": 2} | changes)))


def batch(method: DINOv2, seed: int = 0, count: int = 4) -> list[dict[str, torch.Tensor]]:
    """Noise, and masks as the views draw them."""
    g = torch.Generator().manual_seed(seed)
    made = []
    for number, view in enumerate(method.views()):
        side = view.inputs.size
        made.append({"image": torch.randn(count, 3, side, side, generator=g)})
        if number < 2:
            drawn = [view.draw(rng(seed, 0, i, number), 32, 32)["mask"] for i in range(count)]
            made[-1]["mask"] = torch.from_numpy(np.stack(drawn))
    return made


def without(views: list[dict[str, torch.Tensor]], rows: slice) -> list[dict[str, torch.Tensor]]:
    """The same with nothing hidden in these images of both large crops."""
    views = [dict(view) for view in views]
    for view in views[:2]:
        view["mask"] = view["mask"].clone()
        view["mask"][rows] = False
    return views


def by_hand(method: DINOv2, views, temperature: float) -> dict[str, torch.Tensor]:
    """The terms, pair by pair of views and patch by patch."""
    s, head, patch_head = method.s, method.view_head, method.patch_head
    seen = [method.teacher.features_and_tokens(v["image"]) for v in views[:2]]
    student = [method.encoder(v["image"], with_tokens=True, hidden=(v["mask"], method.mask_token)) for v in views[:2]]
    logits = torch.cat([head.teacher(x) for x, _ in seen])
    at = [(v, b, p) for v in (0, 1) for b in range(len(seen[0][0])) for p in views[v]["mask"][b].flatten().nonzero()]
    patch_logits = torch.stack([patch_head.teacher(seen[v][1][b, int(p)]) for v, b, p in at])
    if s.sinkhorn:
        targets, wanted = (sinkhorn(x, epsilon=temperature, iterations=3) for x in (logits, patch_logits))
    else:
        targets = ((logits - head.center) / temperature).softmax(-1)
        wanted = ((patch_logits - patch_head.center) / temperature).softmax(-1)
    features = [x for x, _ in student] + [method.encoder(v["image"]) for v in views[2:]]
    pairs = []
    for i, target in enumerate(targets.chunk(2)):
        for v, x in enumerate(features):
            if v != i:
                pairs.append(-(target * (head.student(x) / 0.1).log_softmax(-1)).sum(-1).mean())
    patches, images = 0.0, 2 * len(seen[0][0])
    for (v, b, p), target in zip(at, wanted, strict=True):
        said = (patch_head.student(student[v][1][b, int(p)]) / 0.1).log_softmax(-1)
        patches = patches - (target * said).sum() / views[v]["mask"][b].sum() / images
    spread = 0.1 * (koleo(features[0]) + koleo(features[1]))
    return {"views": torch.stack(pairs).mean(), "patches": patches, "koleo": spread}


def test_the_paper_is_the_default_and_the_codes_own_defaults_a_preset():
    s = Settings()
    assert DINOv2.presets["paper"] == s
    assert (s.size, s.local_size, s.local_crops, s.global_area, s.local_area) == (224, 98, 8, (0.32, 1), (0.05, 0.32))
    assert (s.prototypes, s.bottleneck, s.patch_prototypes, s.patch_bottleneck) == (131072, 384, 131072, 256)
    assert (s.shared_head, s.sinkhorn, s.drop_path, s.momentum, s.hidden) == (False, 3, 0.4, 0.994, 2048)
    assert (s.lr, s.weight_decay, s.weight_decay_end, s.warmup_epochs, s.epochs) == (2e-4, 0.04, 0.2, 80, 500)
    assert (s.mask_share, s.mask_ratio, s.mask_block, s.koleo_weight) == (0.5, (0.1, 0.5), 4, 0.1)
    short = DINOv2.presets["short"]
    assert (short.encoder, short.lr, short.layer_decay, short.patch_rate) == ("vit_large_patch16_224", 4e-3, 0.9, 0.2)
    assert (short.prototypes, short.bottleneck, short.shared_head, short.sinkhorn) == (65536, 256, True, 0)
    assert (short.momentum, short.weight_decay_end, short.warmup_epochs, short.epochs) == (0.992, 0.4, 10, 100)
    assert (short.clip, short.clip_by, short.drop_path, short.layer_scale) == (3.0, "part", 0.3, 1e-5)
    uni = DINOv2.presets["uni"]
    assert (uni.global_area, uni.local_area, uni.drop_path, uni.batch_size) == ((0.48, 1), (0.16, 0.48), 0.1, 3072)
    assert DINOv2.presets["uni_high_resolution"].size == 512


@pytest.mark.parametrize("changes", [{}, SOFTMAX], ids=["sinkhorn", "softmax"])
def test_the_loss_is_that_of_all_pairs_and_of_hidden_patches_of_the_same_view(changes):
    method = tiny(**changes)
    with torch.no_grad():
        method.view_head.center.normal_(std=0.01)
        method.patch_head.center.normal_(std=0.01)
        method.mask_token.normal_()
    views = batch(method)
    hidden = torch.cat([v["mask"] for v in views[:2]]).flatten(1).sum(1)
    assert (hidden == 0).any()
    assert (hidden > 0).any()
    terms = method.loss(views, LATER).terms
    expected = by_hand(method, views, 0.04)
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value, rtol=1e-4, atol=1e-5)


def test_an_image_without_hidden_patches_only_makes_the_patch_loss_smaller():
    method = tiny(**SOFTMAX)
    with torch.no_grad():
        method.mask_token.normal_()
    views = batch(method, count=6)
    first = [{k: x[:1] for k, x in v.items()} for v in views]
    first[0]["mask"], first[1]["mask"] = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    first[0]["mask"][0, 0, :3] = True  # one masked image of 2 B = 2
    more = [dict(v) for v in views]
    for number in (0, 1):
        more[number]["mask"] = torch.cat([first[number]["mask"], torch.zeros(5, 4, 4, dtype=torch.bool)])
    alone, among = (method.loss(v, LATER).terms["patches"] for v in (first, more))
    torch.testing.assert_close(among, alone / 6)
    none = method.loss(without(more, slice(None)), LATER)
    assert float(none.terms["patches"].detach()) == 0.0
    assert torch.equal(none.signals["patch_logits"], method.patch_head.center)
    whole = tiny().loss(without(views, slice(None)), LATER)  # Sinkhorn of no patch at all
    assert all(math.isfinite(float(t.detach())) for t in whole.terms.values())


def test_who_sees_hidden_patches_and_where_gradients_go():
    method = tiny(norm_last_layer=False)
    views = batch(method)
    assert all(not p.requires_grad for m in (method.teacher, method.view_head.teacher) for p in m.parameters())
    for view in views:
        view["image"].requires_grad_(True)
    terms = method.loss(views, LATER).terms
    spread = torch.autograd.grad(
        terms["koleo"], [*method.view_head.student.parameters(), *method.patch_head.student.parameters()],
        retain_graph=True, allow_unused=True,
    )  # fmt: skip
    assert all(g is None for g in spread)  # of the encoder's own feature, before any head
    assert torch.autograd.grad(terms["koleo"], method.encoder.trunk.cls_token, retain_graph=True)[0].abs().sum() > 0
    terms["patches"].backward(retain_graph=True)
    assert all(p.grad is None for p in method.view_head.parameters())
    assert all(view["image"].grad is None or not view["image"].grad.any() for view in views[2:])  # no small crop
    assert method.mask_token.grad.abs().sum() > 0
    hidden = views[0]["mask"].repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None].expand(-1, 3, -1, -1)
    assert not views[0]["image"].grad[hidden].any()  # hidden from the student
    assert views[0]["image"].grad[~hidden & hidden.flatten(1).any(1)[:, None, None, None]].any()
    terms["views"].backward()
    assert all(view["image"].grad.any() for view in views)
    assert all(p.grad is not None for m in (method.encoder, method.view_head.student) for p in m.parameters())


def test_the_teachers_temperature_rises_step_by_step_and_its_pace_slows():
    s = DINOv2.presets["short"]
    at = [DINOv2.presets["short"].teacher_temperature_start, 0.055, 0.07, 0.07]
    method = tiny(teacher_temperature=s.teacher_temperature, teacher_temperature_epochs=30, **SOFTMAX)
    x = torch.randn(3, 5)
    for step, temperature in zip((0, 18_750, 37_500, 125_000), at, strict=True):
        found = method.targets(x, torch.zeros(1, 5), Progress(step, 125_000, 1250))
        torch.testing.assert_close(found, (x / temperature).softmax(-1))
    method = tiny(momentum=s.momentum)
    for step, m in ((0, 0.992), (50, 0.996), (100, 1.0)):
        momentum = method.loss(batch(method), Progress(step, 100, 10)).signals["momentum"]
        assert float(momentum) == pytest.approx(m)


def test_the_schedules_count_steps_and_not_passes():
    s = DINOv2.presets["short"]
    assert steps_per_epoch(s, 5_000) == steps_per_epoch(s, 100_000_000) == 1250
    assert steps_per_epoch(DINOv2.presets["small"], 10_000) == 156
    rates = [learning_rate(s, step, 125_000, 1250) for step in (0, 12_499, 12_500, 125_000)]
    assert rates == pytest.approx([0.0, 4e-3 * 2**0.5, 4e-3 * 2**0.5, 1e-6])
    assert learning_rate(DINOv2.presets["uni"], 12_499, 125_000, 1250) == pytest.approx(2e-3)
    decays = [weight_decay(s, step, 125_000) for step in (0, 62_500, 125_000)]
    assert decays == pytest.approx([0.04, 0.22, 0.4])


@pytest.mark.parametrize("shared", [False, True])
def test_centers_and_teachers_move_after_the_step_and_once(shared):
    method = tiny(momentum=0.9, shared_head=shared, sinkhorn=0)
    assert (method.patch_head.student is method.view_head.student) == shared
    assert method.patch_head.mean is not method.view_head.mean
    with torch.no_grad():
        for p in [*method.encoder.parameters(), *method.view_head.student.mlp.parameters()]:
            p.add_(0.01 * torch.randn_like(p))
    old = [p.clone() for p in method.patch_head.teacher.parameters()]
    old_encoder = [p.clone() for p in method.teacher.parameters()]
    views = batch(method)
    step = method.loss(views, START)
    assert not method.view_head.center.any()
    large, mask = torch.cat([v["image"] for v in views[:2]]), torch.cat([v["mask"] for v in views[:2]]).flatten(1)
    pooled, tokens = method.teacher.features_and_tokens(large)
    logits, of_patches = method.view_head.teacher(pooled), method.patch_head.teacher(tokens[mask])
    method.after_step([step.signals], START)
    torch.testing.assert_close(method.view_head.center, 0.1 * logits.mean(0, keepdim=True))
    torch.testing.assert_close(method.patch_head.center, 0.1 * of_patches.mean(0, keepdim=True))
    for parts in (
        (method.patch_head.teacher, old, method.patch_head.student),
        (method.teacher, old_encoder, method.encoder),
    ):
        for t, before, now in zip(parts[0].parameters(), parts[1], parts[2].parameters(), strict=True):
            torch.testing.assert_close(t, 0.9 * before + 0.1 * now)
    assert method.handed_over is method.teacher


def test_both_last_layers_wait_for_an_epoch():
    method = tiny(freeze_last_layer=1.0, norm_last_layer=False)
    for progress, waits in ((START, True), (LATER, False)):
        method.zero_grad()
        sum(method.loss(batch(method), progress).terms.values()).backward()
        method.before_update(progress)
        for head in (method.view_head.student, method.patch_head.student):
            assert all((p.grad is None) == waits for p in head.last_layer.parameters())
            assert all(p.grad is not None for p in head.mlp.parameters())


def test_rates_fall_with_depth_and_are_lower_for_patches():
    method = tiny()
    recipe = dataclasses.replace(method.s, layer_decay=0.9, patch_rate=0.2)
    names = {id(p): n for n, p in method.named_parameters()}
    groups = optimiser(method, recipe).param_groups
    share = {names[id(p)]: g["share"] for g in groups for p in g["params"]}
    decayed = {names[id(p)] for g in groups for p in g["params"] if g["decayed"]}
    assert share.keys() == {n for n, p in method.named_parameters() if p.requires_grad}
    assert groups[0]["share"] == 1.0
    assert share["encoder.trunk.patch_embed.proj.weight"] == pytest.approx(0.2 * 0.9**5)  # of four blocks
    lowest = [share[n] for n in ("encoder.trunk.pos_embed", "encoder.trunk.cls_token", "mask_token")]
    assert lowest == pytest.approx([0.9**5] * 3)
    assert share["encoder.trunk.blocks.0.attn.qkv.weight"] == pytest.approx(0.9**4)
    assert share["encoder.trunk.blocks.3.mlp.fc1.bias"] == pytest.approx(0.9)
    assert {v for n, v in share.items() if n.startswith(("encoder.trunk.norm", "view_head", "patch_head"))} == {1.0}
    assert {"mask_token", "encoder.trunk.cls_token", "encoder.trunk.pos_embed"} <= decayed
    assert not any(n.endswith(("bias", "gamma", "norm1.weight")) for n in decayed)


def test_each_part_is_clipped_by_its_own_norm():
    names = ["mask_token", "encoder.a", "view_head.a", "view_head.b"]
    gradients = [torch.tensor([3.0]), torch.tensor([4.0]), torch.tensor([0.6]), torch.tensor([0.8])]
    clip_parts(names, gradients, [float(g.norm()) for g in gradients], 3.0)
    assert [round(float(g), 4) for g in gradients] == [1.8, 2.4, 0.6, 0.8]


def test_large_crops_are_masked_half_the_time_and_blurred_as_intended_or_as_released():
    for released, chances in ((False, [1.0, 0.1, 0.5]), (True, [0.0, 0.9, 0.5])):
        method = DINOv2.views(tiny(size=32, local_size=16, blur_as_released=released))
        drawn = [[v.draw(rng(0, 0, i, n), 64, 64) for i in range(600)] for n, v in enumerate(method[:3])]
        blurred = [np.mean([p["blur"] > 0 for p in ps]) for ps in drawn]
        assert blurred == [pytest.approx(c, abs=0.06) for c in chances]
    crops = [getattr(v, "crop", v) for v in method]
    assert {crop.blur_reach for crop in crops} == {4}
    assert [crop.solarize_p for crop in crops[:3]] == [0.0, 0.2, 0.0]
    assert "mask" not in drawn[2][0]
    hidden = np.array([p["mask"].mean() for p in drawn[0] + drawn[1]])
    assert np.mean(hidden > 0) == pytest.approx(0.5, abs=0.05)
    ratios = hidden[hidden > 0]
    assert ratios.min() > 0.09
    assert ratios.max() <= 0.5
    assert ratios.mean() == pytest.approx(0.29, abs=0.02)
    assert np.histogram(ratios, 4, (0.09, 0.5))[0].min() > len(ratios) / 8  # all shares alike


def test_the_partition_and_the_center_keep_one_prototype_from_taking_all():
    """Every record prefers the first prototype by far, and beyond that each has one of its own."""
    logits = 0.2 * torch.eye(16) + 5.0 * torch.eye(16)[0]
    named = {}
    for name, changes in (
        ("partition", {}), ("center", {"sinkhorn": 0}), ("neither", {"sinkhorn": 0, "centering": False}),
    ):  # fmt: skip
        targets = tiny(**changes).targets(logits, logits.mean(0, keepdim=True), LATER)
        named[name] = health({"targets": targets})
    assert named["neither"]["prototype_entropy"] < 0.01
    for name in ("partition", "center"):
        assert named[name]["prototype_entropy"] == pytest.approx(math.log(16), abs=0.1)
        assert named[name]["target_information"] > 1.0


def test_a_collapse_without_them_is_seen():
    method = tiny(sinkhorn=0, centering=False, momentum=0.9, freeze_last_layer=0, local_crops=0, layer_scale=0.1)
    solver = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=1e-3)
    seen = []
    for i in range(16):
        part = method.loss(batch(method, seed=i % 4), Progress(i, 400, 10))
        solver.zero_grad()
        sum(part.terms.values()).backward()
        solver.step()
        method.after_step([part.signals], Progress(i, 400, 10))
        seen.append(health(part.signals))
    assert seen[-1]["target_information"] < 0.02
    assert seen[-1]["prototype_entropy"] < 0.5 < seen[0]["prototype_entropy"]  # one has taken all


def test_the_second_phase_begins_with_the_first_ones_encoder_at_its_own_size(tmp_path):
    first, second = tiny(), tiny(size=32)
    encoders.save(first.handed_over, tmp_path)
    said = encoders.initialise(second.encoder, tmp_path)
    second.after_init()
    assert said.interpolated == ["pos_embed"]
    assert all(torch.equal(a, b) for a, b in zip(second.encoder.parameters(), second.teacher.parameters(), strict=True))
    x = torch.randn(2, 3, 32, 32)
    one, other = first.teacher.eval().tokens(x), second.teacher.eval().tokens(x)
    assert one.shape == other.shape == (2, 64, 128)
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)  # interpolated on the way, or once


def test_the_published_shapes():
    with torch.device("meta"):
        uni = encoders.build("vit_large_patch16_224", size=224, **DINOv2.presets["uni"].trunk)
        uni2 = encoders.build("uni2_h", size=224, depth=1)
    assert sum(p.numel() for p in uni.parameters()) == 303_350_784
    assert (uni2.width, uni2.trunk.num_prefix_tokens, encoders.SMALL["uni2_h"][1]["depth"]) == (1536, 9, 24)
    encoder = tiny().encoder  # positions are as they are at their own size, and four times as many at twice the side
    assert torch.equal(encoder.trunk._pos_embed(torch.zeros(1, 4, 4, 128))[0, 1:], encoder.trunk.pos_embed[0, 1:])
    assert encoder.trunk._pos_embed(torch.zeros(1, 8, 8, 128)).shape[1] == 65


def test_registers_stand_beside_the_class_token():
    method = tiny(registers=4)
    assert method.encoder.trunk.num_prefix_tokens == 5
    assert method.encoder.tokens(batch(method)[0]["image"]).shape == (4, 16, 128)
    sum(method.loss(batch(method), LATER).terms.values()).backward()
    assert method.encoder.trunk.reg_token.grad.abs().sum() > 0


def test_what_cannot_work_is_said_before():
    small = DINOv2.presets["small"]
    for changes, words in (
        ({"mask_ratio": (0.01, 0.5)}, "mask_ratio = 0.01,0.5"),
        ({"mask_ratio": (0.5, 0.1)}, "must rise"),
        ({"size": 8}, "mask_block = 4"),
        ({"local_size": 15}, "local_size = 15: must be a multiple of the patch size of vit_mini"),
    ):
        assert any(words in problem for problem in DINOv2.problems(dataclasses.replace(small, **changes)))
    assert DINOv2.problems(dataclasses.replace(small, patch=8)) == []  # 16 patches
    assert encoders.lacking("swin_mini", DINOv2.needs, 32)
    assert recipe_problems(dataclasses.replace(small, encoder="resnet_mini"))
