"""Attention maps, video, revisited retrieval and copy detection, asked for by name on small sets in their layouts."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tacit
from tacit import cli, encoders
from tacit.encoders import Encoder
from tacit.errors import BadSettings, DataError, Unknown, UsageError
from tests.conftest import write_digits
from tests.evaluation.dense.conftest import write_shapes
from tests.evaluation.test_video import moving_square, write_davis

ATTENTION = "attention:mass=0.999"
VIDEO = "video:short=64:radius=3"


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    """Patch tokens are a random projection of the patch; the class token's first head looks at bright patches alone."""
    torch.manual_seed(0)
    made = encoders.build("vit_mini", size=16, patch=4, embed_dim=32, depth=1, num_heads=2, mean=(0.5,) * 3)
    trunk, block = made.trunk, made.trunk.blocks[0]
    with torch.no_grad():
        for part in (trunk.pos_embed, trunk.cls_token, block.attn.qkv.weight, block.attn.proj.weight):
            part.zero_()
        for part in (block.mlp.fc2.weight, trunk.patch_embed.proj.bias, block.attn.qkv.bias):
            part.zero_()
        trunk.patch_embed.proj.weight[:2] = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)  # brightness, and less of it
        block.attn.qkv.bias[0] = 40  # the query, of every token
        block.attn.qkv.weight[32, :2] = torch.tensor([1.0, -1.0])  # the key of the first head
    return made


def save(image: np.ndarray, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return path


def pictures(count: int, side: int = 24, seed: int = 0) -> list[np.ndarray]:
    """Blocks of random colours: [side, side + 8, 3] uint8, no two alike."""
    rng = np.random.default_rng(seed)
    return [rng.integers(256, size=(side // 4, side // 4 + 2, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
            for _ in range(count)]  # fmt: skip


def rows(result: dict) -> dict[tuple[str, str], dict]:
    return {(r["metric"], r["of"]): r for r in result["results"]}


def well_formed(result: dict) -> None:
    """What every score says of itself."""
    assert {r["of"] for r in result["results"]} == {"run", "random-init"}
    for row in result["results"]:
        assert row["low"] <= row["value"] <= row["high"]
        assert row["settings"]["feature"]
        assert row["n"] >= 1
    assert result["split_hash"]
    assert result["inputs"]["size"] == 16


def write_objects(root: Path) -> Path:
    """Bright rectangles of whole patches on black, of other sizes each, with masks in VOC's layout."""
    for i, (shape, (top, left, height, width)) in enumerate(
        [((24, 32), (4, 8, 8, 20)), ((32, 24), (0, 0, 20, 8)), ((24, 24), (8, 8, 8, 20))]
    ):
        image, mask = np.zeros((*shape, 3), np.uint8), np.zeros(shape, np.uint8)
        image[top : top + height, left : left + width] = 255
        mask[top : top + height, left : left + width] = 3 + i
        mask[-1, :4] = 255  # void, below and beside the objects
        save(image, root / "JPEGImages" / f"{i}.png")
        save(mask, root / "SegmentationClass" / f"{i}.png")
    save(np.zeros((24, 24, 3), np.uint8), root / "JPEGImages" / "3.png")
    save(np.full((24, 24), 255, np.uint8), root / "SegmentationClass" / "3.png")
    for name, stems in (("train", "3"), ("val", "0123")):
        listing = root / "ImageSets" / "Segmentation" / f"{name}.txt"
        listing.parent.mkdir(parents=True, exist_ok=True)
        listing.write_text("\n".join(stems))
    return root


def test_a_head_that_looks_at_the_object_outlines_it(encoder, tmp_path):
    told = []
    result = tacit.evaluate(
        encoder, write_objects(tmp_path), protocol=f"{ATTENTION},attention,attention:heads=one,attention:heads=mean",
        progress=lambda *what: told.append(what), workers=0,
    )  # fmt: skip
    well_formed(result)
    of_run = {r["protocol"]: r for r in result["results"] if r["of"] == "run"}
    assert (of_run[ATTENTION]["value"], of_run[ATTENTION]["n"]) == (1, 3)
    # 10 patches of the same attention, of which 6 hold 60 %; the third object goes beyond the picture: 8, of which 5.
    assert of_run["attention"]["value"] == pytest.approx((0.6 + 0.6 + 5 / 8) / 3)
    assert of_run["attention:heads=one"]["value"] == of_run["attention"]["value"]
    assert of_run["attention:heads=mean"]["value"] < of_run["attention"]["value"]
    assert of_run["attention"]["settings"]["per_head"][0] == round((0.6 + 0.6 + 5 / 8) / 3, 4)
    random = next(r for r in result["results"] if (r["protocol"], r["of"]) == (ATTENTION, "random-init"))
    assert random["value"] < 0.7
    assert result["bad_files"] == [("3.png", "no object in its mask")]
    assert (f"{ATTENTION}, random-init", 4, 4) in told


def test_layouts_and_sizes_of_masks_for_attention(encoder, tmp_path):
    plain = write_shapes(tmp_path / "plain", 2, 2, side=32)
    for path in (plain / "test" / "masks").iterdir():  # black and white
        mask = np.asarray(Image.open(path))
        save((mask > 0).astype(np.uint8) * 255, path)
    with pytest.raises(DataError, match="no object in its mask"):
        tacit.evaluate(encoder, plain, protocol="attention", baselines=False)
    (row,) = tacit.evaluate(encoder, plain, protocol="attention:foreground=yes:size=16", baselines=False)["results"]
    assert (row["n"], row["settings"]["size"], row["settings"]["foreground"]) == (2, 16, True)
    ade = write_shapes(tmp_path / "ade", 2, 3, side=32, layout="ade20k")
    result = tacit.evaluate(encoder, ade, protocol="attention", baselines=False)
    assert result["results"][0]["n"] == 3


def test_a_moving_square_is_followed(encoder, tmp_path):
    told = []
    root = write_davis(tmp_path, *moving_square(4), name="a")
    (tmp_path / "b").mkdir()
    write_davis(tmp_path / "b", *moving_square(3, side=16), name="b")
    for folder in ("JPEGImages", "Annotations"):
        shutil.move(tmp_path / "b" / folder / "480p" / "b", root / folder / "480p" / "b")
    (root / "ImageSets" / "2017" / "val.txt").write_text("a\nb\n")
    result = tacit.evaluate(encoder, root, protocol=VIDEO, progress=lambda *what: told.append(what))
    well_formed(result)
    found = rows(result)
    assert {metric for metric, _ in found} == {"jf_mean", "j_mean", "f_mean"}
    row = found["jf_mean", "run"]
    assert row["value"] > 0.95
    assert row["value"] == pytest.approx((found["j_mean", "run"]["value"] + found["f_mean", "run"]["value"]) / 2)
    assert row["n"] == 2
    assert row["settings"]["videos"] == 2
    assert row["settings"]["interval_over"] == "videos"
    assert told[-1] == (f"{VIDEO}, random-init", 7, 7)
    # The same files in plain folders are the same videos.
    for have, plain in (("JPEGImages", "frames"), ("Annotations", "masks")):
        shutil.copytree(root / have / "480p", tmp_path / "plain" / plain)
    again = tacit.evaluate(encoder, tmp_path / "plain", protocol=VIDEO, baselines=False)
    assert rows(again)["jf_mean", "run"]["value"] == row["value"]
    assert again["split_hash"] == result["split_hash"]


def write_retrieval(root: Path) -> dict:
    """Five pictures and, as queries, two of them: one alone, one within the box of a larger picture."""
    images = pictures(5)
    for i, image in enumerate(images):
        save(image, root / "jpg" / f"g{i}.png")
    save(images[1], root / "jpg" / "alone.png")
    height, width, _ = images[3].shape
    around = np.random.default_rng(9).integers(256, size=(height + 24, width + 40, 3), dtype=np.uint8)
    around[16 : 16 + height, 32 : 32 + width] = images[3]
    save(around, root / "jpg" / "within.png")
    gnd = {
        "imlist": [f"g{i}" for i in range(5)],
        "qimlist": ["alone", "within.png"],
        "gnd": [
            {"bbx": None, "easy": [1], "hard": [], "junk": [0]},
            {"bbx": [32, 16, 32 + width, 16 + height], "easy": [3], "hard": [], "junk": []},
        ],
    }
    (root / "gnd_small.json").write_text(json.dumps(gnd))
    return gnd


def test_the_identical_picture_is_found_first_within_its_box(encoder, tmp_path):
    gnd = write_retrieval(tmp_path)
    spec = "revisited:feature=mean:imsize=512"
    result = tacit.evaluate(encoder, tmp_path, protocol=f"{spec},{spec}:scales=3,{spec}:crop=no", workers=0)
    well_formed(result)
    of_run = {(r["protocol"], r["metric"]): r for r in result["results"] if r["of"] == "run"}
    for protocol in (spec, f"{spec}:scales=3"):
        assert of_run[protocol, "map_easy"]["value"] == 1
        assert of_run[protocol, "map_medium"]["n"] == 2
        assert of_run[protocol, "precision_at_1_easy"]["value"] == 1
    assert of_run[f"{spec}:crop=no", "map_easy"]["value"] < 1
    assert result["skipped"][f"{spec}, hard"] == "no query has a positive that is hard"
    # The published form of the same: names without endings, a pickle with arrays.
    (tmp_path / "gnd_small.json").unlink()
    gnd["gnd"] = [{k: v if k == "bbx" else np.array(v, np.int64) for k, v in g.items()} for g in gnd["gnd"]]
    (tmp_path / "gnd_small.pkl").write_bytes(pickle.dumps(gnd, 2))
    again = tacit.evaluate(encoder, tmp_path, protocol=spec, baselines=False, workers=2)
    assert again["split_hash"] == result["split_hash"]
    assert rows(again)["map_easy", "run"]["value"] == 1


def test_a_broken_set_for_retrieval_is_named(encoder, tmp_path):
    write_retrieval(tmp_path)
    (tmp_path / "jpg" / "g2.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"g2\.png cannot be used: not an image"):
        tacit.evaluate(encoder, tmp_path, protocol="revisited")
    (tmp_path / "jpg" / "g2.png").unlink()
    with pytest.raises(DataError, match=r"lacks 1 of the 7 pictures of gnd_small.json: g2\."):
        tacit.evaluate(encoder, tmp_path, protocol="revisited")
    (tmp_path / "gnd_other.json").write_text("{}")
    with pytest.raises(DataError, match=r"one ground truth.*it holds gnd_other.json, gnd_small.json and a jpg/"):
        tacit.evaluate(encoder, tmp_path, protocol="revisited")


def write_copies(root: Path) -> Path:
    for i, image in enumerate(pictures(6)):
        save(image, root / "original" / f"{2000 + i}00.png")
        save(image[::-1] if i == 5 else image, root / "strong" / f"{2000 + i}01.png")
        for quality in (90, 50):
            path = root / "jpegqual" / str(quality) / f"{2000 + i}00.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path, quality=quality)
    return root


def test_a_copy_finds_its_original(encoder, tmp_path):
    root = write_copies(tmp_path / "copydays")
    spec = "copies:size=32"
    result = tacit.evaluate(encoder, root, protocol=spec, workers=0)
    well_formed(result)
    found = rows(result)
    row = found["recall_at_1", "run"]
    assert row["value"] >= 5 / 6  # five are the very same picture
    assert (row["n"], row["settings"]["originals"], row["settings"]["whitened_by"]) == (6, 6, 0)
    assert row["settings"]["interval_over"] == "originals"
    # The sixth copy is its original upside down; a distractor just like it is nearer.
    save(pictures(6)[5][::-1], root / "distractors" / "more" / "0.png")
    for i, image in enumerate(pictures(12, seed=1)):
        save(image, root / "whitening" / f"{i}.png")
    asked = [spec, f"{spec}:whiten=no"]
    again = tacit.evaluate(encoder, root, protocol=asked, baselines=False, workers=0)
    assert again["split_hash"] != result["split_hash"]
    whitened, plain = ({r["metric"]: r for r in again["results"] if r["protocol"] == p} for p in asked)
    assert (whitened["map"]["settings"]["distractors"], whitened["map"]["settings"]["whitened_by"]) == (1, 12)
    assert plain["map"]["settings"]["whitened_by"] == 0
    assert plain["recall_at_1"]["value"] == whitened["recall_at_1"]["value"] == pytest.approx(5 / 6)
    assert 5 / 6 < plain["map"]["value"] < 1
    (root / "strong" / "200001.png").write_bytes(b"")
    fewer = tacit.evaluate(encoder, root, protocol=spec, baselines=False, workers=0)
    assert fewer["bad_files"] == [("strong/200001.png", "empty file")]
    assert fewer["results"][0]["n"] == 5


def test_compressed_copies_are_told_apart_by_folder(encoder, tmp_path):
    root = write_copies(tmp_path)
    (row, _) = tacit.evaluate(encoder, root, protocol="copies:size=32:part=jpegqual", baselines=False)["results"]
    assert row["n"] == 12
    assert set(row["settings"]["by_folder"]) == {"jpegqual/50", "jpegqual/90"}
    assert row["settings"]["by_folder"]["jpegqual/90"] == 1
    with pytest.raises(DataError, match=r"6 pictures of .*original begin with '20'. .*set key"):
        tacit.evaluate(encoder, root, protocol="copies:size=32:key=2")


@pytest.mark.parametrize("name", ["swin_mini", "resnet18"])
def test_other_trunks_take_whole_pictures_too(name, tmp_path):
    made = encoders.build(name, size=32)
    write_retrieval(tmp_path / "pictures")
    write_copies(tmp_path / "copydays")
    write_davis(tmp_path / "davis", *moving_square(3))
    for folder, spec in (("pictures", "revisited:scales=3"), ("copydays", "copies:size=32"), ("davis", VIDEO)):
        result = tacit.evaluate(made, tmp_path / folder, protocol=spec, baselines=False, workers=0)
        assert all(0 <= r["low"] <= r["value"] <= r["high"] <= 1 for r in result["results"])


def test_two_encoders_are_compared_on_paired_records(encoder, tmp_path):
    twin = encoders.like(encoder)
    found = tacit.compare([encoder, twin], write_objects(tmp_path), protocol=ATTENTION)
    assert found["differences"][0]["difference"] > 0
    assert len(found["scores"]) == 2


@pytest.mark.parametrize(
    ("protocol", "options", "error", "said"),
    [
        ("video:neighbors=3", {}, Unknown, "option of video"),
        ("video:tmperature=3", {}, Unknown, "Did you mean 'temperature'"),
        ("attention:heads=bset", {}, Unknown, "Did you mean 'best'"),
        ("copies:part=stong", {}, Unknown, "Did you mean 'strong'"),
        ("revisited:feature=meen", {}, Unknown, "Did you mean 'mean'"),
        ("revisited:scales=4", {}, BadSettings, "must be 1, or 3"),
        ("attention:mass=60", {}, BadSettings, "at most 1"),
        ("video:short=62:multiple=63", {}, BadSettings, "multiple of 4"),
        ("copies:size=30", {}, BadSettings, "multiple of 4"),
        ("video,attention", {}, UsageError, "one of them alone"),
        ("video,knn", {}, UsageError, "video needs videos .* which knn cannot use"),
        ("knn,copies", {}, UsageError, "copies needs .* which knn cannot use"),
        ("video", {"label": "kind"}, UsageError, "takes no columns of a table. Leave --label out"),
        ("segment", {"label": "kind", "group": "g"}, UsageError, "Leave --label and --group out"),
        ("copies", {"test": "there"}, UsageError, "leave --test out"),
    ],
)
def test_what_cannot_be_asked_for_is_said_before_anything_is_read(encoder, tmp_path, protocol, options, error, said):
    with pytest.raises(error, match=said):
        tacit.evaluate(encoder, tmp_path / "nowhere", protocol=protocol, **options)


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        ("attention", "JPEGImages and SegmentationClass"),
        ("video", r"ImageSets/2017/val.txt \(DAVIS-2017\), or frames/VIDEO/"),
        ("revisited", "jpg/ and one ground truth, gnd_NAME.json"),
        ("copies", "original/ and strong/, jpegqual/"),
    ],
)
def test_another_layout_is_told_the_one_expected(encoder, tmp_path, protocol, expected):
    save(pictures(1)[0], tmp_path / "cat" / "1.png")
    with pytest.raises(DataError, match=expected):
        tacit.evaluate(encoder, tmp_path, protocol=protocol)
    with pytest.raises(DataError, match="is not a folder"):
        tacit.evaluate(encoder, tmp_path / "nowhere", protocol=protocol)
    with pytest.raises(UsageError, match="takes a path and not a ndarray"):
        tacit.evaluate(encoder, np.zeros((2, 8, 8)), protocol=protocol)


def test_attention_needs_a_class_token_and_says_so_first(tmp_path):
    with pytest.raises(UsageError, match="swin_mini has no class token"):
        tacit.evaluate(encoders.build("swin_mini", size=32), tmp_path / "nowhere", protocol="attention")


def test_all_takes_none_of_them(encoder, tmp_path):
    result = tacit.evaluate(encoder, write_digits(tmp_path, 40), protocol="all", baselines=False)
    named = {r["protocol"].partition(":")[0] for r in result["results"]} | set(result["skipped"])
    assert not named & {"segment", "detect", "attention", "video", "revisited", "copies"}


def test_the_command_line_prints_one_document(encoder, tmp_path, monkeypatch, capsys):
    encoders.save(encoder, tmp_path / "encoder")
    data = str(write_copies(tmp_path / "copydays"))
    monkeypatch.setattr(
        sys, "argv",
        ["tacit", "evaluate", str(tmp_path / "encoder"), "--data", data, "--protocol", "copies:size=32:k=5", "--json",
         "--workers", "0"],
    )  # fmt: skip
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 0
    result = json.loads(capsys.readouterr().out)
    well_formed(result)
    assert result["encoder"] == str(tmp_path / "encoder")
    assert [r["metric"] for r in result["results"]] == ["map", "map", "recall_at_1", "recall_at_1"]
    assert result["results"][0]["settings"]["k"] == 5
