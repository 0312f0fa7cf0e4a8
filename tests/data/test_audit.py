"""The audit of a folder: who is asked, what is kept, in which order, again after a stop, and with which licence."""

import csv
import hashlib
import importlib
import json
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tacit import api
from tacit.data import open_source
from tacit.data.audit import Stage, audit
from tacit.data.audit.audit import wilson
from tacit.data.audit.duplicates import Near, looks
from tacit.data.picture import Picture
from tacit.errors import DataError, RunFailed, UsageError

# Detectors as a user would write them: the score is the brightness of the first pixel's red (face) or green (person).
DETECTORS = """
__version__ = "1.0"
asked = []

def face(pixels):
    asked.append("face")
    return pixels[0, 0, 0] / 200

def person(pixels):
    asked.append("person")
    return [pixels[0, 0, 1] / 200, 0.1]

def none(pixels):
    return []

def fails(pixels):
    raise OSError("no weights")

def nothing(pixels):
    return float("nan")
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "mine_audit.py").write_text(DETECTORS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mine_audit", raising=False)
    importlib.invalidate_caches()
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("mine_audit")
    sys.modules.pop("mine_audit", None)
    for stage in (FACE, PERSON):
        stage.__dict__.pop("_function", None)


FACE, PERSON = Stage("face", "mine_audit:face", ">", 0.5), Stage("person", "mine_audit:person", ">=", 0.5)


def picture(path, red: int = 0, green: int = 0, seed: int = 0):
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    pixels[0, 0] = red, green, 0
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def photos(tmp_path):
    """Scores (face, person): a 0, 0; b .5, 0; c .505, 1; d 0, .5; e 0, .495."""
    for i, (name, red, green) in enumerate(
        [("a.png", 0, 0), ("b.png", 100, 0), ("c.png", 101, 200), ("sub/d.png", 0, 100), ("sub/e.png", 0, 99)]
    ):
        picture(tmp_path / "photos" / name, red, green, seed=i)
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    (tmp_path / "photos" / ".hidden.png").write_bytes(b"")
    return tmp_path / "photos"


def rows(path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as f:
        return list(csv.DictReader(f))


def kept(out) -> list[str]:
    return [row["path"] for row in rows(out / "kept.csv")]


def rejected(out) -> dict[str, str]:
    return {row["path"]: row["reason"] for row in rows(out / "rejected.csv")}


def test_a_face_rejects_above_and_a_person_from_the_threshold_on(photos, tmp_path, mine):
    audit(photos, tmp_path / "out", [FACE, PERSON])
    assert kept(tmp_path / "out") == ["../photos/a.png", "../photos/b.png", "../photos/sub/e.png"]
    assert rejected(tmp_path / "out") == {"c.png": "face", "sub/d.png": "person"}
    assert [r["detail"] for r in rows(tmp_path / "out" / "rejected.csv")] == ["0.505 > 0.5", "0.5 >= 0.5"]
    # c was rejected by the first stage, so the second was asked for the other four only
    assert mine.asked.count("face") == 5
    assert mine.asked.count("person") == 4


def test_both_lists_together_are_the_folder_in_its_order(photos, tmp_path, mine):
    found = audit(photos, tmp_path / "out", [FACE, PERSON])
    names = [v.name for v in found.verdicts]
    assert names == ["a.png", "b.png", "c.png", "sub/d.png", "sub/e.png"]
    both = [k.removeprefix("../photos/") for k in kept(tmp_path / "out")], list(rejected(tmp_path / "out"))
    assert sorted(both[0] + both[1]) == names
    assert not set(both[0]) & set(both[1])
    assert all(part == sorted(part) for part in both)


def test_what_is_kept_is_data(photos, tmp_path, mine):
    audit(photos, tmp_path / "deep" / "out", [FACE, PERSON])
    source = open_source(tmp_path / "deep" / "out" / "kept.csv")
    assert len(source) == 3
    np.testing.assert_array_equal(source[2]["image"].array()[0, 0], [0, 99, 0])
    assert source.labels is None


def test_the_same_again_asks_nobody_and_writes_the_same(photos, tmp_path, mine):
    audit(photos, tmp_path / "out", [FACE, PERSON])
    first = {p.name: p.read_bytes() for p in (tmp_path / "out").glob("[kpr]*")}
    mine.asked.clear()
    audit(photos, tmp_path / "out", [FACE, PERSON])
    assert mine.asked == []
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").glob("[kpr]*")} == first
    picture(photos / "a.png", 150, seed=9)  # a changed file is looked at again, and no other
    audit(photos, tmp_path / "out", [FACE, PERSON])
    assert mine.asked == ["face"]
    assert rejected(tmp_path / "out")["a.png"] == "face"


def test_another_threshold_needs_no_detector_and_another_version_does(photos, tmp_path, mine):
    audit(photos, tmp_path / "out", [FACE])
    mine.asked.clear()
    audit(photos, tmp_path / "out", [Stage("face", "mine_audit:face", ">=", 0.5)])
    assert mine.asked == []
    assert rejected(tmp_path / "out") == {"b.png": "face", "c.png": "face"}
    mine.__version__ = "2.0"
    audit(photos, tmp_path / "out", [Stage("face", "mine_audit:face", ">", 0.5)])
    assert mine.asked == ["face"] * 5


def test_an_audit_that_was_stopped_goes_on(photos, tmp_path, mine, monkeypatch):
    whole = audit(photos, tmp_path / "whole", [FACE, PERSON]).provenance

    def stop(what, done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        audit(photos, tmp_path / "out", [FACE, PERSON], progress=stop)
    assert not (tmp_path / "out" / "kept.csv").exists()
    facts = tmp_path / "out" / "facts.jsonl"
    facts.write_text(facts.read_text() + '{"name": "sub/d.p')  # killed in the middle of a line
    mine.asked.clear()
    assert audit(photos, tmp_path / "out", [FACE, PERSON]).provenance == whole
    assert mine.asked == ["face", "person"] * 2
    assert (tmp_path / "out" / "kept.csv").read_bytes() == (tmp_path / "whole" / "kept.csv").read_bytes()


def test_unreadable_files_and_duplicates(photos, tmp_path):
    (photos / "b copy.png").write_bytes((photos / "b.png").read_bytes())
    (photos / "broken.png").write_bytes((photos / "a.png").read_bytes()[:300])
    (photos / "page.jpg").write_bytes(b"<html>")
    (photos / "gone.png").symlink_to(photos / "nowhere.png")
    audit(photos, tmp_path / "out")
    found = {r["path"]: (r["reason"], r["detail"]) for r in rows(tmp_path / "out" / "rejected.csv")}
    assert found == {
        "b.png": ("duplicate", "the bytes of b copy.png"),
        "broken.png": ("unreadable", "truncated"),
        "gone.png": ("unreadable", "broken link"),
        "page.jpg": ("unreadable", "not an image (looks like HTML or XML)"),
    }
    assert len(kept(tmp_path / "out")) == 5


def test_look_alikes_survive_scaling_and_compression_and_flat_pictures_are_like_none(tmp_path):
    waves = np.add.outer(np.sin(np.arange(64) / 9), np.cos(np.arange(64) / 13))
    image = Image.fromarray(((waves + 2) * 60).astype(np.uint8)).convert("RGB")
    for name, other in (("1.png", image), ("2.jpg", image), ("3.png", image.resize((40, 40)))):
        (tmp_path / "p").mkdir(exist_ok=True)
        other.save(tmp_path / "p" / name)
    image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "p" / "4.png")
    for name, value in (("flat.png", 40), ("pale.png", 200)):
        Image.new("RGB", (64, 64), (value,) * 3).save(tmp_path / "p" / name)
    audit(tmp_path / "p", tmp_path / "out")
    assert len(kept(tmp_path / "out")) == 6
    audit(tmp_path / "p", tmp_path / "out", near=4)
    assert rejected(tmp_path / "out") == {"2.jpg": "near duplicate", "3.png": "near duplicate"}
    assert "like 1.png" in rows(tmp_path / "out" / "rejected.csv")[0]["detail"]
    assert looks(Picture(np.full((9, 9, 3), 7, np.uint8))) is None


def test_every_near_pair_is_found_whichever_bits_differ():
    rng = np.random.default_rng(0)
    for distance in (0, 3, 7):
        near = Near(distance)
        base = int(rng.integers(2**62))
        assert near.meet(base, "first") is None
        for _ in range(50):
            flipped = rng.choice(64, distance + 1, replace=False).tolist()
            close = base
            for bit in flipped[:distance]:
                close ^= 1 << bit
            assert near.meet(close, "close") == ("first", distance)
            far = close ^ (1 << flipped[distance])
            assert Near(distance, seen=[]).meet(far, "far") is None
            assert (far ^ base).bit_count() == distance + 1


def metadata(path, names, **columns):
    table = {"path": names, "author": [f"who {i}" for i in range(len(names))], "licence": ["CC-BY"] * len(names)}
    table |= columns
    with open(path, "w", encoding="utf-8", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(table)
        writer.writerows(zip(*table.values(), strict=True))
    return path


NAMES = ["a.png", "b.png", "c.png", "sub/d.png", "sub/e.png"]


def test_every_kept_file_has_its_author_and_licence(photos, tmp_path):
    table = metadata(tmp_path / "m.csv", [*NAMES, "other.png"], title=['say "hi", you', *"bcdef"])
    result = audit(photos, tmp_path / "out", metadata=table).provenance
    found = rows(tmp_path / "out" / "kept.csv")
    assert [r["author"] for r in found] == [f"who {i}" for i in range(5)]
    assert {r["licence"] for r in found} == {"CC-BY"}
    assert found[0]["title"] == 'say "hi", you'
    assert result["metadata"]["licences"] == {"CC-BY": 5}
    assert result["metadata"]["rows_without_a_file"] == 1
    assert len(open_source(tmp_path / "out" / "kept.csv")) == 5


def test_a_file_without_a_row_stops_the_audit_or_is_rejected(photos, tmp_path, mine):
    table = metadata(tmp_path / "m.csv", NAMES[:4])
    with pytest.raises(DataError, match=r"1 of 5 files have no author or licence .*sub/e.png: no row in m.csv"):
        audit(photos, tmp_path / "out", [FACE], metadata=table)
    assert not (tmp_path / "out" / "kept.csv").exists()
    audit(photos, tmp_path / "out", [FACE], metadata=table, unlicensed="reject")
    assert rejected(tmp_path / "out") == {"c.png": "face", "sub/e.png": "no licence"}
    metadata(tmp_path / "m.csv", NAMES, licence=["CC-BY", "", *["CC0"] * 3])
    with pytest.raises(DataError, match=r"b.png: no licence in m.csv"):
        audit(photos, tmp_path / "out", [FACE], metadata=table)


def test_or_is_kept_and_counted(photos, tmp_path):
    table = tmp_path / "m.csv"
    table.write_text("path,label\na.png,cat\nb.png,dog\n")
    with pytest.raises(DataError, match="no column of authors"):
        audit(photos, tmp_path / "out", metadata=table)
    told = audit(photos, tmp_path / "out", metadata=table, unlicensed="keep").provenance
    assert told["metadata"]["kept_without"] == told["kept"] == 5
    assert [r["metadata_label"] for r in rows(tmp_path / "out" / "kept.csv")] == ["cat", "dog", "", "", ""]
    assert open_source(tmp_path / "out" / "kept.csv").labels is None


@pytest.mark.parametrize("kind", ["md5", "sha256", "stem"])
def test_rows_are_found_by_hash_as_pass_has_them(photos, tmp_path, kind):
    paths = sorted(photos.rglob("[a-e].png"))
    keys = [p.stem if kind == "stem" else hashlib.new(kind, p.read_bytes()).hexdigest() for p in paths]
    table = pa.table({"hash": keys, "unickname": ["me"] * 5, "datetaken": ["2014"] * 5})
    pq.write_table(table, tmp_path / "m.parquet")
    with pytest.raises(DataError, match=r"no column of licences .*call one 'licence'"):
        audit(photos, tmp_path / "out", metadata=tmp_path / "m.parquet")
    for _ in range(2):
        result = audit(photos, tmp_path / "out", metadata=tmp_path / "m.parquet", licence="CC-BY")
        assert result.provenance["kept"] == 5
    assert rows(tmp_path / "out" / "kept.csv")[0]["hash"] == keys[0]
    pq.write_table(table.slice(1), tmp_path / "m.parquet")
    with pytest.raises(DataError, match=r"1 of 5 files .*a.png: no row"):
        audit(photos, tmp_path / "out", metadata=tmp_path / "m.parquet", licence="CC-BY")


def test_two_rows_of_one_file_must_agree(photos, tmp_path):
    with pytest.raises(DataError, match=r"two rows say different things of 'a.png', the second is row 7"):
        audit(photos, tmp_path / "out", metadata=metadata(tmp_path / "m.csv", [*NAMES, "a.png"]))


def test_removals_take_copies_with_them(photos, tmp_path):
    (photos / "z.png").write_bytes((photos / "a.png").read_bytes())
    (tmp_path / "v3.txt").write_text("a\nsub/e.png\nunknown\n")
    audit(photos, tmp_path / "out", remove=tmp_path / "v3.txt", source="PASS v3")
    assert rejected(tmp_path / "out") == {"a.png": "removed", "sub/e.png": "removed", "z.png": "duplicate"}
    told = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert told["source"] == "PASS v3"
    assert told["removals"]["rows"] == 3


def test_how_many_the_detectors_miss(photos, tmp_path, mine):
    table = metadata(tmp_path / "m.csv", NAMES, people=["0", "1", "yes", "1", ""])
    told = audit(photos, tmp_path / "out", [FACE, PERSON], metadata=table, truth="people").provenance["recall"]
    assert (told["marked"], told["clear"], told["missed"]) == (3, 1, ["b.png"])
    assert (told["found"]["count"], told["found"]["of"]) == (2, 3)
    assert {name: found["count"] for name, found in told["found_by"].items()} == {"face": 1, "person": 1}
    assert told["rejected_of_clear"]["count"] == 0
    metadata(tmp_path / "m.csv", NAMES, people=["maybe"] * 5)
    with pytest.raises(DataError, match="'maybe' is neither yes nor no"):
        audit(photos, tmp_path / "out", [FACE], metadata=table, truth="people")


def test_wilsons_interval():
    found = wilson(8, 10)
    assert (found["low"], found["high"]) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson(0, 0) is None


def test_provenance_says_how(photos, tmp_path, mine):
    told = audit(photos, tmp_path / "out", [FACE, PERSON], near=2).provenance
    assert told["stages"] == [
        {"name": "face", "detector": "mine_audit:face", "version": "1.0", "rejects": "score > 0.5", "asked": 5,
         "rejected": 1},
        {"name": "person", "detector": "mine_audit:person", "version": "1.0", "rejects": "score >= 0.5", "asked": 4,
         "rejected": 1},
    ]  # fmt: skip
    assert told["near"]["bits"] == 2
    assert (told["files"], told["kept"], told["rejected"]) == (5, 3, {"face": 1, "person": 1})
    assert told["kept.csv"] == hashlib.sha256((tmp_path / "out" / "kept.csv").read_bytes()).hexdigest()
    assert set(told["versions"]) == {"python", "numpy", "pillow"}


def test_a_detector_that_fails_stops_and_nothing_passes(photos, tmp_path, mine):
    for function, words in (("fails", "OSError: no weights"), ("nothing", "no number")):
        with pytest.raises(RunFailed, match=words):
            audit(photos, tmp_path / "out", [Stage("face", f"mine_audit:{function}")])
    assert not (tmp_path / "out" / "kept.csv").exists()
    assert audit(photos, tmp_path / "out", [Stage("face", "mine_audit:none")]).provenance["kept"] == 5


def test_how_a_detector_is_named(mine):
    assert Stage.parse("face=mine_audit:face") == FACE
    assert Stage.parse("person = mine_audit:person") == PERSON
    assert Stage.parse("mine_audit:face >= 0.25") == Stage("face", "mine_audit:face", ">=", 0.25)
    assert Stage.parse("nsfw=a.b:c>1e-3") == Stage("nsfw", "a.b:c", ">", 0.001)
    for text, words in (("mine_audit", "write NAME="), ("nsfw=a:b", "from which score on"), ("x=a:b>..", "no number")):
        with pytest.raises(UsageError, match=words):
            Stage.parse(text)
    with pytest.raises(UsageError, match="no module 'not_there'"):
        _ = Stage("x", "not_there:f").version
    with pytest.raises(UsageError, match="has no function 'g'"):
        _ = Stage("x", "mine_audit:g").version


def test_options_that_do_not_go_together(photos, tmp_path):
    for wrong, words in (
        ({"near": 40}, "near = 40"), ({"truth": "x"}, "go with metadata"), ({"unlicensed": "no"}, "reject or keep"),
        ({"stages": [FACE, FACE]}, "a name of its own"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=words):
            audit(photos, tmp_path / "out", **wrong)
    with pytest.raises(DataError, match="no folder of images"):
        audit(tmp_path / "none", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_verb(photos, tmp_path, mine, monkeypatch, capsys):
    from tacit import cli

    monkeypatch.setattr(sys, "argv", [
        "tacit", "audit", str(photos), "--out", str(tmp_path / "out"), "--detector", "face=mine_audit:face",
        "--detector", "person=mine_audit:person",
    ])  # fmt: skip
    with pytest.raises(SystemExit) as stop:
        cli.main()
    said = capsys.readouterr().out
    assert stop.value.code == 0
    assert "3 of 5 files kept" in said
    assert "1 rejected: face" in said
    assert api.audit(photos, tmp_path / "out", detector=["face=mine_audit:face"])["kept"] == 4
