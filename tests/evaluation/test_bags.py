"""Bags of embeddings: the attention in closed form, what a table may say, and tiles that are few among many."""

import csv

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

import tacit
from tacit.errors import BadSettings, DataError, UsageError
from tacit.evaluation import bags as bags_of
from tacit.evaluation.bags import BagClassifier, fit_bags, predict_bags, read_bags, score_bags, split_bags
from tacit.evaluation.clinical import auroc


def model(pool: str = "attention") -> BagClassifier:
    torch.manual_seed(0)
    return BagClassifier(8, 3, pool, hidden=16, attention=4).eval()


def slides(count: int, seed: int, tiles: int = 12) -> tuple[list[Tensor], Tensor]:
    """Every second bag has two tiles of a kind that the others lack, and differs in nothing else."""
    g = torch.Generator().manual_seed(seed)
    bags, labels = [], torch.arange(count) % 2
    for label in labels:
        x = torch.randn(tiles, 16, generator=g)
        x[:, 0] = 0.0
        x[:2, 0] = 6.0 * float(label)
        bags.append(x)
    return bags, labels


def write(folder, count: int = 20, table: str = "bag,label,patient", vectors: bool = True) -> tuple[str, str]:
    """Bags s0, s1, … of three tiles each, labels a and b in turns, two slides a patient."""
    paths = [f"tiles/s{i}/{n}.png" for i in range(count) for n in range(3)]
    rng = np.random.default_rng(0)
    x = np.stack([rng.normal(size=4) + 3 * (i // 2 % 2) for i in range(count) for _ in range(3)]).astype(np.float32)
    if vectors:
        flat = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), 4)
        pq.write_table(pa.table({"path": paths, "vector": flat}), folder / "tiles.parquet")
    rows = [table] + [f"s{i},{'ab'[i // 2 % 2]},p{i // 2}" for i in range(count)]
    (folder / "slides.csv").write_text("\n".join(rows) + "\n")
    return str(folder / "tiles.parquet"), str(folder / "slides.csv")


def test_weights_are_the_gated_attention_and_sum_to_one():
    net, x = model(), torch.randn(5, 8)
    h = net.embed(x)
    scores = net.score(torch.tanh(net.value[0](h)) * torch.sigmoid(net.gate[0](h)))[:, 0]
    logits, weights = net(x)
    torch.testing.assert_close(weights, scores.exp() / scores.exp().sum())
    torch.testing.assert_close(logits, net.head((weights[:, None] * h).sum(0)))
    order = torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(net(x[order])[0], logits)
    torch.testing.assert_close(net(x.repeat(2, 1))[0], logits)  # every tile twice says the same
    assert BagClassifier(8, 2).value[0].out_features == 384
    assert [p.p for p in BagClassifier(8, 2).modules() if isinstance(p, torch.nn.Dropout)] == [0.1, 0.25, 0.25]


def test_attention_without_scores_is_the_mean():
    net = model()
    with torch.no_grad():
        net.score.weight.zero_()
    x = torch.randn(7, 8)
    logits, weights = net(x)
    torch.testing.assert_close(weights, torch.full((7,), 1 / 7))
    torch.testing.assert_close(logits, net.head(net.embed(x).mean(0)))
    assert model("mean")(x)[1].tolist() == pytest.approx([1 / 7] * 7)


def test_few_telling_tiles_are_found_by_attention():
    bags, labels = slides(40, seed=0)
    test, truth = slides(40, seed=1)
    net = fit_bags(bags, labels, classes=2, epochs=12, lr=5e-4)
    p, weights = predict_bags(net, test)
    assert auroc(p[:, 1].numpy(), truth.numpy()) > 0.9
    told = torch.stack([w for w, y in zip(weights, truth, strict=True) if y])
    assert told[:, :2].sum(1).mean() > 0.25  # a sixth, were all alike
    again, _ = predict_bags(fit_bags(bags[:4], labels[:4], classes=2, epochs=1), test[:2])
    same, _ = predict_bags(fit_bags(bags[:4], labels[:4], classes=2, epochs=1), test[:2])
    assert torch.equal(again, same)


def test_a_vector_belongs_to_its_folder_or_to_what_the_table_says(tmp_path):
    features, table = write(tmp_path)
    bags = read_bags(features, table, label="label", bag="bag", group="patient")
    assert bags.names[:2] == ["s0", "s1"]
    assert [rows.tolist() for rows in bags.rows[:2]] == [[0, 1, 2], [3, 4, 5]]
    assert bags.classes == ["a", "b"]
    assert bags.labels[:4].tolist() == [0, 0, 1, 1]
    assert bags.groups[:3].tolist() == ["p0", "p0", "p1"]
    rows = ["path,slide,label", "tiles/s0/0.png,x,a", "tiles/s1/0.png,x,a", "tiles/s9/2.png,y,b", "gone.png,z,b"]
    (tmp_path / "files.csv").write_text("\n".join(rows))
    bags = read_bags(features, tmp_path / "files.csv", label="label", bag="slide")
    assert [rows.tolist() for rows in bags.rows] == [[0, 3], [29]]
    assert (bags.missing, bags.unused) == (["z"], 57)
    x = pq.read_table(features)["vector"].combine_chunks().flatten().to_numpy().reshape(-1, 4)
    np.save(tmp_path / "tiles.npy", x)
    (tmp_path / "tiles.txt").write_text("\n".join(bags.paths) + "\n")
    other = read_bags(tmp_path / "tiles.npy", table, label="label", bag="bag")
    assert torch.equal(other.x, bags.x)


def test_patients_are_never_split(tmp_path):
    bags = read_bags(*write(tmp_path), label="label", bag="bag", group="patient")
    train, test = split_bags(bags, seed=0)
    assert sorted([*train, *test]) == list(range(20))
    assert not set(bags.groups[train]) & set(bags.groups[test])
    assert set(bags.labels[test]) == {0, 1}
    split = ["bag,label,patient,split"] + [
        f"s{i},{'ab'[i // 2 % 2]},p{i // 2},{'test' if i % 2 else 'train'}" for i in range(20)
    ]
    (tmp_path / "slides.csv").write_text("\n".join(split))
    with pytest.raises(DataError, match="both training and test"):
        split_bags(read_bags(tmp_path / "tiles.parquet", tmp_path / "slides.csv", label="label", bag="bag",
                             group="patient"), seed=0)  # fmt: skip
    train, test = split_bags(
        read_bags(tmp_path / "tiles.parquet", tmp_path / "slides.csv", label="label", bag="bag"), 0
    )
    assert test.tolist() == list(range(1, 20, 2))


def test_scores_have_intervals_over_patients_and_the_attention_is_kept(tmp_path):
    features, table = write(tmp_path, count=80)
    result = tacit.bags(features, table, group="patient", out=tmp_path / "attention.csv", epochs=2)
    assert (result["train"] + result["test"], result["classes"]) == (80, ["a", "b"])
    assert [(r["pool"], r["metric"]) for r in result["results"][:2]] == [
        ("attention", "auroc"),
        ("attention", "balanced_accuracy"),
    ]
    assert {r["pool"] for r in result["results"]} == {"attention", "mean"}
    assert all(r["low"] <= r["value"] <= r["high"] for r in result["results"])
    with open(tmp_path / "attention.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * result["test"]
    first = [float(r["attention"]) for r in rows if r["bag"] == rows[0]["bag"]]
    assert sum(first) == pytest.approx(1, abs=1e-4)


def test_several_classes_are_scored_by_pairs(tmp_path):
    features, _ = write(tmp_path, count=60)
    rows = ["bag,label"] + [f"s{i},{'abc'[i % 3]}" for i in range(60)]
    (tmp_path / "three.csv").write_text("\n".join(rows))
    bags = read_bags(features, tmp_path / "three.csv", label="label", bag="bag")
    result, weights = score_bags(bags, epochs=1)
    assert {r["metric"] for r in result["results"]} == {
        "auroc_one_vs_one", "balanced_accuracy", "weighted_f1", "quadratic_kappa",
    }  # fmt: skip
    assert len(weights) == result["test"]


def test_a_bag_is_of_the_class_that_some_of_its_vectors_are_nearest_to():
    rois = torch.tensor([[2.0, 0.0], [0.0, 2.0]])  # centred and of length 1: ±(1, -1) / root 2
    away = torch.tensor([[3.0, 1.0], [-1.0, 3.0], [1.0, 3.0], [-3.0, -1.0]])
    found = bags_of.nearest_classes([away], rois, torch.tensor([0, 1]), classes=2, top=2)[0]
    means = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]) / 2**0.5
    unit = torch.nn.functional.normalize(away - 1, dim=1)
    squared = (unit[:, None] - means).square().sum(2)
    torch.testing.assert_close(found, -squared.sort(0).values[:2].mean(0))
    assert found.argmax() == 1
    few = bags_of.nearest_classes([away[:1]], rois, torch.tensor([0, 1]), classes=2, top=50)
    torch.testing.assert_close(few[0], -squared[0])  # all there are
    bags, labels = slides(40, seed=3)
    shown, kinds = torch.cat([b[:2] for b in bags[:8]]), labels[:8].repeat_interleave(2)
    said = bags_of.nearest_classes(bags[8:], shown, kinds, classes=2, top=2)
    assert auroc((said[:, 1] - said[:, 0]).numpy(), labels[8:].numpy()) > 0.9


def test_labelled_regions_tell_bags_without_training(tmp_path):
    tiles, table = write(tmp_path, count=60)
    x = np.stack([np.full(4, 3.0 * (i % 2)) for i in range(8)]).astype(np.float32)
    np.save(tmp_path / "rois.npy", x)
    (tmp_path / "rois.txt").write_text("\n".join(f"rois/{'ab'[i % 2]}/{i}.png" for i in range(8)))
    found = tacit.bags(tiles, table, group="patient", epochs=1, rois=tmp_path / "rois.npy", top=3)["results"]
    score = {(r["pool"], r["metric"]): r["value"] for r in found}
    assert score["prototypes", "auroc"] == 1.0
    assert score["prototypes", "balanced_accuracy"] == 1.0
    (tmp_path / "rois.txt").write_text("\n".join(f"rois/a/{i}.png" for i in range(8)))
    with pytest.raises(DataError, match="its folders are a; there must be one for each class of the bags: a, b"):
        tacit.bags(tiles, table, rois=tmp_path / "rois.npy")
    np.save(tmp_path / "rois.npy", x[:, :3])
    with pytest.raises(DataError, match="vectors of 3 values; those of the bags have 4"):
        tacit.bags(tiles, table, rois=tmp_path / "rois.npy")
    with pytest.raises(BadSettings, match="top = 0"):
        tacit.bags(tiles, table, top=0)


def test_what_cannot_be_read_is_said(tmp_path):
    features, table = write(tmp_path)
    with pytest.raises(DataError, match="no column 'grade'"):
        read_bags(features, table, label="grade", bag="bag")
    (tmp_path / "twice.csv").write_text("bag,label\ns0,a\ns0,b\ns1,a\n")
    with pytest.raises(DataError, match="two things of 's0'"):
        read_bags(features, tmp_path / "twice.csv", label="label", bag="bag")
    (tmp_path / "other.csv").write_text("bag,label\nx,a\ny,b\n")
    with pytest.raises(DataError, match="0 of the 2 bags"):
        read_bags(features, tmp_path / "other.csv", label="label", bag="bag")
    with pytest.raises(DataError, match="cannot be read"):
        read_bags(tmp_path / "none.npy", table, label="label", bag="bag")
    with pytest.raises(UsageError, match=r"must end in \.csv"):
        tacit.bags(features, table, out=tmp_path / "a.txt")
    with pytest.raises(BadSettings, match="epochs = 0"):
        tacit.bags(features, table, epochs=0)
