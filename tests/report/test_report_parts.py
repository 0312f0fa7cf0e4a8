"""The pieces of the page: charts, numbers, maps and neighbours, against what they must be."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from tacit.data import open_source
from tacit.report import maps as maps_room
from tacit.report import outcome
from tacit.report.build import _names
from tacit.report.charts import HEIGHT, LEFT, RIGHT, TOP, WIDTH, Series, line_chart
from tacit.report.features import nearest
from tacit.report.maps import _pca, _shown_classes, _with_room, maps
from tacit.report.markup import Html, tag, visible
from tacit.report.numbers import duration, flat, short, size
from tacit.report.pictures import Thumbnails, data_uri
from tacit.report.sample import Sample
from tacit.run import Run


def chart(*ys, log=False):
    series = [Series(f"run {i}", np.arange(1.0, len(y) + 1), np.array(y, dtype=float)) for i, y in enumerate(ys)]
    return line_chart(series, title="Loss", x_label="step", y_label="loss", log=log)


def sample(x: np.ndarray, labels: np.ndarray | None = None, classes: list[str] | None = None) -> Sample:
    pictures = np.random.default_rng(0).integers(0, 255, (len(x), 16, 16, 3), dtype=np.uint8)
    thumbnails = Thumbnails(open_source(pictures), np.arange(len(x)))
    return Sample(x.astype("f4"), [f"{i}.png" for i in range(len(x))], labels, classes, thumbnails, len(x), 0)


def test_a_line_goes_from_corner_to_corner():
    drawn = chart([0.0, 5.0, 10.0])
    bottom = HEIGHT - 40
    assert f'd="M{LEFT:.1f} {bottom:.1f}L{(LEFT + WIDTH - RIGHT) / 2:.1f} {(TOP + bottom) / 2:.1f}' in drawn
    assert "0 at first, 10 at last, from 0 to 10" in drawn


def test_a_log_axis_spaces_decades_evenly_and_leaves_out_what_is_not_positive():
    drawn = chart([1.0, 10.0, 100.0, 0.0], log=True)
    middle = (TOP + HEIGHT - 40) / 2
    assert f" {middle:.1f}L" in drawn
    assert ">100<" in drawn
    assert "nan" not in drawn


@pytest.mark.parametrize(
    "y", [[3.0], [3.0, 3.0, 3.0], [0.0, 0.0], [1e-30, 2e-30], [1e12, 1.0], [-5.0, 5.0], [1e6, 1e6 + 1]]
)
def test_every_curve_gives_a_chart(y):
    drawn = chart(y)
    assert "nan" not in drawn
    assert drawn.count("<text") >= 4


def test_gaps_and_lone_points():
    drawn = chart([1.0, 2.0, np.nan, 4.0, np.inf, 6.0, 7.0])
    assert drawn.count('class="line k0"') == 2
    assert drawn.count("<circle") == 1
    assert "nan" not in drawn.lower()
    assert "No value is a number" in chart([np.nan, np.inf])


def test_a_run_without_the_quantity_leaves_the_others():
    drawn = chart([1.0, 2.0], [])
    assert "run 1: not logged" in drawn


def test_long_curves_are_thinned():
    assert len(chart(np.sin(np.arange(100_000)))) < 8000


def test_numbers_as_people_read_them():
    assert [short(v) for v in (0.03124, 12.53, 1250, 48_000, 3e6, float("nan"))] == [
        "0.0312", "12.5", "1,250", "48k", "3M", "not a number",
    ]  # fmt: skip
    assert size(3 * 2**29) == "1.5 GiB"
    assert (duration(59), duration(125), duration(7260)) == ("59 s", "2 min 05 s", "2 h 01 min")
    assert flat({"a": {"b": [1, 2]}, "c": None, "d": {}}) == [("a.b", "1, 2"), ("c", "none"), ("d", "none")]


def test_text_becomes_markup_in_one_place():
    assert tag("p", "<b>", Html("<i></i>"), title='"') == '<p title="&quot;">&lt;b&gt;<i></i></p>'
    assert visible("a\u202e\n\u2028\udc80é") == "a\\u202e\\n\\u2028\\udc80é"


def test_neighbours_by_brute_force():
    x = np.random.default_rng(0).normal(size=(30, 5))
    rows, cosine = nearest(x, np.array([4, 7]), 3)
    for query, found, values in zip((4, 7), rows, cosine, strict=True):
        each = [
            -2 if i == query else x[i] @ x[query] / np.linalg.norm(x[i]) / np.linalg.norm(x[query]) for i in range(30)
        ]
        assert list(found) == list(np.argsort(each)[::-1][:3])
        assert values == pytest.approx(sorted(each)[::-1][:3])
    rows, cosine = nearest(x[:3], np.array([0, 2]), 8)
    assert [sorted(found) for found in rows] == [[1, 2], [0, 1]]
    assert np.isfinite(cosine).all()


def test_pca_keeps_what_varies():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 1)) * [3.0, 0, 0] + rng.normal(size=(50, 1)) * [0, 1.0, 0]
    flat_x, kept = _pca(x - x.mean(0))
    assert kept == pytest.approx(1)
    assert np.abs(flat_x[:, 0]).max() == flat_x[:, 0].max()
    assert np.ptp(flat_x[:, 0]) > np.ptp(flat_x[:, 1])


def test_collapsed_or_few_features_have_no_map_and_say_so():
    assert "collapsed" in maps(sample(np.ones((40, 8))), seed=0, thumbnails=5)
    assert "too few" in maps(sample(np.random.default_rng(0).normal(size=(4, 8))), seed=0, thumbnails=5)


def test_umap_is_drawn_where_it_is_installed(monkeypatch):
    class UMAP:
        def __init__(self, random_state, n_neighbors):
            assert n_neighbors == 11

        def fit_transform(self, flat_x):
            return flat_x[:, :2]

    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=UMAP))
    monkeypatch.setattr(maps_room, "find_spec", lambda name: object())
    drawn = maps(sample(np.random.default_rng(0).normal(size=(12, 8))), seed=0, thumbnails=5)
    assert "Map by UMAP" in drawn
    assert "pip install" not in drawn


def test_many_classes_share_the_last_colour(monkeypatch):
    monkeypatch.setattr(maps_room, "find_spec", lambda name: None)
    labels = np.repeat(np.arange(12), np.arange(12, 0, -1))
    drawn = sample(np.random.default_rng(0).normal(size=(len(labels), 4)), labels, [f"kind {c}" for c in range(12)])
    assert list(_shown_classes(drawn)) == list(range(9))
    page = maps(drawn, seed=0, thumbnails=3)
    assert "3 other classes" in page
    assert "kind 8" in page


def test_pictures_on_a_map_do_not_cover_one_another():
    spots = np.random.default_rng(0).uniform(0, 480, (500, 2))
    chosen = _with_room(spots, 70)
    apart = np.abs(spots[chosen][:, None] - spots[chosen][None]).max(-1) + 1000 * np.eye(len(chosen))
    assert 20 < len(chosen) <= 70
    assert apart.min() >= maps_room.THUMB


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_any_number_of_channels_is_a_picture(channels):
    assert data_uri(np.zeros((20, 30, channels), np.uint8), longest=16).startswith("data:image/jpeg;base64,")
    assert data_uri(np.full((20, 30, channels), np.nan, np.float32)).startswith("data:image/jpeg;base64,")


def test_runs_are_told_apart_by_the_end_of_their_paths(tmp_path):
    runs = [SimpleNamespace(path=tmp_path / p) for p in ("x/run", "y/run")]
    assert _names(runs) == ["x/run", "y/run"]
    assert _names(runs[:1]) == ["run"]
    assert len(set(_names([runs[0], runs[0]]))) == 2


def test_long_settings_are_told_by_their_beginning_and_compared_whole(tmp_path):
    words = [f"word{i}" for i in range(2_000)]
    assert dict(flat({"settings": {"vocabulary": words, "share": None}})) == {
        "settings.vocabulary": f"{', '.join(words[:10])}, … (2,000 in all)",
        "settings.share": "none",
    }
    runs = []
    for name, last in (("a", "end"), ("b", "stop")):
        (tmp_path / name).mkdir()
        told = {"method": "vatt", "settings": {"vocabulary": [*words, last]}}
        (tmp_path / name / "settings.yaml").write_text(yaml.safe_dump(told))
        runs.append(Run(tmp_path / name))
    page = str(outcome._differences(["a", "b"], runs))
    assert "settings.vocabulary" in page
    assert "method" not in page
    assert "word500" not in page
