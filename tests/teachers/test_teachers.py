import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tacit.teachers import EmbeddingQueue, KeyQueue, ema_update, momentum_copy, queue_problems


def test_the_copy_shares_nothing_and_wants_no_gradient():
    student = nn.Linear(3, 2)
    teacher = momentum_copy(student)
    assert not any(p.requires_grad for p in teacher.parameters())
    with torch.no_grad():
        student.weight.add_(1)
    assert not torch.equal(teacher.weight, student.weight)


def test_the_average_is_the_formula_and_leaves_buffers_alone():
    student = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    teacher = momentum_copy(student)
    student(torch.randn(8, 3))
    with torch.no_grad():
        for p in student.parameters():
            p.add_(torch.randn_like(p))
    before = [p.clone() for p in teacher.parameters()]
    ema_update(teacher, student, 0.9)
    for old, new, online in zip(before, teacher.parameters(), student.parameters(), strict=True):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * online)
    assert torch.equal(teacher[1].running_mean, torch.zeros(4))
    ema_update(teacher, student, 1.0)
    ema_update(teacher, student, 0.0)
    torch.testing.assert_close(teacher[0].weight, student[0].weight)


def test_the_queue_keeps_the_order_and_wraps():
    queue = KeyQueue(views=2, width=5, length=12)
    torch.testing.assert_close(queue.keys.norm(dim=1), torch.ones(2, 12))
    written = [F.normalize(torch.randn(2, 4, 5), dim=2) for _ in range(4)]
    for step, keys in enumerate(written):
        queue.enqueue(keys)
        assert int(queue.pointer) == (4 * (step + 1)) % 12
    for column, step in ((0, 3), (4, 1), (8, 2)):
        for view in range(2):
            torch.testing.assert_close(queue.keys[view, :, column : column + 4].T, written[step][view])


def test_a_batch_that_does_not_divide_the_queue_is_refused():
    with pytest.raises(ValueError, match="12 % 5"):
        KeyQueue(1, 3, 12).enqueue(torch.randn(1, 5, 3))
    assert queue_problems(4096, 512) == []
    (problem,) = queue_problems(4096, 500)
    assert "4096 = 8 x 500 + 96" in problem
    assert "queue_size=4000 or 4500" in problem
    assert "queue_size=512" in queue_problems(100, 512)[0]


def test_the_age_of_the_keys():
    queue = KeyQueue(1, 3, 12)
    assert queue.age(4) == 0
    queue.enqueue(torch.randn(1, 4, 3))
    assert queue.age(4) == 1
    for _ in range(5):
        queue.enqueue(torch.randn(1, 4, 3))
    assert queue.age(4) == 2  # 1, 2 and 3 steps old


def test_the_whole_queue_is_in_the_state():
    queue = KeyQueue(2, 3, 8)
    queue.enqueue(torch.randn(2, 4, 3))
    other = KeyQueue(2, 3, 8)
    other.load_state_dict(queue.state_dict())
    assert torch.equal(other.keys, queue.keys)
    assert int(other.pointer) == 4
    assert other.age(4) == 1


def test_recent_embeddings_are_newest_first_and_the_oldest_leave():
    queue = EmbeddingQueue(views=2, width=3, length=6)
    written = [torch.randn(2, 2, 3) for _ in range(4)]
    for count, rows in enumerate(written, start=1):
        assert not queue.full or count > 3
        queue.push(rows)
        torch.testing.assert_close(queue.rows[:, :2], rows)
        assert queue.full == (count >= 3)
    torch.testing.assert_close(queue.rows, torch.cat([written[3], written[2], written[1]], dim=1))
    assert torch.equal(queue.share(), queue.rows)
    fresh = EmbeddingQueue(views=2, width=3, length=6)
    fresh.load_state_dict(queue.state_dict())
    assert fresh.full
    assert not EmbeddingQueue(views=2, width=3, length=0).full
