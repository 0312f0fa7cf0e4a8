import re

import pytest
import torch

from tacit import encoders
from tacit.errors import Unknown, UsageError
from tacit.export import TARGETS, export


def small(name: str, **changes) -> encoders.Encoder:
    torch.manual_seed(0)
    return encoders.build(name, size=16 if name == "vit_mini" else 32, **changes)


@pytest.mark.parametrize("to", TARGETS)
@pytest.mark.parametrize(("name", "channels"), [("swin_mini", 3), ("vit_mini", 1), ("vit_mini", 4)])
def test_every_target_gives_the_same_features(to, name, channels, tmp_path):
    done = export(small(name, channels=channels), to, tmp_path / "out")
    assert done["difference"] <= done["tolerance"] <= 1e-4
    assert "README.md" in done["files"]


@pytest.mark.parametrize("to", TARGETS)
@pytest.mark.parametrize("name", ["swin_mini", "vit_mini"])
def test_the_lines_of_the_readme_run(to, name, tmp_path, monkeypatch):
    encoder = small(name)
    export(encoder, to, tmp_path / "out", check=False)
    (code,) = re.findall(r"```python\n(.*?)```", (tmp_path / "out" / "README.md").read_text(), re.S)
    monkeypatch.chdir(tmp_path / "out")
    names: dict = {}
    exec(code, names)
    assert tuple(names["features"].shape)[1] == encoder.width


def test_the_processor_prepares_what_the_encoder_expects(tmp_path):
    import numpy as np
    from transformers import AutoImageProcessor

    from tacit.data import Picture

    encoder = small("swin_mini")
    export(encoder, "transformers", tmp_path / "out")
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    theirs = AutoImageProcessor.from_pretrained(tmp_path / "out")(image, return_tensors="pt")["pixel_values"]
    picture = Picture(image)
    (ours,) = picture.crops([encoder.inputs.centre(40, 50)])
    ours = encoder.inputs.prepare(torch.from_numpy(ours).permute(2, 0, 1)[None])
    assert theirs.shape == ours.shape
    assert (theirs - ours).abs().mean() < 0.05


def test_what_a_target_cannot_hold_is_refused_with_those_that_can(tmp_path):
    bn = small("swin_mini", norm_before_mlp="bn")
    for to in ("timm", "transformers"):
        with pytest.raises(UsageError, match="torch or onnx"):
            export(bn, to, tmp_path / to)
    assert export(bn, "torch", tmp_path / "torch")["difference"] <= 1e-5
    with pytest.raises(UsageError, match="resnet18 is neither"):
        export(encoders.build("resnet18", size=32), "transformers", tmp_path / "r")
    shrunk = encoders.build("swin_mini", size=16)
    with pytest.raises(UsageError, match="window"):
        export(shrunk, "transformers", tmp_path / "s")


def test_unknown_targets_and_full_folders_are_refused(tmp_path):
    with pytest.raises(Unknown, match="onnx"):
        export(small("vit_mini"), "onxn", tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        export(small("vit_mini"), "timm", tmp_path / "b")
    export(small("vit_mini"), "timm", tmp_path / "c")
    export(small("vit_mini"), "timm", tmp_path / "c")
