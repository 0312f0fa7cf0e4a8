"""Anyone's encoder is scored alike: runs, folders, names, exports, programs, and what timm and transformers save."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import timm
import torch

import tacit
from tacit import encoders, evaluation
from tacit.data import open_source
from tacit.encoders.foreign import read_transformers
from tacit.errors import DataError, UsageError
from tacit.evaluation.cache import fingerprint

HOW = {"protocol": "knn:k=5", "workers": 0, "cache": False}
FORMS = ("transformers", "timm", "torch", "onnx")


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory):
    return tacit.pretrain(
        "moby", digits, tmp_path_factory.mktemp("anyone") / "moby", preset="small", encoder="vit_mini", batch_size=16,
        steps=2, workers=0, quiet=True, set=["size=16", "patch=8", "hidden=24", "out=16", "queue_size=64"],
    )  # fmt: skip


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported")
    for form in FORMS:
        tacit.export(trained, form, out / form, check=False)
    return out


def features(what, digits) -> torch.Tensor:
    return evaluation.features(encoders.load(what, foreign=True), open_source(digits)).x


@pytest.mark.parametrize("form", ["encoder", *FORMS])
def test_every_form_of_a_runs_encoder_scores_as_the_run_does(form, trained, exported, digits):
    what = trained.encoder if form == "encoder" else exported / form
    found, expected = features(what, digits), features(trained.path, digits)
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5
    ours, theirs = (tacit.evaluate(w, digits, **HOW) for w in (trained.path, what))
    assert [r["of"] for r in theirs["results"]] == ["run", "random-init", "raw-input"]
    assert [r["value"] for r in theirs["results"]] == [r["value"] for r in ours["results"]]
    assert theirs["split_hash"] == ours["split_hash"]


@pytest.mark.parametrize("form", ["ViT", "torch", "onnx"])
def test_what_can_only_be_looked_at_embeds_too(form, exported, digits, tmp_path):
    what = exported / form
    if form == "ViT":
        what = tmp_path / "vit"
        of_transformers("ViT", what)
    said = tacit.embed(what, digits, tmp_path / "v.npy", workers=0)
    expected = features(what, digits).numpy()
    assert (said["rows"], said["width"]) == expected.shape
    np.testing.assert_allclose(np.load(tmp_path / "v.npy"), expected, rtol=1e-4, atol=1e-5)


def test_a_name_is_scored_with_fresh_weights(digits):
    result = tacit.evaluate("vit_mini:random", digits, **HOW)
    assert result["encoder"] == "vit_mini:random"
    assert [r["of"] for r in result["results"]] == ["run", "random-init", "raw-input"]


@pytest.mark.parametrize("form", ["torch", "onnx"])
def test_a_program_shows_its_feature_alone(form, exported, digits):
    for spec, said in (
        ("fine_tune", "is a finished program"), ("correspondence", "shows no tokens or maps"),
        ("knn:feature=mean", "shows no tokens or maps"), ("knn:feature=cls", "has no class token"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=said):
            tacit.evaluate(exported / form, digits, protocol=spec, workers=0, baselines=False, cache=False)
    probe = tacit.evaluate(exported / form, digits, protocol="linear_sgd:epochs=1", workers=0, baselines=False)
    assert probe["results"][0]["n"] == 40
    for verb in (
        lambda: tacit.export(exported / form, "timm", exported / "again"),
        lambda: encoders.load(exported / form),
    ):
        with pytest.raises(UsageError, match="a finished program, no encoder to go on with"):
            verb()
    with pytest.raises(UsageError, match="an encoder folder cannot describe it"):
        encoders.save(encoders.load(exported / form, foreign=True), exported / "again")


@pytest.mark.parametrize("file", ["torch/encoder.pt2", "onnx/encoder.onnx"])
def test_a_bare_file_is_scored_without_a_random_twin(file, exported, digits, tmp_path):
    bare = shutil.copy(exported / file, tmp_path)
    result = tacit.evaluate(bare, digits, **HOW)
    assert [r["of"] for r in result["results"]] == ["run", "raw-input"]
    assert "does not say of what architecture it is" in result["skipped"]["random-init"]
    whole = tacit.evaluate((exported / file).parent, digits, **HOW)
    assert result["results"][0] == whole["results"][0]
    with pytest.raises(UsageError, match="can only be evaluated"):
        encoders.load(bare)


def test_files_of_others_need_a_note_on_their_inputs(exported, digits, tmp_path):
    class Mean(torch.nn.Module):
        def forward(self, x):
            return x.mean((2, 3)) * 2

    batch = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(Mean(), (torch.zeros(2, 3, 16, 16),), dynamic_shapes=batch)
    torch.export.save(program, tmp_path / "mine.pt2")
    torch.onnx.export(program, dynamo=True, verbose=False).save(tmp_path / "mine.onnx")
    for name in ("mine.pt2", "mine.onnx"):
        with pytest.raises(DataError, match=r"does not say how its inputs are prepared. Write .*inputs\.json"):
            encoders.load(tmp_path / name, foreign=True)
    note = {"size": 16, "channels": 3, "mean": [0.5] * 3, "std": [0.25] * 3, "crop": 1.0}
    (tmp_path / "inputs.json").write_text(json.dumps(note))
    one, two = (features(tmp_path / name, digits) for name in ("mine.pt2", "mine.onnx"))
    pixels = evaluation.raw(open_source(digits), encoders.load(tmp_path / "mine.pt2", foreign=True).inputs).x
    torch.testing.assert_close(one, pixels.view(200, 3, -1).mean(2) * 2, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)
    alike, other = (encoders.load(f, foreign=True) for f in (tmp_path / "mine.pt2", exported / "torch"))
    assert fingerprint(alike) == fingerprint(encoders.load(tmp_path / "mine.pt2", foreign=True)) != fingerprint(other)
    (tmp_path / "inputs.json").write_text(json.dumps(note | {"channels": 1, "mean": [0.5], "std": [0.25]}))
    with pytest.raises(DataError, match="does not run on two inputs"):
        encoders.load(tmp_path / "mine.pt2", foreign=True)
    for name in ("mine.pt2", "mine.onnx"):
        (tmp_path / name).write_bytes(b"nothing")
        with pytest.raises(DataError, match=r"is no (program|ONNX file)"):
            encoders.load(tmp_path / name, foreign=True)


def processor(folder, **changes):
    card = {
        "do_resize": True, "size": {"height": 16, "width": 16}, "resample": 2, "do_rescale": True,
        "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.25] * 3,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(card | changes))


TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}


def of_transformers(kind: str, folder):
    import transformers

    torch.manual_seed(3)
    more = (
        {"intermediate_size": 32}
        if kind in ("ViT", "CLIPVision")
        else {"num_register_tokens": 2}
        if "Registers" in kind
        else {}
    )
    if kind == "ResNet":
        config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic")
    elif kind == "Swin":
        config = transformers.SwinConfig(
            image_size=16, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4
        )
    else:
        config = getattr(transformers, f"{kind}Config")(**TINY, **more)
    model = getattr(transformers, f"{kind}Model")(config).eval()
    model.save_pretrained(folder)
    processor(folder)
    return model


@pytest.mark.parametrize("kind", ["ViT", "Dinov2", "Dinov2WithRegisters", "CLIPVision", "Swin", "ResNet"])
def test_models_of_transformers_are_scored_as_they_are(kind, digits, tmp_path):
    model = of_transformers(kind, tmp_path)
    encoder = encoders.load(tmp_path, foreign=True)
    x = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        found = model(pixel_values=x)
        tokens = {"ViT": 1, "Dinov2": 1, "Dinov2WithRegisters": 3}.get(kind)
        expected = found.last_hidden_state[:, 0] if tokens else found.pooler_output.flatten(1)
        tokens = 1 if kind == "CLIPVision" else tokens
        torch.testing.assert_close(encoder(x), expected, atol=1e-5, rtol=1e-5)
        assert encoder.width == expected.shape[1]
        last = found.last_hidden_state
        patches = last[:, tokens or 0 :] if last.ndim == 3 else last.flatten(2).transpose(1, 2)
        torch.testing.assert_close(encoder.tokens(x), patches, atol=1e-5, rtol=1e-5)
    result = tacit.evaluate(tmp_path, digits, **HOW | {"protocol": "knn:k=5:feature=mean,knn:k=5"})
    assert {r["of"] for r in result["results"]} == {"run", "random-init", "raw-input"}
    by = {r["of"]: r for r in result["results"] if r["settings"]["feature"] == "pooled"}
    again = tacit.evaluate(encoder, digits, **HOW)
    assert again["results"][0]["value"] == by["run"]["value"]


def test_the_processor_of_a_genuine_folder_is_what_features_are_made_with(digits, tmp_path):
    from PIL import Image
    from transformers import AutoImageProcessor, ViTImageProcessor

    model = of_transformers("ViT", tmp_path)
    ViTImageProcessor(size={"height": 16, "width": 16}, image_mean=[0.5] * 3, image_std=[0.25] * 3).save_pretrained(
        tmp_path
    )
    source = open_source(digits)
    pictures = [Image.open(digits / source.name(i)).convert("RGB") for i in range(len(source))]
    with torch.no_grad():
        pixels = AutoImageProcessor.from_pretrained(tmp_path)(pictures, return_tensors="pt")["pixel_values"]
        expected = model(pixel_values=pixels).last_hidden_state[:, 0]
    assert float((features(tmp_path, digits) - expected).abs().max() / expected.abs().max()) < 1e-5


def test_other_sizes_than_a_model_was_made_for_and_fine_tuning(digits, tmp_path):
    model = of_transformers("ViT", tmp_path)
    processor(
        tmp_path, do_center_crop=True, crop_size={"height": 24, "width": 24}, size={"shortest_edge": 32}, resample=3
    )
    encoder = encoders.load(tmp_path, foreign=True)
    assert (encoder.inputs.size, encoder.inputs.crop, encoder.inputs.interpolation) == (24, 0.75, "bicubic")
    x = torch.randn(2, 3, 24, 24)
    with torch.no_grad():
        expected = model(pixel_values=x, interpolate_pos_encoding=True).last_hidden_state[:, 0]
        torch.testing.assert_close(encoder(x), expected, atol=1e-5, rtol=1e-5)
    result = tacit.evaluate(tmp_path, digits, protocol="fine_tune:epochs=1:batch_size=64", workers=0)
    assert [r["of"] for r in result["results"]] == ["run", "random-init"]


def test_what_is_missing_in_a_folder_of_transformers_is_said(tmp_path):
    of_transformers("ViT", tmp_path)
    with pytest.raises(UsageError, match=r"holds a model of transformers\. It can be evaluated"):
        encoders.load(tmp_path)
    for changes, said in (
        ({"rescale_factor": 1.0}, "values other than 0 to 1"), ({"image_mean": [0.5]}, "each of the 3 channels"),
        ({"size": {"height": 16, "width": 24}}, "is no square"), ({"size": None}, "does not say size"),
    ):  # fmt: skip
        processor(tmp_path, **changes)
        with pytest.raises(DataError, match=said):
            read_transformers(tmp_path)
    processor(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(DataError, match="no model that transformers can load"):
        read_transformers(tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(DataError, match=r"no preprocessor_config\.json"):
        read_transformers(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(DataError, match="is damaged"):
        encoders.load(tmp_path)


def test_a_folder_that_timm_saved_with_a_classifier_is_an_encoder(digits, tmp_path):
    from timm.models import save_for_hf

    torch.manual_seed(0)
    made = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=7, **made).eval()
    model.pretrained_cfg = {**model.pretrained_cfg, "input_size": (3, 16, 16), "crop_pct": 1.0, "num_classes": 7}
    save_for_hf(model, tmp_path, model_args=made)
    encoder = encoders.load(tmp_path)
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(encoder(x), model.forward_head(model.forward_features(x), pre_logits=True))
    assert (encoder.inputs.size, encoder.inputs.mean) == (16, (0.5, 0.5, 0.5))
    result = tacit.evaluate(tmp_path, digits, **HOW)
    assert [r["of"] for r in result["results"]] == ["run", "random-init", "raw-input"]
    encoders.save(encoder, tmp_path / "ours")
    assert torch.equal(encoders.load(tmp_path / "ours")(x), encoder(x))
    shutil.rmtree(tmp_path / "ours")
    for file in (*tmp_path.glob("*.safetensors"), *tmp_path.glob("*.bin")):
        file.write_bytes(b"nothing")
    with pytest.raises(DataError, match="no model that timm can load"):
        encoders.load(tmp_path)
