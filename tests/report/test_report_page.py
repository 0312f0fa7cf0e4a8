"""The whole page: complete, self-contained, and unbroken by anything a file name or a setting can hold."""

import csv
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from tacit import encoders
from tacit.data import open_source
from tacit.errors import DataError, UsageError
from tacit.report import maps as maps_room
from tacit.report import report
from tacit.report.features import features_section, neighbours_section
from tacit.report.page import page
from tacit.report.pictures import Thumbnails
from tacit.report.sample import Sample

SCRIPT = '"><script>alert(1)</script>.png'
HOSTILE = [
    SCRIPT,
    "javascript:alert(1).png",
    "&lt;b&gt;.png",
    "\u202egnp.exe.png",
    "line\nbreak.png",
    "' onload='x.png",
]
VOID = {"br", "img", "meta"}


class Checked(HTMLParser):
    """What a browser would make of the page: elements, attributes, text; and whether all of it closes."""

    def __init__(self, text: str):
        super().__init__()
        self.elements, self.text, self.open = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]


@pytest.fixture(autouse=True)
def _quick(monkeypatch, tmp_path):
    monkeypatch.setenv("TACIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(maps_room, "find_spec", lambda name: None)  # UMAP takes seconds to import


@pytest.fixture
def photos(tmp_path) -> Path:
    """24 pictures, some under names that try to break out."""
    folder, rng = tmp_path / "photos", np.random.default_rng(0)
    for i in range(24):
        file = folder / (HOSTILE[i] if i < len(HOSTILE) else f"{i}.png")
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(file, "PNG")
    return folder


def make_run(folder: Path, data: Path, *, loss: float = 2.0, verdict: str = "healthy", hostile: str = "plain") -> Path:
    folder.mkdir(parents=True)
    settings = {
        "method": "moby", "preset": "small", "data": [str(data)], "seed": 3,
        "settings": {"encoder": "vit_mini", "lr": 1e-3 * loss, "note": hostile, hostile: [1, 2]},
    }  # fmt: skip
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings, allow_unicode=True), encoding="utf-8")
    (folder / "environment.json").write_text(json.dumps({"python": "3.11", "command": ["tacit", hostile]}))
    summary = {"steps": 40, "loss": loss, "throughput": 123.4, "data_wait": 0.02, "peak_memory": 2**30, "bad_files": 2,
               "verdict": verdict, "seconds": 75.0}  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary))
    with open(folder / "metrics.csv", "w", encoding="utf-8", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(["step", "loss", "loss/q1k2", "lr", "grad_norm", hostile])
        writer.writerows([s, loss + 10 / s, loss / 2, 1e-3 * s, 10.0 ** (s % 4), 0.5] for s in range(1, 41))
    with open(folder / "bad_files.csv", "w", encoding="utf-8", newline="") as f:
        writer = csv.writer(f)
        writer.writerows([["name", "reason"], *([n, f"truncated {hostile}"] for n in HOSTILE)])
    views = np.random.default_rng(1).integers(0, 255, (2, 3, 32, 32, 3), dtype=np.uint8)
    np.savez_compressed(folder / "views.npz", views=views, names=np.array(["weak", hostile]))
    if loss == 2.0:  # one of two kinds of run
        np.savez_compressed(folder / "reconstructions.npz", views=views, names=np.array(["input", hostile]))
    (folder / "evaluations").mkdir()
    score = {
        "protocol": "knn",
        "metric": "top1",
        "value": 0.81,
        "low": 0.8,
        "high": 0.82,
        "n": 2000,
        "settings": {"k": 20},
    }
    results = [{**score, "of": of} for of in ("run", "random-init", "raw-input")]
    found = {"encoder": hostile, "data": hostile, "split": "test set", "results": results}
    (folder / "evaluations" / "1.json").write_text(json.dumps(found))
    torch.manual_seed(0)
    encoders.save(encoders.build("vit_mini", size=32), folder / "encoder")
    return folder


def read(path: Path) -> tuple[str, Checked]:
    text = path.read_text(encoding="utf-8")
    return text, Checked(text)


def check_safe(text: str, found: Checked) -> None:
    """Nothing runs, nothing is fetched, nothing was injected."""
    assert found.open == []
    assert {tag for tag, _ in found.elements}.isdisjoint(
        {"script", "iframe", "object", "embed", "form", "link", "base"}
    )
    for tag, attrs in found.elements:
        assert not any(name.startswith("on") for name in attrs), (tag, attrs)
        for name in ("src", "href"):
            if name in attrs:
                assert attrs[name].startswith(("#", "data:image/jpeg;base64,")), (tag, attrs)
    policies = [m["content"] for m in found.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policies[0].startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'")
    assert "url(" not in text
    assert "@import" not in text


def test_a_run_on_one_page(tmp_path, photos):
    run = make_run(tmp_path / "run", photos)
    path = report([run], tmp_path / "out" / "page.html", limit=20)
    text, found = read(path)
    check_safe(text, found)
    words = " ".join(found.text)
    for expected in (
        "Report: run", "healthy", "81.0 %", "80.0 to 82.0", "random init", "Loss", "loss/q1k2", "Learning rate",
        "RankMe", "Map by PCA", "Map by t-SNE", "20 records, drawn by chance out of 24", "weak", "6 skipped",
        "1 min 15 s", "1 GiB", "vit_mini", "tacit pretrain --config", "Reconstructions", "input",
    ):  # fmt: skip
        assert expected in words, expected
    assert not list(path.parent.glob(".*"))
    assert not found.all("audio")  # of pictures


def test_it_can_be_read_by_everyone(tmp_path, photos):
    _, found = read(report([make_run(tmp_path / "run", photos)], tmp_path / "page.html", limit=20))
    assert found.all("html")[0]["lang"] == "en"
    assert found.all("h1")
    assert len(found.all("h1")) == 1
    assert all(th.get("scope") in ("row", "col") for th in found.all("th"))
    assert all(image["alt"].strip() for image in found.all("img"))
    assert len(found.all("figcaption")) == len(found.all("figure")) > 6
    drawings = [attrs for tag, attrs in found.elements if tag == "svg"]
    assert all(d.get("role") == "img" or d.get("aria-hidden") == "true" for d in drawings)
    ids = [attrs["id"] for _, attrs in found.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for a in found.all("a")} <= set(ids)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_nothing_breaks_out(tmp_path, photos, hostile):
    run = make_run(tmp_path / hostile.replace("/", "_"), photos, verdict=hostile, hostile=hostile)
    text, found = read(report([run], tmp_path / "page.html", limit=20))
    check_safe(text, found)
    assert "alert(1)" in text
    assert "<script" not in text
    assert "\u202e" not in text
    assert "\\u202egnp.exe.png" in " ".join(found.text)
    assert "line\\nbreak.png" in " ".join(found.text)
    assert "&amp;lt;b&amp;gt;" in text


def test_several_runs_side_by_side(tmp_path, photos):
    runs = [make_run(tmp_path / part / "run", photos, loss=loss) for part, loss in (("a", 2.0), ("b", 3.0))]
    text, found = read(report(runs, tmp_path / "page.html", limit=15))
    check_safe(text, found)
    words = " ".join(found.text)
    for expected in ("2 runs", "a/run", "b/run", "Settings that differ", "settings.lr", "81.0 % (80.0 to 82.0)"):
        assert expected in words, expected
    assert 'class="line k1"' in text


def test_runs_that_reconstruct_nothing_have_no_such_section(tmp_path, photos):
    runs = [make_run(tmp_path / part, photos, loss=loss) for part, loss in (("a", 2.0), ("b", 3.0))]
    assert "Reconstructions" not in " ".join(read(report(runs[1:], tmp_path / "page.html", limit=15))[1].text)
    _, found = read(report(runs, tmp_path / "page.html", limit=15))
    alts = [image["alt"] for image in found.all("img")]
    assert sum("as input shows it" in alt for alt in alts) == 3  # of one run alone
    (runs[0] / "reconstructions.npz").write_bytes(b"PK\x03\x04 half a file")
    assert "No sample reconstructions" in " ".join(read(report(runs[:1], tmp_path / "page.html", limit=15))[1].text)


def test_what_is_missing_is_one_line_each(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "settings.yaml").write_text("method: moby\ndata: [nowhere]\nseed: 0\nsettings: {}\n")
    text, found = read(report([run], tmp_path / "page.html"))
    check_safe(text, found)
    words = " ".join(found.text)
    for expected in (
        "has not ended", "--resume", "No probe yet", "tacit evaluate", "Nothing was logged yet", "no features",
        "holds no encoder", "No sample views", "None: every record", "No environment.json",
    ):  # fmt: skip
        assert expected in words, expected


def test_data_that_has_moved_is_a_note_unless_it_was_asked_for(tmp_path, photos):
    run = make_run(tmp_path / "run", tmp_path / "moved")
    _, found = read(report([run], tmp_path / "page.html"))
    assert "does not exist" in " ".join(found.text)
    assert "--data PATH" in " ".join(found.text)
    with pytest.raises(DataError, match="does not exist"):
        report([run], tmp_path / "page.html", data=tmp_path / "moved")
    _, found = read(report([run], tmp_path / "page.html", data=photos))
    assert "Map by PCA" in " ".join(found.text)


def test_damaged_views_and_broken_losses_are_said(tmp_path, photos):
    run = make_run(tmp_path / "run", photos)
    (run / "views.npz").write_bytes(b"PK\x03\x04 half a file")
    (run / "metrics.csv").write_text("step,loss\n1,2.5\n2,nan\n3,nan\n")
    _, found = read(report([run], tmp_path / "page.html", limit=20))
    assert "cannot be read" in " ".join(found.text)
    assert "no number at step 2" in " ".join(found.text)


def test_calls_that_cannot_work(tmp_path, photos):
    with pytest.raises(UsageError, match="at least one run"):
        report([], tmp_path / "page.html")
    with pytest.raises(UsageError, match="holds no run"):
        report([tmp_path], tmp_path / "page.html")
    with pytest.raises(UsageError, match="is a folder"):
        report([make_run(tmp_path / "run", photos)], tmp_path)


def test_long_bad_file_lists_are_cut_and_counted(tmp_path, photos):
    run = make_run(tmp_path / "run", photos)
    (run / "bad_files.csv").write_text("name,reason\n" + "".join(f"file-{i:05d}.jpg,empty file\n" for i in range(1500)))
    _, found = read(report([run], tmp_path / "page.html", limit=20))
    words = " ".join(found.text)
    assert "1,500 skipped; the first 200" in words
    assert "file-00199.jpg" in words
    assert "file-00200.jpg" not in words


def test_two_thousand_records_of_noise_stay_below_five_megabytes(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "noise.npy", rng.integers(0, 255, (2000, 32, 32, 3), dtype=np.uint8))
    source = open_source(tmp_path / "noise.npy")
    names = [f"{i}-{'n' * 200}.png" for i in range(2000)]
    labels = rng.integers(0, 40, 2000)
    classes = [f"class {c}" for c in range(40)]
    thumbnails = Thumbnails(source, np.arange(2000))
    monkeypatch.setattr(maps_room, "_tsne", lambda flat, seed: flat[:, :2])
    samples = {
        f"run {r}": Sample(rng.normal(size=(2000, 64)).astype("f4"), names, labels, classes, thumbnails, 2000, 0)
        for r in range(4)
    }
    parts = [features_section(samples, seed=0), neighbours_section(samples, seed=0)]
    assert len(page("Report", "", parts).encode()) < 5e6
