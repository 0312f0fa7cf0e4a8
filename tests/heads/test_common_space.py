import torch
from torch import nn

from tacit.heads import FineAndCoarse, Joint

WIDTHS = {"video": 12, "audio": 10, "text": 8}


def features(batch: int = 6) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {of: torch.randn(batch, n) for of, n in WIDTHS.items()}


def made(**kwargs) -> FineAndCoarse:
    torch.manual_seed(0)
    return FineAndCoarse(WIDTHS, **kwargs)


def test_the_papers_widths():
    found = made()(features())
    assert {pair: z.shape[1] for pair, z in found.items()} == {
        ("video", "audio"): 512, ("audio", "video"): 512, ("video", "text"): 256, ("text", "video"): 256,
        ("text", "audio"): 256,
    }  # fmt: skip
    head = made()  # biases are BatchNorm's, and of sound and text alone
    assert [name for name, _ in head.named_parameters() if name.endswith("bias")] == [
        "video.1.bias", "video.4.bias", "audio.bias", "text.bias", "video_norm.bias",
    ]  # fmt: skip
    assert all(part.momentum == 0.1 and part.eps == 1e-5 for part in head.modules() if isinstance(part, nn.BatchNorm1d))


def test_the_formula():
    head, x = made(fine=7, coarse=5), features()
    found = head(x)

    def bn(z):
        return (z - z.mean(0)) / (z.var(0, unbiased=False) + 1e-5).sqrt()

    w1, w2, w3 = head.video[0].weight, head.video[3].weight, head.coarse.weight
    fine = bn(bn(x["video"] @ w1.T).relu() @ w2.T)
    torch.testing.assert_close(found["video", "audio"], fine)
    torch.testing.assert_close(found["video", "text"], bn(fine.relu() @ w3.T))
    torch.testing.assert_close(found["audio", "video"], x["audio"] @ head.audio.weight.T + head.audio.bias)
    torch.testing.assert_close(found["text", "video"], x["text"] @ head.text.weight.T + head.text.bias)


def test_what_text_teaches_flows_through_the_space_of_audio():
    head = made()
    head(features())["video", "text"].square().sum().backward()
    assert head.video[0].weight.grad.abs().max() > 0
    assert head.audio.weight.grad is None


def test_sound_meets_text_through_the_same_projection():
    head = made(audio_text=True)
    found = head({"audio": features()["audio"], "text": features()["text"]})
    assert set(found) == {("audio", "video"), ("audio", "text"), ("text", "video"), ("text", "audio")}
    found["audio", "text"].square().sum().backward()
    assert head.coarse.weight.grad.abs().max() > 0
    assert head.video[0].weight.grad is None
    without = FineAndCoarse({"audio": 10, "text": 8}, audio_text=True)
    assert without(features_of("audio", "text"))["audio", "text"].shape == (6, 256)
    assert without.video is None


def features_of(*names: str) -> dict[str, torch.Tensor]:
    return {of: x for of, x in features().items() if of in names}


def test_without_text_there_is_no_coarse_space():
    head = FineAndCoarse({"video": 12, "audio": 10})
    assert set(head(features_of("video", "audio"))) == {("video", "audio"), ("audio", "video")}
    assert head.coarse is None


def test_the_joint_space():
    found = Joint(WIDTHS)(features())
    assert {z.shape for z in found.values()} == {(6, 512)}
    assert len(found) == 6
    torch.testing.assert_close(found["video", "audio"], found["video", "text"])
    assert found["text", "video"].mean(0).abs().max() < 1e-5  # BatchNorm comes last
