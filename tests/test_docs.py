"""The pages say what the code says, run as they stand, and lead somewhere."""

import importlib.util
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from tacit.cli import app
from tacit.evaluation import parse
from tacit.methods import METHODS, find
from tacit.settings import with_assignments
from tests.conftest import write_digits

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)


def test_the_page_of_methods_is_up_to_date():
    spec = importlib.util.spec_from_file_location("make_methods", ROOT / "docs" / "make_methods.py")
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    assert maker.PAGE.read_text(encoding="utf-8") == maker.render(), "run: python docs/make_methods.py"


def test_the_index_names_every_page():
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    assert {p.name for p in (ROOT / "docs").glob("*.md")} - {"README.md"} == set(
        re.findall(r"\]\(([\w-]+\.md)\)", index)
    )


@every_page
def test_links_between_pages_resolve(page):
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", text):
        if target.startswith("http"):
            continue
        other = page.parent / target if target else page
        assert other.exists(), target
        if anchor:
            assert anchor in _anchors(other), f"{target}#{anchor}"


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text(encoding="utf-8")), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_commands_on_the_pages_are_ones_the_program_takes(page):
    text = page.read_text(encoding="utf-8")
    for _, block in FENCED.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            if found := re.match(r"(?:torchrun .*\$\(which )?tacit\)? (.*)", line):
                _parse(shlex.split(found[1], comments=True), whole=True)
    for line in re.findall(r"`tacit ([^`]+)`", FENCED.sub("", text)):
        _parse(shlex.split(line), whole=False)


def _parse(arguments: list[str], *, whole: bool) -> None:
    """As the program would, without running; in the middle of a sentence a command may leave out what it needs."""
    root = get_command(app)
    verb, rest = arguments[0], arguments[1:]
    if verb.startswith("-"):
        root.make_context("tacit", arguments, resilient_parsing=True)
        return
    assert verb in root.commands, arguments
    try:
        given = root.commands[verb].make_context(verb, rest, resilient_parsing="--help" in rest).params
    except Exception as error:
        if type(error).__name__ == "MissingParameter" and not whole:
            return
        raise AssertionError(f"tacit {shlex.join(arguments)}: {error}") from error
    if verb == "pretrain" and given["method"] in METHODS:
        cls = find(given["method"])
        assert given["preset"] in (None, *cls.presets), arguments
        with_assignments(cls.presets["paper"], [a for a in given["set"] or () if "…" not in a])
    if verb == "evaluate":
        for spec in given["protocol"].split(","):
            parse(spec)


def test_the_blocks_of_python_run_as_they_stand(tmp_path, monkeypatch):
    """One page after another in one folder, as a reader would try them."""
    for part in ("train", "test"):
        write_digits(tmp_path / "labelled" / part, 100)
    (tmp_path / "photos").mkdir()
    for file in sorted((tmp_path / "labelled" / "train").rglob("*.png"))[:64]:
        shutil.copy(file, tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "umap", None)  # not installed; where it is, it compiles itself for half a minute
    names = {}
    for page in ("python.md", "run-folder.md", "views.md"):
        text = (ROOT / "docs" / page).read_text(encoding="utf-8")
        for block in re.finditer(r"^```python\n(.*?)^```", text, re.M | re.S):
            above = text[: block.start(1)].count("\n")
            exec(compile("\n" * above + block[1], page, "exec"), names)
    assert names["run"].summary["steps"] == 2
    assert names["table"].num_rows == 64
    assert {s["of"] for s in names["result"]["results"]} == {"run", "random-init", "raw-input"}
    assert names["vectors"].shape == (2, 128)
    assert names["pixels"].shape == (32, 32, 3)
    assert (tmp_path / "report.html").is_file()
