"""Two processes must give what one process with the whole batch gives."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from tacit.distributed import (
    gather,
    gather_with_grad,
    max_over_ranks,
    mean_over_ranks,
    rank,
    sum_over_ranks,
    world_size,
)
from tacit.objectives import (
    assigned,
    batch_info_nce,
    covariance,
    cross_modal_nce,
    invariance,
    me_max,
    nt_xent,
    sinkhorn,
    variance,
)
from tacit.teachers import Center, EmbeddingQueue


def whole(rows: int, width: int, phase: float = 0.0) -> Tensor:
    return torch.sin(torch.arange(rows * width, dtype=torch.float32) * 1.7 + phase).view(rows, width)


def joint(z: Tensor) -> Tensor:
    """A loss of all rows at once, the same on every rank."""
    return (z.T @ z).square().mean()


def own_against_all(own: Tensor, every: Tensor, first: int) -> Tensor:
    """The mean over one's own rows of a loss against all rows."""
    target = torch.arange(len(own)) + first
    return nn.functional.cross_entropy(own @ every.T, target)


def weight_gradient(loss_of, x: Tensor) -> Tensor:
    """The gradient of one weight, averaged over the ranks as DDP averages it."""
    weight = whole(4, 3, 0.3).requires_grad_()
    loss_of(x @ weight).backward()
    return mean_over_ranks(weight.grad)


def centered(x: Tensor) -> Tensor:
    center = Center(x.shape[1])
    center.update(x)
    return center.center


def queue_of(x: Tensor) -> EmbeddingQueue:
    """Two batches of all ranks: full."""
    queue = EmbeddingQueue(views=2, width=x.shape[1], length=16)
    for phase in (0.0, 0.5):
        queue.push(torch.stack([x + phase, x - phase]))
    return queue


def codes(x: Tensor) -> Tensor:
    """As SwAV makes them, with a full queue of which each rank holds its share."""
    prototypes = whole(4, x.shape[1], 0.7)
    scores = torch.cat([queue_of(x).share()[1] @ prototypes.T, x @ prototypes.T])
    return gather(sinkhorn(scores)[-len(x) :])


def vicreg(x: Tensor, y: Tensor) -> Tensor:
    """Means over each rank's own rows, statistics over all."""
    every = [gather_with_grad(z) for z in (x, y)]
    return 25 * invariance(x, y) + sum(12.5 * variance(z) + covariance(z) for z in every)


def missing(x: Tensor, form: str = "asymmetric") -> Tensor:
    """Bags of two, of some records only, and more of them on the first rank than on the second."""
    valid = (torch.arange(8) < 5).chunk(2)[rank()] if len(x) < 8 else torch.arange(8) < 5
    return cross_modal_nce(x, torch.stack([x.roll(1, 1), x.sin()], dim=1), 0.2, valid_y=valid, form=form)


def parallel_results() -> dict[str, Tensor]:
    """What every rank computes from its part; alone, from the whole."""
    parts = 2 // world_size()
    x = whole(8, 4).chunk(2)[rank()] if parts == 1 else whole(8, 4)
    return {
        "gather": gather(x),
        "gather_with_grad": gather_with_grad(x),
        "sum": sum_over_ranks(x.sum(0)),
        "mean": mean_over_ranks(x.mean(0)),
        "max": max_over_ranks(x.amax(0)),
        "joint": weight_gradient(lambda z: joint(gather_with_grad(z)), x),
        "center": centered(x),
        "sinkhorn": gather(sinkhorn(x, iterations=2)),
        "assigned": gather(assigned(x, 0.3, rounds=2)),
        "me_max": weight_gradient(lambda z: me_max(z.softmax(1)), x),
        "batch_info_nce": weight_gradient(lambda z: batch_info_nce(z, x[:, :3], 0.2), x),
        "batch_info_nce value": mean_over_ranks(batch_info_nce(x, x.roll(1, 1), 0.2)),
        "nt_xent": weight_gradient(lambda z: nt_xent(z, z.roll(1, 1), 0.2), x),
        "nt_xent value": mean_over_ranks(nt_xent(x, x.roll(1, 1), 0.2)),
        "cross_modal": weight_gradient(missing, x),
        "cross_modal symmetric": weight_gradient(lambda z: missing(z, "symmetric"), x),
        "cross_modal value": mean_over_ranks(missing(x)),
        "covariance": weight_gradient(lambda z: covariance(gather_with_grad(z)), x),
        "queue": queue_of(x).rows,
        "codes": codes(x),
        "vicreg": weight_gradient(lambda z: vicreg(z, z.roll(1, 1).sin()), x),
        "own": weight_gradient(lambda z: own_against_all(z, gather_with_grad(z), rank() * len(z)), x),
    }


def work(number: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=number, world_size=2)
    torch.save({name: value.detach() for name, value in parallel_results().items()}, f"{folder}/{number}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def of_ranks(tmp_path_factory) -> list[dict[str, Tensor]]:
    folder = str(tmp_path_factory.mktemp("ranks"))
    mp.spawn(work, (folder,), nprocs=2)
    return [torch.load(f"{folder}/{number}.pt", weights_only=True) for number in range(2)]


@pytest.mark.parametrize("name", parallel_results())
def test_two_ranks_give_what_one_process_gives(name: str, of_ranks):
    alone = parallel_results()[name]
    for result in of_ranks:
        torch.testing.assert_close(result[name], alone, atol=1e-6, rtol=1e-5)


def test_a_gather_without_gradient_would_be_noticed(of_ranks):
    alone = weight_gradient(lambda z: own_against_all(z, z.detach(), 0), whole(8, 4))
    assert not torch.allclose(of_ranks[0]["own"], alone, atol=1e-2)


def test_alone_everything_is_the_identity():
    x = whole(3, 2).requires_grad_()
    assert gather_with_grad(x) is x
    for function in (sum_over_ranks, mean_over_ranks, max_over_ranks):
        assert torch.equal(function(x), x)
        assert not function(x).requires_grad
