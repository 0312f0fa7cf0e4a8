import json

import pytest
import torch

from tacit import encoders
from tacit.errors import DataError, Unknown, UsageError

CHOICES = {
    "swin": ("swin_mini", {"size": 16, "window": 2, "channels": 1}),
    "swin-eps": ("swin_mini", {"size": 16, "norm_eps": 1e-2, "depths": (1, 1), "num_heads": (1, 2)}),
    "cvt": ("cvt_mini", {"size": 16, "window": 3, "depths": (1, 1, 1)}),
    "vil": ("vil_mini", {"size": 16, "window": 3, "depths": (1, 1, 1), "neighbours": "one"}),
    "swin-bn": ("swin_mini", {"size": 16, "norm_before_mlp": "bn", "depths": (1, 1), "num_heads": (1, 2)}),
    "vit": ("vit_mini", {"size": 12, "patch": 3, "channels": 5, "depth": 1}),
    "resnet": ("resnet_mini", {"size": 16}),
    "timm": ("resnet10t", {"size": 32, "mean": (0.1, 0.2, 0.3), "std": (1.0, 1.0, 1.0)}),
}


def made(choice: str) -> encoders.Encoder:
    name, settings = CHOICES[choice]
    return encoders.build(name, drop_path=0.1, **settings)


def image(encoder) -> torch.Tensor:
    i = encoder.inputs
    return torch.randn(2, i.channels, i.size, i.size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("choice", CHOICES)
def test_an_encoder_comes_back_from_its_folder_and_from_its_run(choice, tmp_path):
    encoder = made(choice)
    encoder.train()(image(encoder))  # running statistics, where there are any
    encoders.save(encoder, tmp_path / "run" / "encoder")
    assert sorted(p.name for p in (tmp_path / "run" / "encoder").iterdir()) == ["encoder.json", "model.safetensors"]
    for place in (tmp_path / "run", tmp_path / "run" / "encoder"):
        back = encoders.load(place)
        assert not back.training
        assert torch.equal(back(image(encoder)), encoder.eval()(image(encoder)))
        assert (back.inputs, back.name, back.kwargs) == (encoder.inputs, encoder.name, encoder.kwargs)


@pytest.mark.parametrize("choice", CHOICES)
def test_a_twin_has_the_same_shape_and_inputs_and_other_weights(choice):
    encoder = made(choice)
    twin = encoders.like(encoder)
    assert encoders.describe(twin) == encoders.describe(encoder)
    assert {k: v.shape for k, v in twin.state_dict().items()} == {k: v.shape for k, v in encoder.state_dict().items()}
    assert not torch.equal(twin.eval()(image(encoder)), encoder.eval()(image(encoder)))


def test_a_twin_starts_as_its_encoder_did(tmp_path):
    encoder = made("vit")
    encoders.sincos_positions_(encoders.xavier_(encoder, split_qkv=True), first="row")
    encoders.save(encoder, tmp_path)
    twin = encoders.like(encoders.load(tmp_path))
    assert twin.start == ("xavier_qkv", "sincos_row")
    assert torch.equal(twin.trunk.pos_embed, encoder.trunk.pos_embed)
    mine, theirs = (e.trunk.blocks[0].attn.qkv.weight for e in (encoder, twin))
    assert not torch.equal(mine, theirs)
    assert theirs.abs().max().item() == pytest.approx(mine.abs().max().item(), rel=0.05)  # of one uniform distribution


def test_the_description_says_what_it_is_and_what_it_eats(tmp_path):
    encoders.save(made("vit"), tmp_path)
    about = json.loads((tmp_path / "encoder.json").read_text())
    assert about["name"] == "vit_mini"
    assert about["arch"] == "deit_small_patch16_224"
    assert about["feature"] == "class token after the last norm"
    assert about["width"] == 128
    assert about["inputs"]["size"] == 12
    assert about["inputs"]["channels"] == 5 == len(about["inputs"]["mean"])


def test_names_load_without_weights_when_asked_to():
    assert encoders.load("swin_mini:random").inputs.size == 32
    resnet = encoders.load("resnet10t:random")
    assert resnet.inputs.size == 176
    assert resnet.inputs.interpolation == "bicubic"
    with pytest.raises(UsageError, match="swin_mini is our own and has no published weights"):
        encoders.load("swin_mini")
    with pytest.raises(UsageError, match="cvt_13_esvit is our own and has no published weights"):
        encoders.load("cvt_13_esvit")


def test_published_weights_that_cannot_be_fetched_are_named(monkeypatch):
    def offline(*args, **kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr("timm.create_model", offline)
    with pytest.raises(DataError, match=r"weights of resnet10t cannot be fetched .*resnet10t:random"):
        encoders.load("resnet10t")


def test_what_holds_no_encoder_is_named(tmp_path):
    with pytest.raises(Unknown, match="resnet18"):
        encoders.load("resnet81")
    with pytest.raises(Unknown):
        encoders.load("resnet18:best")
    with pytest.raises(DataError, match="holds no encoder"):
        encoders.load(tmp_path)


def test_damaged_folders_are_named(tmp_path):
    encoders.save(made("vit"), tmp_path)
    weights, about = tmp_path / "model.safetensors", tmp_path / "encoder.json"
    whole, text = weights.read_bytes(), about.read_text()
    for bad in (whole[: len(whole) // 2], b"", b"\x00" * 64):
        weights.write_bytes(bad)
        with pytest.raises(DataError, match="does not hold this encoder"):
            encoders.load(tmp_path)
    weights.unlink()
    with pytest.raises(DataError, match="does not hold this encoder"):
        encoders.load(tmp_path)
    weights.write_bytes(whole)
    for bad in ("{", "{}", "[]"):
        about.write_text(bad)
        with pytest.raises(DataError, match="is damaged"):
            encoders.load(tmp_path)
    about.write_text(text.replace('"format": 1', '"format": 7'))
    with pytest.raises(DataError, match=r"format 7; .* Update"):
        encoders.load(tmp_path)
