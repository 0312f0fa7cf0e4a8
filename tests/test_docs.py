"""The pages say what the code says, and lead somewhere."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_page_of_methods_is_up_to_date():
    spec = importlib.util.spec_from_file_location("make_methods", ROOT / "docs" / "make_methods.py")
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    assert maker.PAGE.read_text(encoding="utf-8") == maker.render(), "run: python docs/make_methods.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_between_pages_resolve(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        assert target.startswith("http") or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_on_the_pages_have_the_flags_they_show(page):
    from typer.main import get_command

    from tacit.cli import app

    verbs = get_command(app).commands
    for verb, arguments in re.findall(r"^tacit (\w+) ([^#\n]*)", page.read_text(encoding="utf-8"), re.M):
        assert verb in verbs, verb
        known = {flag for parameter in verbs[verb].params for flag in parameter.opts}
        assert set(re.findall(r"--[\w-]+", arguments)) <= known, arguments
