import json
import unicodedata
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from tacit.errors import BadRecord, DataError
from tacit.evaluation.detection import match_classes, open_set, read_coco, read_maps, read_voc, to_coco
from tacit.evaluation.detection.sets import fit_box, read_image, target


def test_a_coco_file_gives_boxes_labels_and_negatives(shapes):
    data = read_coco(shapes)
    about = json.loads(shapes.read_text(encoding="utf-8"))
    assert data.classes == ("circle", "square", "triangle")
    assert data.category_ids == (3, 7, 20)
    assert (len(data), data.skipped, data.clipped) == (16, (), 0)
    assert [bool(s.things) for s in data.scenes] == [i % 8 != 7 for i in range(16)]
    assert sum(len(s.things) for s in data.scenes) == len(about["annotations"])
    first = about["annotations"][0]
    x, y, w, h = first["bbox"]
    found = target(data.scenes[0])
    torch.testing.assert_close(found["boxes"][0], torch.tensor([x, y, x + w, y + h]))
    assert data.category_ids[found["labels"][0] - 1] == first["category_id"]
    empty = target(data.scenes[7])
    assert empty["boxes"].shape == (0, 4)
    assert "2 without objects" in str(data)
    image = read_image(data.scenes[1])
    assert image.shape == (3, 64, 80)
    assert 0 <= image.min() <= image.max() <= 1


def test_what_cannot_be_used_is_left_out_and_named(edited, shapes):
    def change(about):
        rows = about["annotations"]
        images = {row["image_id"]: row for row in rows}
        a = images[10]
        for extra in (
            {"bbox": [5, 5, 0, 4]},
            {"bbox": [5, 5, 4, -1]},
            {"bbox": [200, 5, 10, 10]},
            {"bbox": [5, 5, float("nan"), 10]},
            {"bbox": None},
            {"bbox": [1, 2, 3]},
            {"category_id": 99},
            {"category_id": [3]},
            {"image_id": 12345},
            {"image_id": [10]},
            {"bbox": [50, 50, 30, 30]},
        ):
            rows.append({**a, "id": 900 + len(rows), **extra})
        about["images"].append({"id": 999, "file_name": "fehlt-ü.png", "height": 8, "width": 8})
        rows.append({**a, "id": 2000, "image_id": 999})

    data = read_coco(edited(change), shapes.parent)
    reasons = [reason.split(":")[0] for _, reason in data.skipped]
    assert len(data) == 16
    assert sorted(reasons) == sorted(
        ["image not there", "a box lies outside its image", "a box has no area", "a box has no area"]
        + ["a box is not four numbers"] * 3
        + ["unknown category"] * 2
        + ["annotation of an unknown image"] * 2
    )
    assert data.clipped == 1
    assert ("fehlt-ü.png", f"image not there: in {shapes.parent}") in data.skipped
    assert all("bild-é000.png" in name for name, reason in data.skipped if reason.startswith("a box"))
    assert data.scenes[0].things[-1].box == (50, 50, 64, 64)
    assert "2 left out: a box has no area" in str(data)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: a.pop("categories"), "no list 'categories'"),
        (lambda a: a["categories"].append({"id": 3, "name": "again"}), "two categories have the id 3"),
        (lambda a: a["categories"].append({"name": "cat"}), "'cat' has no whole number"),
        (lambda a: a["categories"].clear(), "no categories"),
        (lambda a: a["images"].append(a["images"][0]), "two images have the id 10"),
        (lambda a: a["images"][0].pop("file_name"), "no file_name"),
        (lambda a: a["annotations"].clear(), "no object that can be used"),
        (lambda a: a["images"].clear(), "no image that can be used"),
        (lambda a: [i.update(file_name="x.png") for i in a["images"]], "16 left out; the first: x.png: image"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_says_why(edited, shapes, change, words):
    with pytest.raises(DataError, match=words):
        read_coco(edited(change), shapes.parent)


def test_no_coco_at_all(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_coco(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match=r"bad\.json is no JSON"):
        read_coco(tmp_path / "bad.json")
    (tmp_path / "bad.json").write_text("[1]", encoding="utf-8")
    with pytest.raises(DataError, match="no COCO file"):
        open_set(tmp_path / "bad.json")


def test_accents_may_be_written_in_two_ways_and_sizes_may_be_left_out(edited, shapes):
    def change(about):
        for image in about["images"]:
            image["file_name"] = unicodedata.normalize("NFD", image["file_name"])
            del image["height"]

    data = read_coco(edited(change), shapes.parent)
    assert len(data) == 16
    assert (data.scenes[1].height, data.scenes[1].width) == (64, 80)


def test_an_image_of_another_size_or_without_pixels_is_a_bad_record(edited, shapes):
    data = read_coco(edited(lambda a: a["images"][0].update(width=65)), shapes.parent)
    with pytest.raises(BadRecord, match="is 64 x 64 pixels, its annotations say 65 x 64"):
        read_image(data.scenes[0])


def test_masks_of_polygons_and_codes(edited, shapes):
    tools = pytest.importorskip("pycocotools.mask")

    def change(about):
        rows = about["annotations"]
        square = [10, 10, 20, 10, 20, 30, 10, 30]
        code = tools.merge(tools.frPyObjects([square], 64, 64))
        plain = np.asfortranarray(tools.decode(code)).ravel(order="F")
        edges = np.flatnonzero(np.diff(np.concatenate([[0], plain, [0]])))
        counts = np.diff(np.concatenate([[0], edges, [64 * 64]])).tolist()
        masks = [
            [square], {"size": [64, 64], "counts": code["counts"].decode()}, {"size": [64, 64], "counts": counts},
            None, [], [[1, 2, 3]], {"size": [9, 9], "counts": [81]}, {"size": [64, 64], "counts": [5]}, 4,
        ]  # fmt: skip
        rows[:] = [r for r in rows if r["image_id"] != 10] + [
            {"id": 100 + i, "image_id": 10, "category_id": 3, "bbox": [10, 10, 10, 20], "iscrowd": 0, "segmentation": m}
            for i, m in enumerate(masks)
        ]

    path = edited(change)
    data = read_coco(path, shapes.parent, masks=True)
    masks = target(data.scenes[0], masks=True)["masks"]
    expected = torch.zeros(64, 64, dtype=torch.uint8)
    expected[10:30, 10:20] = 1
    assert masks.shape == (3, 64, 64)
    assert all(torch.equal(m, expected) for m in masks)
    assert sorted(r.split(":")[0] for _, r in data.skipped) == [
        "a mask has another size than its image", "a mask is neither polygons nor a run-length code",
        "a mask is no list of polygons with three points or more", "a run-length code does not fill its image",
        "no mask", "no mask",
    ]  # fmt: skip
    assert target(data.scenes[7], masks=True)["masks"].shape == (0, 64, 80)
    assert len(read_coco(path, shapes.parent).scenes[0].things) == 9  # without masks all boxes count
    torn = replace(data.scenes[0].things[1], mask={"size": [64, 64], "counts": "abc"})
    with pytest.raises(BadRecord, match="mask cannot be decoded"):
        target(replace(data.scenes[0], things=(torn,)), masks=True)
    again = to_coco(data)
    assert tools.decode(again["annotations"][0]["segmentation"]).sum() == 200


def test_crowds_are_not_trained_on(edited, shapes):
    data = read_coco(edited(lambda a: a["annotations"][0].update(iscrowd=1)), shapes.parent)
    assert data.scenes[0].things[0].crowd
    assert len(target(data.scenes[0])["boxes"]) == len(data.scenes[0].things) - 1
    assert to_coco(data)["annotations"][0]["iscrowd"] == 1


def test_a_set_goes_back_to_coco_with_its_own_ids(shapes):
    about = json.loads(shapes.read_text(encoding="utf-8"))
    again = to_coco(read_coco(shapes))
    assert [c["id"] for c in again["categories"]] == [3, 7, 20]
    for ours, theirs in zip(again["annotations"], about["annotations"], strict=True):
        assert (ours["image_id"], ours["category_id"]) == (theirs["image_id"], theirs["category_id"])
        assert ours["bbox"] == pytest.approx(theirs["bbox"])


VOC = "<annotation><filename>{}</filename>{}</annotation>"
OBJECT = "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"


def test_voc_files(tmp_path):
    images, annotations = tmp_path / "images", tmp_path / "annotations"
    images.mkdir()
    annotations.mkdir()
    for name in ("a.jpg", "b.jpg", "ç.jpg", "lonely.jpg"):
        Image.new("RGB", (40, 30)).save(images / name)

    def write(stem, filename, *objects):
        (annotations / f"{stem}.xml").write_text(VOC.format(filename, "".join(objects)), encoding="utf-8")

    write("a", "a.jpg", OBJECT.format("RBC", 1, 1, 40, 30), OBJECT.format("WBC", 5, 5, 4, 9))
    write("b", "b.jpg")
    write("other", "ç.jpg", OBJECT.format("Platelets", 11, 6, 45, 10), OBJECT.format("RBC", "x", 1, 2, 3))
    write("gone", "gone.jpg", OBJECT.format("RBC", 1, 1, 4, 4))
    (annotations / "torn.xml").write_text("<annotation><obj", encoding="utf-8")
    data = open_set(tmp_path)
    assert data.classes == ("Platelets", "RBC")
    assert [s.path.name for s in data.scenes] == ["a.jpg", "b.jpg", "ç.jpg"]
    assert data.scenes[0].things[0].box == (0, 0, 40, 30)  # one-based, last pixel included
    assert data.scenes[1].things == ()
    assert data.scenes[2].things[0].box == (10, 5, 40, 10)
    assert data.clipped == 1
    assert {(n, r.split(":")[0]) for n, r in data.skipped} == {
        ("a.xml", "a box has no area"), ("other.xml", "a box is not four numbers"), ("gone.xml", "image not there"),
        ("torn.xml", "no XML (ParseError)"), ("lonely.jpg", "image without annotations"),
    }  # fmt: skip
    with pytest.raises(DataError, match="no masks, which VOC files do not hold"):
        open_set(tmp_path, masks=True)
    with pytest.raises(DataError, match="no folder of images"):
        read_voc(tmp_path / "nowhere", annotations)


def test_instance_maps(tmp_path):
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.mkdir()
    labels.mkdir()
    values = np.zeros((20, 30), dtype=np.uint16)
    values[2:5, 3:10] = 300
    values[19, 29] = 7
    for name, map_ in (("a", values), ("empty", values * 0), ("b", values[:10]), ("gone", values)):
        Image.fromarray(map_).save(labels / f"{name}.png")
        if name != "gone":
            Image.new("L", (30, 20)).save(images / f"{name}.png")
    data = open_set(tmp_path)
    assert [s.path.stem for s in data.scenes] == ["a", "empty"]
    assert [t.box for t in data.scenes[0].things] == [(29, 19, 30, 20), (3, 2, 10, 5)]
    assert [t.area for t in data.scenes[0].things] == [1, 21]
    masks = target(data.scenes[0], masks=True)["masks"]
    assert torch.equal(masks[1], torch.from_numpy((values == 300).astype(np.uint8)))
    reason = "image and map differ in size: 30 x 20, 30 x 10"
    assert data.skipped == (("b.png", reason), ("gone.png", "image not there"))
    with pytest.raises(DataError, match="holds no objects"):
        open_set(images)
    (labels / "a.png").write_bytes(b"torn")
    with pytest.raises(DataError, match=r"a\.png: its instance map cannot be read"):
        to_coco(data)
    with pytest.raises(DataError, match=r"no object that can be used.*its instance map cannot be read"):
        read_maps(images, labels)


def test_classes_are_matched_by_name(edited, shapes):
    def change(about):
        for category in about["categories"]:
            category["id"] = {3: 8, 7: 2, 20: 5}[category["id"]]  # triangle is now between the others
            category["name"] = category["name"].replace("circle", "disc")
        for annotation in about["annotations"]:
            annotation["category_id"] = {3: 8, 7: 2, 20: 5}[annotation["category_id"]]

    train, test = read_coco(shapes), read_coco(edited(change), shapes.parent)
    assert test.classes == ("square", "triangle", "disc")
    matched = match_classes(test, train)
    assert (matched.classes, matched.category_ids) == (train.classes, train.category_ids)
    for ours, theirs in zip(matched.scenes, train.scenes, strict=True):
        assert ours.things == tuple(t for t in theirs.things if t.label != 1)
    circles = sum(t.label == 1 for s in train.scenes for t in s.things)
    assert [r for _, r in matched.skipped] == ["class not in the training set: disc"] * circles
    other = read_coco(edited(lambda a: [c.update(name=f"n{c['id']}") for c in a["categories"]]), shapes.parent)
    with pytest.raises(DataError, match="class not in the training set"):
        match_classes(other, train)


def test_boxes_are_fitted_to_their_image():
    assert fit_box((0, 0, 10, 10.4), 10, 10) == ((0, 0, 10, 10), False)
    assert fit_box((-5, 2, 10, 10), 10, 10) == ((0, 2, 10, 10), True)
    for box, words in (
        ((1, 1, 1, 5), "no area"),
        ((10, 0, 12, 5), "outside"),
        ((0, 0, float("inf"), 1), "four numbers"),
    ):
        with pytest.raises(BadRecord, match=words):
            fit_box(box, 10, 10)
