import json
import re
from itertools import product

import numpy as np
import pytest
import torch

from tacit import encoders
from tacit.data import Picture
from tacit.errors import RunFailed, Unknown, UsageError
from tacit.export import TARGETS, export
from tacit.export import timm as timm_target
from tacit.views import FilmInputs, TextInputs, WaveInputs


def small(name: str, **changes) -> encoders.Encoder:
    """With every weight moved, since a fresh network has zeros where errors could hide."""
    torch.manual_seed(0)
    shape = {"depths": (2, 1), "num_heads": (2, 4)} if name == "swin_mini" else {"depth": 1}  # a shifted block is in it
    encoder = encoders.build(name, **{"size": 16} | shape | changes)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return encoder


def zeros(encoder) -> torch.Tensor:
    return torch.zeros(1, encoder.inputs.channels, encoder.inputs.size, encoder.inputs.size)


PROGRAMS = [("torch", "swin_mini", 3), ("torch", "vit_mini", 4), ("onnx", "swin_mini", 1), ("onnx", "vit_mini", 3)]
CASES = PROGRAMS + list(product(["timm", "transformers"], ["swin_mini", "vit_mini"], [1, 3, 4]))


@pytest.mark.parametrize(("to", "name", "channels"), CASES)
def test_every_target_gives_the_same_features_and_its_readme_says_how(to, name, channels, tmp_path, monkeypatch):
    encoder = small(name, channels=channels).train()
    done = export(encoder, to, tmp_path / "out")
    assert done["to"] == to
    assert 0 <= done["difference"] <= done["tolerance"] <= 1e-4
    assert done["files"] == sorted(p.name for p in (tmp_path / "out").iterdir())
    assert encoder.training  # the user's own is left as it was

    expected = encoder.eval()(zeros(encoder)).detach().numpy()
    blocks = re.findall(r"```python\n(.*?)```", (tmp_path / "out" / "README.md").read_text(), re.S)
    monkeypatch.chdir(tmp_path / "out")
    names: dict = {}
    for block in blocks:
        exec(block, names)
        found = names["features"]
        found = found.detach().numpy() if isinstance(found, torch.Tensor) else found
        assert np.abs(found - expected).max() <= done["tolerance"] * np.abs(expected).max()
    assert len(blocks) == (2 if to == "timm" else 1)


CLIPS = {
    "film": ("vatt_video_mini", FilmInputs(4, 16, 8.0), {"patch": (4, 8, 8)}),
    "wave": ("vatt_audio_mini", WaveInputs(8000, 0.064, normalise=False, fixed=True), {"patch": (128,)}),
    "ids": ("vatt_text_mini", TextInputs(("a", "b", "c"), 2, 4), {"words": 4, "dims": 8}),
}


@pytest.mark.parametrize(
    ("to", "of"), [("torch", "film"), ("torch", "wave"), ("torch", "ids"), ("onnx", "film"), ("onnx", "ids")]
)
def test_encoders_of_clips_are_programs_of_films_waves_and_words(to, of, tmp_path, monkeypatch):
    name, inputs, how = CLIPS[of]
    encoder = encoders.build(name, inputs=inputs, **how).eval()
    done = export(encoder, to, tmp_path / "out")
    assert 0 <= done["difference"] <= done["tolerance"]
    readme = (tmp_path / "out" / "README.md").read_text()
    monkeypatch.chdir(tmp_path / "out")
    names: dict = {}
    exec(re.search(r"```python\n(.*?)```", readme, re.S)[1], names)
    found = torch.as_tensor(names["features"])
    with torch.no_grad():
        expected = encoder(encoders.example(inputs, 1))
    torch.testing.assert_close(found.detach(), expected, atol=1e-4, rtol=1e-4)
    x = encoders.example(inputs, 3)
    x[1:] = 1
    with torch.no_grad():
        torch.testing.assert_close(
            encoders.load(tmp_path / "out", foreign=True).eval()(x), encoder(x), atol=1e-4, rtol=1e-4
        )
    for other in ("timm", "transformers"):
        with pytest.raises(UsageError, match="Export it to torch or onnx, as a program of"):
            export(encoder, other, tmp_path / "other")


@pytest.mark.parametrize("to", ["timm", "torch"])
def test_the_epsilon_of_the_norms_goes_along(to, tmp_path, monkeypatch):
    encoder = small("swin_mini", norm_eps=0.3).eval()
    assert export(encoder, to, tmp_path / "out")["difference"] <= 1e-5
    monkeypatch.chdir(tmp_path / "out")
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", (tmp_path / "out" / "README.md").read_text(), re.S):
        exec(block, names)
        torch.testing.assert_close(names["features"], encoder(zeros(encoder)), atol=1e-4, rtol=1e-4)
    if to != "torch":
        back = encoders.load(tmp_path / "out")
        torch.testing.assert_close(back(zeros(encoder)), encoder(zeros(encoder)))


@pytest.mark.parametrize("name", ["cvt_mini", "vil_mini"])
@pytest.mark.parametrize("to", ["torch", "onnx"])
def test_a_cvt_or_vil_is_exported_as_a_program_and_timm_has_none(to, name, tmp_path):
    encoder = encoders.build(name, size=16, depths=(1, 1, 1)).eval()
    assert export(encoder, to, tmp_path / "out")["difference"] <= 1e-4
    with pytest.raises(UsageError, match=f"timm has no {name}; export it to torch or onnx"):
        export(encoder, "timm", tmp_path / "timm")


@pytest.mark.parametrize("name", ["swin_mini", "vit_mini"])
@pytest.mark.parametrize("to", ["timm", "transformers"])
def test_what_other_libraries_hold_comes_back(to, name, tmp_path):
    encoder = small(name, channels=2, mean=(0.1, 0.2), std=(0.3, 0.4)).eval()
    export(encoder, to, tmp_path / "out", check=False)
    back = encoders.load(tmp_path / "out")
    assert torch.equal(back(zeros(encoder)), encoder(zeros(encoder)))
    assert back.inputs == encoder.inputs
    fresh = small(name, channels=2)
    report = encoders.initialise(fresh, tmp_path / "out" / "model.safetensors")
    assert not report.missing
    assert torch.equal(fresh.eval()(zeros(encoder)), encoder(zeros(encoder)))


@pytest.mark.parametrize("to", ["torch", "onnx"])
def test_a_program_is_no_encoder_and_carries_its_input_preparation(to, tmp_path):
    encoder = small("vit_mini")
    export(encoder, to, tmp_path / "out", check=False)
    with pytest.raises(UsageError, match=f"an export to {to}: a finished program"):
        encoders.load(tmp_path / "out")
    if to == "torch":
        note = {"inputs.json": ""}
        with open(tmp_path / "out" / "encoder.pt2", "rb") as f:
            torch.export.load(f, extra_files=note)
        note = note["inputs.json"]
    else:
        import onnxruntime

        session = onnxruntime.InferenceSession(tmp_path / "out" / "encoder.onnx")
        note = session.get_modelmeta().custom_metadata_map["inputs"]
    assert json.loads(note) == encoder.inputs.to_dict()


def test_timm_puts_a_new_classifier_on_it(tmp_path):
    import timm

    export(small("swin_mini"), "timm", tmp_path / "out", check=False)
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True, num_classes=5)
    assert model(torch.zeros(1, 3, 16, 16)).shape == (1, 5)
    assert timm.data.resolve_model_data_config(model)["input_size"] == (3, 16, 16)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_the_processor_of_transformers_prepares_what_the_encoder_expects(channels, tmp_path):
    from transformers import AutoImageProcessor

    encoder = small("vit_mini", channels=channels, mean=(0.2,) * channels, std=(0.4,) * channels)
    export(encoder, "transformers", tmp_path / "out", check=False)
    image = np.random.default_rng(0).integers(0, 256, (40, 50, channels), dtype=np.uint8)
    processor = AutoImageProcessor.from_pretrained(tmp_path / "out")
    theirs = processor(image, return_tensors="pt", input_data_format="channels_last")["pixel_values"]
    (ours,) = Picture(image, channels).crops([encoder.inputs.centre(40, 50)])
    ours = encoder.inputs.prepare(torch.tensor(ours).permute(2, 0, 1)[None])
    assert theirs.shape == ours.shape
    assert (theirs - ours).abs().mean() < 0.05  # they round to whole pixels between resizing and cropping


def test_what_a_target_cannot_hold_is_refused_with_those_that_can(tmp_path):
    bn = small("vit_mini", norm_before_mlp="bn")
    for to in ("timm", "transformers"):
        with pytest.raises(UsageError, match="torch or onnx"):
            export(bn, to, tmp_path / to)
        assert not (tmp_path / to).exists()
    assert export(bn, "torch", tmp_path / "torch")["difference"] <= 1e-5
    with pytest.raises(UsageError, match="timm has no stem for small inputs"):
        export(encoders.build("resnet_mini", size=16), "timm", tmp_path / "timm")
    with pytest.raises(UsageError, match="resnet10t is neither"):
        export(encoders.build("resnet10t", size=32), "transformers", tmp_path / "resnet")
    shrunk = small("swin_mini", depths=(2, 2, 2), num_heads=(2, 4, 8))
    with pytest.raises(UsageError, match="one window for all stages, and here they are 2 and 4"):
        export(shrunk, "transformers", tmp_path / "shrunk")
    assert list(tmp_path.iterdir()) == [tmp_path / "torch"]


def test_a_convolutional_encoder_goes_to_timm(tmp_path):
    done = export(encoders.build("resnet10t", size=32, channels=2), "timm", tmp_path / "out")
    assert done["difference"] <= 1e-5


def test_unknown_targets_and_full_folders_are_refused(tmp_path):
    encoder = small("vit_mini")
    with pytest.raises(Unknown, match="onnx"):
        export(encoder, "onxn", tmp_path / "a")
    full = tmp_path / "b"
    full.mkdir()
    (full / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"other things .* 'thesis.txt'\. Choose"):
        export(encoder, "timm", full)
    with pytest.raises(UsageError, match="is a file"):
        export(encoder, "timm", full / "thesis.txt")
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_an_earlier_export_is_replaced_whole_but_not_with_a_file_of_the_user_in_it(tmp_path):
    encoder, out = small("vit_mini"), tmp_path / "new" / "out"
    export(encoder, "transformers", out, check=False)
    done = export(encoder, "timm", out, check=False)
    assert sorted(p.name for p in out.iterdir()) == done["files"]
    assert "preprocessor_config.json" not in done["files"]
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="other things"):
        export(encoder, "timm", out)
    assert (out / "notes.txt").read_text() == "mine"


def test_what_a_killed_export_left_is_cleared_away(tmp_path):
    left = tmp_path / "out" / ".export-abc"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    export(encoders.build("vit_mini", size=16, patch=8), "timm", tmp_path / "out")
    assert not left.exists()
    assert (tmp_path / "out" / "README.md").is_file()


def test_the_folder_one_stands_in_will_do_and_files_are_for_all_to_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = export(small("vit_mini"), "timm", ".")
    assert sorted(p.name for p in tmp_path.iterdir()) == done["files"]
    assert all(p.stat().st_mode & 0o444 == 0o444 for p in tmp_path.iterdir())


def test_wrong_features_fail_and_leave_what_was_there(tmp_path, monkeypatch):
    encoder = small("vit_mini")
    export(encoder, "timm", tmp_path / "out")
    before = (tmp_path / "out" / "model.safetensors").read_bytes()

    def broken(folder):
        model = timm_target.read(folder)
        return lambda x: 1.01 * model(x)

    monkeypatch.setitem(TARGETS, "timm", TARGETS["timm"].__class__(timm_target.write, broken, timm_target.usage, 1e-5))
    with pytest.raises(RunFailed, match=r"differ by .* Nothing was written"):
        export(small("vit_mini"), "timm", tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
