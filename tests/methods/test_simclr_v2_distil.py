"""The checks of stage three: the closed form of the loss, who moves and who does not, and what is left in the run."""

import dataclasses

import pytest
import torch

import tacit
from tacit import encoders
from tacit.data import open_source
from tacit.engine import Progress
from tacit.engine.optim import learning_rate
from tacit.errors import BadSettings
from tacit.evaluation import classifier
from tacit.methods.image.simclr_v2_distil import Settings, SimCLRv2Distillation
from tacit.objectives import sharpen, soft_cross_entropy

START = Progress(step=0, steps=100, steps_per_epoch=10)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("teacher")
    torch.manual_seed(3)
    encoder = encoders.build("resnet_mini", size=16, mean=(0.1,) * 3, std=(0.9,) * 3, interpolation="bicubic")
    model = classifier.Classifier(encoder, 10)
    torch.nn.init.normal_(model.head.weight)
    model.train()(torch.rand(8, 3, 16, 16))
    classifier.save(model, [str(i) for i in range(10)], folder)
    return str(folder)


def tiny(teacher: str, **changes) -> SimCLRv2Distillation:
    torch.manual_seed(0)
    small = {"size": 16, "batch_size": 4, "teacher": teacher, **changes}
    return SimCLRv2Distillation(dataclasses.replace(SimCLRv2Distillation.presets["small"], **small))


def batch(count: int = 6) -> list[dict[str, torch.Tensor]]:
    return [{"image": torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))}]


@pytest.mark.parametrize("temperature", [0.1, 1.0, 4.0])
def test_equal_logits_leave_the_teachers_entropy_and_no_gradient(temperature):
    logits = torch.sin(torch.arange(50.0)).view(5, 10).requires_grad_()
    targets = sharpen(logits, temperature)
    loss = soft_cross_entropy(targets, logits, temperature)
    loss.backward()
    torch.testing.assert_close(loss.detach(), torch.special.entr(targets).sum(1).mean())
    torch.testing.assert_close(logits.grad, torch.zeros(5, 10), atol=1e-6, rtol=0)


def test_a_student_that_is_the_teacher_has_nothing_to_learn(teacher):
    method = tiny(teacher, encoder="resnet_mini", temperature=2.0)
    method.encoder.load_state_dict(method.teacher.module.encoder.state_dict())
    method.head.load_state_dict(method.teacher.module.head.state_dict())
    method.encoder.eval()  # as the teacher always is
    step = method.loss(batch(), START)
    torch.testing.assert_close(step.terms["teacher"], torch.special.entr(step.signals["targets"]).sum(1).mean())
    step.terms["teacher"].backward()
    assert max(float(p.grad.abs().max()) for p in method.head.parameters()) < 1e-6


def test_the_teacher_stays_as_it_is_whatever_the_method_is_told(teacher):
    method = tiny(teacher).train()
    before = {name: t.clone() for name, t in method.teacher.state_dict().items()}
    assert not any(m.training for m in method.teacher.modules())
    method.loss(batch(), START).terms["teacher"].backward()
    assert all(torch.equal(t, before[name]) for name, t in method.teacher.state_dict().items())
    assert not any(p.requires_grad for p in method.teacher.parameters())
    assert all(p.grad is not None for p in (*method.encoder.parameters(), *method.head.parameters()))


def test_both_see_the_same_crops_prepared_as_the_teacher_was_trained(teacher):
    method = tiny(teacher)
    (view,) = method.views()
    assert view.inputs == method.encoder.inputs == method.teacher.module.encoder.inputs
    assert (view.flip, view.jitter, view.gray_p, view.blur_p) == (0.5, None, 0.0, 0.0)


def test_the_paper_is_the_default():
    s = Settings()
    assert (s.epochs, s.batch_size, s.weight_decay, s.temperature) == (400, 4096, 1e-4, 1.0)
    assert learning_rate(s, 20 * 312, 400 * 312, 312) == pytest.approx(6.4)
    assert SimCLRv2Distillation.presets["self"].temperature == 0.1


def test_a_teacher_that_is_missing_or_does_not_fit_is_named(teacher, tmp_path):
    with pytest.raises(BadSettings, match="--set teacher=FOLDER"):
        tiny("")
    with pytest.raises(BadSettings, match="holds no classifier"):
        tiny(str(tmp_path))
    with pytest.raises(BadSettings, match="Set size=16 and channels=3"):
        tiny(teacher, size=32)


def test_a_run_leaves_a_classifier_that_can_teach_in_its_turn(teacher, digits, tmp_path):
    run = tacit.pretrain(
        "simclr_v2_distil", str(digits), tmp_path / "run", preset="small", steps=3, batch_size=16, quiet=True,
        workers=0, precision="32", set=["size=16", "patch=8", f"teacher={teacher}", "check_every=0"],
    )  # fmt: skip
    model, classes = classifier.load(run.path)
    assert classes == tuple(str(i) for i in range(10))
    x = torch.rand(2, 3, 16, 16)
    assert torch.equal(model.encoder(x), encoders.load(run.path)(x))
    state = torch.load(run.path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(model.head.weight, state["method.head.weight"])
    assert classifier.right(run.path, open_source(digits)).shape == (200,)
    assert tiny(str(run.path)).classes == classes
