"""MoCo v2 against its paper and official code: one direction, one queue, keys that follow, and in whose company."""

import dataclasses
import math

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tacit.distributed import rank, shuffle_rows, unshuffle_rows
from tacit.engine import Progress
from tacit.engine.optim import learning_rate, optimiser
from tacit.engine.plan import Plan, hardware
from tacit.methods.image.moco_v2 import MoCoV2, Settings
from tacit.objectives import info_nce
from tacit.views import rng

START = Progress(step=0, steps=100, steps_per_epoch=10)


def tiny(**changes) -> MoCoV2:
    torch.manual_seed(0)
    small = {"size": 16, "batch_size": 4, "queue_size": 16, "hidden": 32, "out": 8, **changes}
    return MoCoV2(dataclasses.replace(MoCoV2.presets["small"], **small))


def batch(seed: int = 0, count: int = 4) -> list[dict[str, torch.Tensor]]:
    g = torch.Generator().manual_seed(seed)
    return [{"image": torch.randn(count, 3, 16, 16, generator=g)} for _ in range(2)]


def wave(*shape: int, phase: float = 0.0) -> torch.Tensor:
    return torch.sin(torch.arange(math.prod(shape), dtype=torch.float64) * 1.7 + phase).float().view(*shape)


def test_the_paper_is_the_default():
    s = Settings()
    assert MoCoV2.presets["paper"] == s
    assert (s.encoder, s.size, s.batch_size, s.epochs) == ("resnet50", 224, 256, 200)
    assert (s.optimizer, s.lr, s.lr_batch, s.sgd_momentum, s.weight_decay) == ("sgd", 0.03, 256, 0.9, 1e-4)
    assert (s.lr_cosine, s.warmup_epochs, s.lr_end, s.decay_vectors) == ("by_epoch", 0, 0, True)
    assert (s.temperature, s.queue_size, s.momentum, s.hidden, s.out) == (0.2, 65536, 0.999, 2048, 128)
    assert MoCoV2.presets["long"] == dataclasses.replace(s, epochs=800)


def test_the_head_has_no_norm_and_the_residual_blocks_start_with_both_branches():
    with torch.device("meta"):
        head = MoCoV2(Settings()).head
    assert [type(m).__name__ for m in head] == ["Linear", "ReLU", "Linear"]
    assert sum(p.numel() for p in head.parameters()) == 2048 * 2049 + 128 * 2049
    gammas = [m.bn2.weight for m in tiny(encoder="resnet_mini").encoder.modules() if hasattr(m, "zero_init_last")]
    assert gammas
    assert all(g.eq(1).all() for g in gammas)


def test_the_closed_forms_of_a_queue_of_65536():
    q = torch.eye(2, 8)[:1]
    others = torch.eye(2, 8)[1:].T.expand(8, 65536)
    assert info_nce(q, q, others, 0.2).item() == pytest.approx(6.0926169, abs=1e-4)
    assert info_nce(q, others[:, :1].T, others, 0.2).item() == pytest.approx(11.0903701, abs=1e-4)


def test_the_golden_loss_of_the_official_forward():
    """`MoCo.forward` of facebookresearch/moco 4397a04 and a cross-entropy, with one Linear as either encoder."""
    x, y = wave(5, 4, phase=0.5), wave(5, 4, phase=1.5)
    q = torch.nn.functional.normalize(x @ wave(6, 4, phase=0.3).T + wave(6, phase=0.7), dim=1)
    weight, bias = wave(6, 4, phase=0.3), wave(6, phase=0.7)  # the keys' first weights are the queries' there
    key = [0.999 * k + 0.001 * w for k, w in ((wave(6, 4, phase=0.9), weight), (wave(6, phase=0.2), bias))]
    k = torch.nn.functional.normalize(y @ key[0].T + key[1], dim=1)
    queue = torch.nn.functional.normalize(wave(6, 10, phase=2.0), dim=0)
    assert info_nce(q, k, queue, 0.2).item() == pytest.approx(0.3107272684574127, abs=1e-6)


def test_the_loss_goes_one_way_and_no_key_of_the_batch_is_a_negative():
    method = tiny()
    step = method.loss(batch(), START)
    s = step.signals
    assert list(step.terms) == ["qk"]
    logits = torch.cat(
        [(s["embeddings"] * s["positives"]).sum(1, keepdim=True), s["embeddings"] @ method.queue.keys[0]], 1
    )
    expected = -torch.log_softmax(logits / 0.2, 1)[:, 0].mean()
    torch.testing.assert_close(step.terms["qk"].detach(), expected)
    torch.testing.assert_close(s["embeddings"].norm(dim=1), torch.ones(4))


def test_gradients_reach_the_queries_alone():
    method = tiny()
    method.loss(batch(), START).terms["qk"].backward()
    for part in (method.encoder, method.head):
        assert all(p.grad is not None for p in part.parameters())
    for part in (method.key_encoder, method.key_head):
        assert not any(p.requires_grad or p.grad is not None for p in part.parameters())
    assert not method.queue.keys.requires_grad


def test_the_keys_follow_before_the_update_by_the_same_share_at_every_step():
    method = tiny(momentum=0.9)
    at_first = [p.clone() for p in method.key_encoder.parameters()]
    method.before_step(START)  # both branches are the same, so nothing moves
    for now, then in zip(method.key_encoder.parameters(), at_first, strict=True):
        torch.testing.assert_close(now, then)
    with torch.no_grad():
        for p in [*method.encoder.parameters(), *method.head.parameters()]:
            p.add_(torch.randn_like(p))
    late = Progress(99, 100, 10)
    pairs = [(method.key_encoder, method.encoder), (method.key_head, method.head)]
    before = [[p.clone() for p in key.parameters()] for key, _ in pairs]
    online = [[p.clone() for p in part.parameters()] for _, part in pairs]
    solver = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=1.0)
    method.before_step(late)
    step = method.loss(batch(), late)
    step.terms["qk"].backward()
    solver.step()
    method.after_step([step.signals], late)
    for (key, _), old, student in zip(pairs, before, online, strict=True):
        for now, k, o in zip(key.parameters(), old, student, strict=True):
            torch.testing.assert_close(now, 0.9 * k + 0.1 * o)


def test_the_queue_takes_the_keys_of_all_micro_batches_after_the_step():
    method = tiny()
    start = method.queue.keys.clone()
    parts = [method.loss(batch(seed, count=2), START).signals for seed in (1, 2)]
    assert torch.equal(method.queue.keys, start)
    method.after_step(parts, START)
    expected = torch.cat([p["positives"] for p in parts]).T
    torch.testing.assert_close(method.queue.keys[0, :, :4], expected)
    assert torch.equal(method.queue.keys[0, :, 4:], start[0, :, 4:])


def test_one_pipeline_drawn_twice():
    query, key = tiny().views()
    assert dataclasses.replace(query, name="key") == key
    drawn = [query.draw(rng(0, 0, i, 0), 50, 50) for i in range(1000)]
    assert drawn[0] != key.draw(rng(0, 0, 0, 1), 50, 50)
    assert sum(p["blur"] > 0 for p in drawn) / 1000 == pytest.approx(0.5, abs=0.05)
    assert not any(p["solarize"] for p in drawn)
    assert max(p["saturation"] for p in drawn) == pytest.approx(1.4, abs=0.01)
    assert query.scale == (0.2, 1.0)


def test_one_rate_an_epoch_along_a_cosine_and_decay_on_everything():
    s = Settings()
    rates = [learning_rate(s, step, 200 * 5004, 5004) for step in (0, 5003, 5004, 100 * 5004 + 7, 200 * 5004 - 1)]
    expected = [0.03 * (1 + math.cos(math.pi * e / 200)) / 2 for e in (0, 0, 1, 100, 199)]
    assert rates == pytest.approx(expected)
    (group,) = optimiser(tiny(encoder="resnet_mini"), s).param_groups
    assert group["weight_decay"] == 1e-4
    assert {p.ndim for p in group["params"]} == {1, 2, 4}


def test_a_queue_that_a_batch_would_straddle_is_refused():
    (problem,) = MoCoV2.problems(dataclasses.replace(Settings(), batch_size=250))
    assert "queue_size" in problem


def in_company() -> dict[str, torch.Tensor]:
    """What one of two devices makes of its half of eight records."""
    images = wave(8, 3, 16, 16) * (1 + torch.arange(8.0)).view(-1, 1, 1, 1)  # each record has its own size
    own = images.chunk(2)[rank()]
    torch.manual_seed(rank())  # only the first rank's draw counts
    rows, order = shuffle_rows(own)
    found = {"own": own, "rows": rows, "order": order, "back": unshuffle_rows(rows, order)}
    for name in ("vit_mini", "resnet_mini"):
        for shuffle in (True, False):
            torch.manual_seed(5)
            found[f"{name} {shuffle}"] = tiny(encoder=name, shuffle_bn=shuffle).keys(own)
    return found


def work(number: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=number, world_size=2)
    torch.save(in_company(), f"{folder}/{number}.pt")
    dist.barrier()
    dist.destroy_process_group()


def test_two_devices_encode_keys_in_a_shuffled_order_and_put_them_back(tmp_path):
    mp.spawn(work, (str(tmp_path),), nprocs=2)
    found = [torch.load(tmp_path / f"{number}.pt", weights_only=True) for number in range(2)]
    order = found[0]["order"]
    assert torch.equal(order, found[1]["order"])
    assert sorted(order.tolist()) == list(range(8))
    every = torch.cat([f["own"] for f in found])
    for number, one in enumerate(found):
        assert torch.equal(one["rows"], every[order[4 * number : 4 * number + 4]])
        assert set(order[4 * number : 4 * number + 4].tolist()) != set(range(4 * number, 4 * number + 4))
        assert torch.equal(one["back"], one["own"])
        torch.testing.assert_close(one["vit_mini True"], one["vit_mini False"])  # nothing there is shared by a batch
        assert not torch.allclose(one["resnet_mini True"], one["resnet_mini False"], atol=1e-3)


def test_alone_the_shuffle_is_the_identity():
    x = torch.randn(4, 3)
    rows, order = shuffle_rows(x)
    assert rows is x
    assert torch.equal(order, torch.arange(4))
    assert unshuffle_rows(x, order) is x
    # With several GPUs the engine shares BatchNorm's statistics; with several CPUs it cannot, and keys are shuffled.
    assert hardware(Plan(run=None, devices=2))["sync_batchnorm"] is torch.cuda.is_available()


def test_shared_statistics_need_no_shuffle():
    method = tiny(encoder="resnet_mini")
    assert method.shuffles
    assert not torch.nn.SyncBatchNorm.convert_sync_batchnorm(method).shuffles
    assert not tiny(encoder="resnet_mini", shuffle_bn=False).shuffles
    assert not tiny().shuffles  # a ViT has no BatchNorm
