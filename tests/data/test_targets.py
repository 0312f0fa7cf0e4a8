"""Columns of tables as classes, numbers or several labels, and groups."""

from __future__ import annotations

import json

import datasets
import numpy as np
import pytest
from PIL import Image

from tacit.data import open_source, open_splits
from tacit.data.targets import read_targets
from tacit.errors import DataError, Unknown, UsageError


@pytest.mark.parametrize(
    ("columns", "kind", "values", "names"),
    [
        ({"a": ["cat", "dog", "cat"]}, "class", [0, 1, 0], ["cat", "dog"]),
        ({"a": ["10", "9", "10"]}, "class", [1, 0, 1], ["9", "10"]),
        ({"a": [2.0, 1.0, 2.0]}, "class", [1, 0, 1], ["1", "2"]),
        ({"a": ["0.5", "", "2"]}, "numbers", [[0.5], [np.nan], [2]], ["a"]),
        ({"a": ["x;y", "y", ""]}, "multi", [[1, 1], [0, 1], [0, 0]], ["x", "y"]),
        ({"a": [["x"], [], None]}, "multi", [[1], [0], [0]], ["x"]),
        ({"a": ["1", "0", ""], "b": [0, 1, -1]}, "multi", [[1, 0], [0, 1], [-1, -1]], ["a", "b"]),
        ({"a": ["1", "3", ""], "b": [0.5, 1, 2]}, "numbers", [[1, 0.5], [3, 1], [np.nan, 2]], ["a", "b"]),
    ],
)
def test_columns_are_what_they_look_like(columns, kind, values, names):
    found = read_targets(columns, "t.csv")
    assert (found.kind, found.names) == (kind, names)
    np.testing.assert_array_equal(found.values, values)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"a": ["cat", "", "dog"]}, "column 'a': 1 labels are missing, the first in record 2"),
        ({"a": ["cat", "cat"]}, "one class only"),
        ({"a": ["", None]}, "holds no value"),
        ({"a": ["1", "x"], "b": ["2", "3"]}, "'x' in record 2 is no number"),
        ({"a": [[], []]}, "holds no label"),
    ],
)
def test_what_cannot_be_a_target_says_why(columns, said):
    with pytest.raises(DataError, match=said):
        read_targets(columns, "t.csv")


@pytest.fixture
def folder(tmp_path):
    for i in range(6):
        Image.new("RGB", (4, 4), (40 * i, 0, 0)).save(tmp_path / f"{i}.png")
    rows = [
        {"path": f"{i}.png", "age": 20.5 + i, "sex": "fm"[i % 2], "tags": ["x", "y"][: i % 3], "patient": f"p{i // 2}"}
        for i in range(6)
    ]
    (tmp_path / "t.json").write_text(json.dumps(rows))
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    text = "\n".join(f"{r['path']},{r['age']},{r['sex']},{';'.join(r['tags'])},{r['patient']}" for r in rows)
    (tmp_path / "t.csv").write_text(f"path,age,sex,tags,patient\n{text}\n")
    pixels = [{"bytes": (tmp_path / r["path"]).read_bytes(), "path": None} for r in rows]
    table = {"image": pixels, **{k: [r[k] for r in rows] for k in ("age", "sex", "tags", "patient")}}
    datasets.Dataset.from_dict(table).cast_column("image", datasets.Image()).to_parquet(tmp_path / "t.parquet")
    return tmp_path


@pytest.mark.parametrize("name", ["t.json", "t.jsonl", "t.csv", "t.parquet"])
def test_tables_give_columns_and_groups(folder, name):
    source = open_source(folder / name, labels=["age"], group="patient")
    assert source.targets.kind == "numbers"
    assert source.targets.values[:, 0].tolist() == [20.5, 21.5, 22.5, 23.5, 24.5, 25.5]
    assert source.groups.tolist() == ["p0", "p0", "p1", "p1", "p2", "p2"]
    part = source.select(np.array([4, 0]))
    assert part.targets.values[:, 0].tolist() == [24.5, 20.5]
    assert part.groups.tolist() == ["p2", "p0"]
    classes = open_source(folder / name, labels=["sex"])
    assert (classes.classes, classes.labels.tolist()) == (["f", "m"], [0, 1, 0, 1, 0, 1])
    assert classes[1]["label"] == 1
    several = open_source(folder / name, labels=["tags"]).targets
    assert (several.kind, several.values.tolist()[:3]) == ("multi", [[0, 0], [1, 0], [1, 1]])


def test_a_kind_may_be_given(folder):
    (folder / "u.csv").write_text("path,count,tag\n0.png,3,x\n1.png,,y\n2.png,5,x\n")
    found = open_source(folder / "u.csv", labels=["count:numbers"]).targets
    np.testing.assert_array_equal(found.values, [[3], [np.nan], [5]])
    assert open_source(folder / "u.csv", labels=["tag:multi"]).targets.values.tolist() == [[1, 0], [0, 1], [1, 0]]
    assert open_source(folder / "t.csv", labels=["age:class"]).classes[0] == "20.5"
    with pytest.raises(Unknown, match="'numbers'"):
        open_source(folder / "u.csv", labels=["count:number"])


def test_columns_that_are_not_there_are_named_with_those_that_are(folder):
    with pytest.raises(Unknown, match=r"column of .*t\.csv 'agee'.*'age'"):
        open_source(folder / "t.csv", labels=["agee"])
    with pytest.raises(UsageError, match="has no columns"):
        open_source(folder, labels=["age"])


def test_the_test_sets_labels_follow_the_training_sets(folder):
    (folder / "u.csv").write_text("path,tags\n0.png,y\n1.png,\n")
    train, test = open_splits(folder / "t.csv", folder / "u.csv", labels=["tags"])
    assert test.targets.names == train.targets.names == ["x", "y"]
    assert test.targets.values.tolist() == [[0, 1], [0, 0]]
    (folder / "v.csv").write_text("path,tags\n0.png,y;z\n1.png,\n")
    with pytest.raises(DataError, match=r"labels that the training data has not: z"):
        open_splits(folder / "t.csv", folder / "v.csv", labels=["tags"])


def test_coco_annotations_are_a_table_of_what_is_in_each_picture(tmp_path):
    for name in ("a.png", "b.png", "ü.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    images = [{"id": i, "file_name": name} for i, name in enumerate(("a.png", "b.png", "ü.png"))]
    things = [{"image_id": 0, "category_id": 7}, {"image_id": 0, "category_id": 2}, {"image_id": 0, "category_id": 7},
              {"image_id": 2, "category_id": 2}, {"image_id": 99, "category_id": 2}]  # fmt: skip
    about = {
        "images": images,
        "annotations": things,
        "categories": [{"id": 2, "name": "cat"}, {"id": 7, "name": "dog"}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(about))
    source = open_source(tmp_path / "coco.json", labels=["categories"])
    assert source.targets.kind == "multi"
    assert source.targets.names == ["cat", "dog"]
    assert source.targets.values.tolist() == [[1, 1], [0, 0], [1, 0]]
    assert [source.name(i) for i in range(3)] == ["a.png", "b.png", "ü.png"]
    (tmp_path / "bad.json").write_text(json.dumps({**about, "images": [{"file_name": "a.png"}]}))
    with pytest.raises(DataError, match="looks like COCO's format and lacks 'id'"):
        open_source(tmp_path / "bad.json")


def test_a_stray_file_beside_class_folders_is_named(tmp_path):
    for i in range(30):
        folder = tmp_path / ("cat" if i % 2 else "dog")
        folder.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(folder / f"{i}.png")
    assert open_source(tmp_path).notes == []
    Image.new("RGB", (4, 4)).save(tmp_path / "stray.png")
    source = open_source(tmp_path)
    assert source.labels is None
    assert "1 file lies in no class folder (stray.png)" in source.notes[0]
