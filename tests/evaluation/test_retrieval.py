import json
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import average_precision_score
from sklearn.neighbors import NearestNeighbors
from torchmetrics.functional.retrieval import retrieval_hit_rate, retrieval_precision, retrieval_reciprocal_rank

from tacit.errors import DataError, Unknown, UsageError
from tacit.evaluation import intervals
from tacit.evaluation.retrieval import by_label, paired, rank, trapezoid_ap
from tacit.evaluation.revisited import read_revisited, revisited


def clouds(count: int, classes: int = 4, width: int = 8, seed: int = 0):
    rng = np.random.default_rng(seed)
    y = rng.integers(classes, size=count)
    centres = np.random.default_rng(99).normal(size=(classes, width))
    return torch.from_numpy(centres[y] + rng.normal(size=(count, width))).float(), torch.from_numpy(y)


def on_circle(*degrees: float) -> torch.Tensor:
    """Directions of the plane: the smaller the angle to a query, the higher it ranks, whatever the lengths."""
    angle = torch.deg2rad(torch.tensor(degrees))
    return torch.stack([angle.cos(), angle.sin()], dim=1) * torch.arange(1, len(degrees) + 1)[:, None]


def test_rankings_are_by_angle_and_agree_with_scikit_learn():
    assert rank(on_circle(0), on_circle(30, 10, 20)).tolist() == [[1, 2, 0]]
    (query, _), (gallery, _) = clouds(40, seed=1), clouds(90)
    theirs = NearestNeighbors(n_neighbors=90, metric="cosine").fit(gallery.numpy()).kneighbors(query.numpy())[1]
    assert (rank(query, gallery).numpy() == theirs).all()
    assert (rank(query, gallery, 5).numpy() == theirs[:, :5]).all()


@pytest.mark.parametrize("k", [1, 7, 30, 89])
def test_rankings_depend_neither_on_blocks_nor_on_depth_even_with_ties(k):
    gallery = torch.eye(4)[torch.randint(4, (90,), generator=torch.Generator().manual_seed(0))]  # exact ties
    whole = rank(gallery)
    assert whole.shape == (90, 89)
    assert torch.equal(rank(gallery, k=k, block=7), whole[:, :k])
    equal = torch.ones(6, 2)
    assert rank(equal, k=2).tolist() == [[1, 2], [0, 2], [0, 1], [0, 1], [0, 1], [0, 1]]


def test_a_query_that_is_in_the_gallery_is_left_out():
    x, _ = clouds(30)
    among = rank(x)
    assert all(i not in row for i, row in enumerate(among.tolist()))
    rows = torch.tensor([4, 0, 17])
    assert torch.equal(rank(x[rows], x, own=rows), among[rows])
    assert (rank(x[rows], x)[:, 0] == rows).all()


def test_label_scores_worked_out_by_hand():
    # From the query: 1 0 0 1 2 for the first (class 0), and for the second, of class 1, the same angles mirrored.
    gallery, classes = on_circle(10, 20, 30, 40, 50), torch.tensor([1, 0, 0, 1, 2])
    query = on_circle(0, 60)  # the second sees 2 1 0 0 1
    found = by_label(query, torch.tensor([0, 1]), gallery, classes, hits=(1, 2, 3), precision=(1, 3), vote=(2, 3, 5))
    expected = {
        "AP": [(1 / 2 + 2 / 3) / 2, (1 / 2 + 2 / 5) / 2],
        "rank": [2, 2],
        "reciprocal_rank": [0.5, 0.5],
        "R@1": [0, 0],
        "R@2": [1, 1],
        "R@3": [1, 1],
        "P@1": [0, 0],
        "P@3": [2 / 3, 1 / 3],
        "majority@2": [0, 0],  # a draw: the nearer wins, 1 against 0, and 2 against 1
        "majority@3": [1, 0],  # 1 0 0, and 2 1 0
        "majority@5": [0, 1],  # two 0 and two 1 with a 1 in front; two 1 and two 0 with a 1 before any 0
    }
    assert set(found.values) == set(expected)
    for name, values in expected.items():
        assert found.values[name] == pytest.approx(values), name
    assert found.mean["AP"] == pytest.approx((7 / 12 + 9 / 20) / 2)
    assert found.queries.tolist() == [0, 1]


@pytest.mark.parametrize("block", [256, 11])
def test_label_scores_agree_with_scikit_learn_and_torchmetrics(block):
    (query, y), (gallery, z) = clouds(60, seed=1), clouds(200)
    found = by_label(query, y, gallery, z, hits=(1, 3, 5), precision=(1, 10), block=block)
    for i, similarity in enumerate(F.normalize(query, dim=1) @ F.normalize(gallery, dim=1).T):
        right = z == y[i]
        assert found.values["AP"][i] == pytest.approx(average_precision_score(right, similarity), abs=1e-6)
        reciprocal = retrieval_reciprocal_rank(similarity, right)
        assert found.values["reciprocal_rank"][i] == pytest.approx(float(reciprocal), abs=1e-6)
        for k in (1, 3, 5):
            assert found.values[f"R@{k}"][i] == float(retrieval_hit_rate(similarity, right, top_k=k))
        for k in (1, 10):
            precise = retrieval_precision(similarity, right, top_k=k)
            assert found.values[f"P@{k}"][i] == pytest.approx(float(precise), abs=1e-6)
    low, high = intervals.bootstrap(found.values["AP"])
    assert low < found.mean["AP"] < high


def test_leaving_one_out_leaves_out_who_is_alone_in_a_class():
    x = on_circle(0, 10, 90, 45)
    found = by_label(x, torch.tensor([0, 0, 1, 2]), hits=(1,), precision=(1,), vote=(1,))
    assert found.queries.tolist() == [0, 1]
    assert found.mean == {"AP": 1, "rank": 1, "reciprocal_rank": 1, "R@1": 1, "P@1": 1, "majority@1": 1}
    with pytest.raises(DataError, match="No query has a positive"):
        by_label(x, torch.arange(4), hits=(1,), precision=(1,), vote=(1,))


def test_pairs_in_both_directions_by_hand():
    a, b = on_circle(0, 40, 80), on_circle(35, 50, 10)  # a0: b2 b0 b1; a1: b0 b1 b2 (5, 10, 30); a2: b1 b0 b2
    there, back = paired(a, b, hits=(1, 2))  # b0: a1 a0 a2; b1: a1 a2 a0; b2: a0 a1 a2
    assert there.values["rank"].tolist() == [2, 2, 3]
    assert back.values["rank"].tolist() == [2, 1, 3]
    assert (there.mean["R@1"], back.mean["R@1"]) == (0, pytest.approx(1 / 3))
    assert (there.median_rank, back.median_rank) == (2, 2)
    assert there.mean["reciprocal_rank"] == pytest.approx((1 / 2 + 1 / 2 + 1 / 3) / 3)


def test_pairs_with_several_partners_agree_with_the_ranking():
    images, captions = clouds(12, seed=1)[0], clouds(60)[0]
    of = torch.arange(12).repeat(5)
    there, back = paired(images, captions, torch.arange(12), of, block=5)
    for scores, ranking, mine, theirs in (
        (there, rank(images, captions), torch.arange(12), of),
        (back, rank(captions, images), of, torch.arange(12)),
    ):
        first = (theirs[ranking] == mine[:, None]).int().argmax(1) + 1
        assert scores.values["rank"].tolist() == first.tolist()
        assert scores.mean["R@5"] == pytest.approx((first <= 5).float().mean().item())


def test_an_encoder_that_gives_the_same_for_everything_finds_no_pairs():
    there, _ = paired(torch.ones(12, 1), torch.ones(12, 1))
    assert there.median_rank == 12
    assert there.mean["R@10"] == 0


GND = {
    "imlist": ["a", "b", "c", "d", "e", "f"],
    "qimlist": ["p", "q"],
    "gnd": [
        {"bbx": [1, 2, 30.5, 40], "easy": [0, 2], "hard": [1], "junk": [5]},
        {"bbx": None, "easy": [], "hard": [3, 4], "junk": [0]},
    ],
}
ORDER = torch.tensor([[5, 0, 3, 1, 2, 4], [0, 1, 4, 2, 3, 5]])


def write(folder, content) -> str:
    path = folder / "gnd.json"
    path.write_text(json.dumps(content))
    return str(path)


def test_revisited_scores_worked_out_by_hand(tmp_path):
    truth = read_revisited(write(tmp_path, GND))
    assert truth.boxes == ((1, 2, 30.5, 40), None)
    # Query p, easy: 5 and 1 taken out leaves 0 3 2 4, found at places 0 and 2.
    easy = revisited(ORDER, truth, "easy")
    assert easy.queries.tolist() == [0]
    assert easy.values["AP"] == pytest.approx([((1 + 1) / 2 + (1 / 2 + 2 / 3) / 2) / 2])
    assert (easy.mean["P@1"], easy.mean["P@5"], easy.mean["P@10"]) == pytest.approx((1, 2 / 3, 2 / 3))
    # Medium: without 5 it is 0 3 1 2 4, found at 0, 2, 3. Query q: without 0 it is 1 4 2 3 5, found at 1 and 3.
    medium = revisited(ORDER, truth, "medium")
    p = (1 + (1 / 2 + 2 / 3) / 2 + (2 / 3 + 3 / 4) / 2) / 3
    q = ((0 + 1 / 2) / 2 + (1 / 3 + 2 / 4) / 2) / 2
    assert medium.values["AP"] == pytest.approx([p, q])
    assert medium.mean["AP"] == pytest.approx((p + q) / 2)
    assert medium.values["P@1"].tolist() == [1, 0]
    assert medium.values["P@5"] == pytest.approx([3 / 4, 2 / 4])
    # Hard: without 5, 0 and 2 it is 3 1 4, found at 1. q as before.
    hard = revisited(ORDER.numpy(), truth, "hard")
    assert hard.values["AP"] == pytest.approx([(0 + 1 / 2) / 2, q])
    assert hard.values["P@10"] == pytest.approx([1 / 2, 2 / 4])


def test_distractors_behind_the_images_push_positives_down(tmp_path):
    truth = read_revisited(write(tmp_path, GND))
    more = torch.tensor([[6, 5, 0, 3, 1, 2, 4], [0, 6, 1, 4, 2, 3, 5]])
    found = revisited(more, truth, "hard")  # p: 6 3 1 4; q: 6 1 4 2 3 5
    assert found.values["AP"] == pytest.approx([(0 + 1 / 3) / 2, ((0 + 1 / 3) / 2 + (1 / 4 + 2 / 5) / 2) / 2])


def test_a_perfect_ranking_scores_one_whatever_the_junk(tmp_path):
    gnd = {"imlist": ["x"] * 8, "qimlist": ["q"], "gnd": [{"easy": [3, 4], "hard": [5], "junk": [0, 6]}]}
    truth = read_revisited(write(tmp_path, gnd))
    found = revisited(np.array([[0, 4, 6, 3, 5, 1, 2, 7]]), truth, "medium")
    assert found.mean == {"AP": 1, "P@1": 1, "P@5": 1, "P@10": 1}
    assert trapezoid_ap(np.array([0, 1, 2]), 4) == pytest.approx(3 / 4)  # one never found


def test_revisited_refuses_what_is_no_ranking(tmp_path):
    truth = read_revisited(write(tmp_path, GND))
    with pytest.raises(Unknown, match="Did you mean 'medium'"):
        revisited(ORDER, truth, "medum")
    with pytest.raises(UsageError, match=r"must be \[2, 6 or more\], whole; got \[2, 3\]"):
        revisited(ORDER[:, :3], truth, "easy")
    with pytest.raises(UsageError, match="every image of the gallery once"):
        revisited(torch.zeros(2, 6, dtype=torch.int64), truth, "easy")
    nobody = read_revisited(write(tmp_path, {**GND, "gnd": [{"easy": [], "hard": [1], "junk": []}] * 2}))
    with pytest.raises(DataError, match="No query has a positive at level 'easy'"):
        revisited(ORDER, nobody, "easy")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"imlist": None}, "'imlist' must be a list of names"),
        ({"qimlist": []}, "'qimlist' must be a list of names"),
        ({"gnd": [1, 2]}, "'gnd' must be a list of objects"),
        ({"qimlist": ["p"]}, "1 queries .* and 2 entries"),
        ({"gnd": [{"easy": [6], "hard": [], "junk": []}] * 2}, "'easy' of entry 0 .* from 0 to 5"),
        ({"gnd": [{"easy": [True], "hard": [], "junk": []}] * 2}, "'easy' of entry 0"),
        ({"gnd": [{"easy": [1], "junk": []}] * 2}, "'hard' of entry 0"),
        ({"gnd": [{"easy": [1], "hard": [1], "junk": []}] * 2}, "must be disjoint"),
        ({"gnd": [{"bbx": [1, 2], "easy": [1], "hard": [], "junk": []}] * 2}, "'bbx' of entry 0"),
    ],
)
def test_a_broken_ground_truth_is_named(tmp_path, change, message):
    with pytest.raises(DataError, match=message):
        read_revisited(write(tmp_path, GND | change))


def test_a_pickle_of_lists_and_arrays_says_what_the_json_does(tmp_path):
    arrays = [{k: None if v is None else np.array(v) for k, v in entry.items()} for entry in GND["gnd"]]
    (tmp_path / "gnd.pkl").write_bytes(pickle.dumps(GND | {"gnd": arrays}, 2))
    found, expected = read_revisited(tmp_path / "gnd.pkl"), read_revisited(write(tmp_path, GND))
    assert (found.images, found.queries, found.boxes) == (expected.images, expected.queries, expected.boxes)
    for one, other in zip((*found.easy, *found.hard, *found.junk), (*expected.easy, *expected.hard, *expected.junk),
                          strict=True):  # fmt: skip
        np.testing.assert_array_equal(one, other)


class Trap:
    def __reduce__(self):
        return open, ("opened", "w")


def test_a_pickle_that_would_run_something_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path = tmp_path / "gnd_roxford5k.pkl"
        path.write_bytes(pickle.dumps(Trap(), protocol))
        with pytest.raises(DataError, match="pickle, which can run code"):
            read_revisited(path)
    assert not (tmp_path / "opened").exists()
    (tmp_path / "gnd.json").write_bytes(path.read_bytes())
    with pytest.raises(DataError, match=r"is not JSON. The published pickle must keep its ending \.pkl"):
        read_revisited(tmp_path / "gnd.json")
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_revisited(tmp_path / "nothing.json")


def test_bad_features_are_named():
    x, y = clouds(20)
    broken = x.clone()
    broken[3, 1] = float("nan")
    with pytest.raises(DataError, match="Row 3 of the gallery"):
        rank(x, broken)
    with pytest.raises(DataError, match="Row 3 of the query"):
        by_label(broken, y)
    with pytest.raises(UsageError, match="Queries have 8 features and the gallery 5"):
        rank(x, x[:, :5])
    with pytest.raises(UsageError, match="k = 20: must be from 1 to 19"):
        rank(x, k=20)
    with pytest.raises(UsageError, match="labels must hold 20 whole numbers"):
        by_label(x, y[:5])
    with pytest.raises(UsageError, match="go together"):
        by_label(x, y, x)
    with pytest.raises(UsageError, match="20 rows cannot be pairs of 19"):
        paired(x, x[1:])
    with pytest.raises(UsageError, match="at least one row"):
        rank(x[:0], x)
    with pytest.raises(UsageError, match="0 to 19"):
        rank(x, x, own=torch.full((20,), 20))
    with pytest.raises(UsageError, match="single record"):
        rank(x[:1])
