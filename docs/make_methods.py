"""Writes docs/methods.md from the methods themselves: python docs/make_methods.py

A test compares the page with what this would write.
"""

from __future__ import annotations

import inspect
from pathlib import Path

from tacit.api import methods_table
from tacit.methods import find

PAGE = Path(__file__).with_name("methods.md")
README = PAGE.parents[1] / "README.md"
HEAD = """# Which methods are there?

Made by `python docs/make_methods.py` from the code; `tacit methods NAME` prints the same.

Each method has two presets: `paper`, as published, and `small`, for some thousand small inputs and one CPU or GPU. An
empty cell under `small` means: as in `paper`. Any setting can be changed by `--set FIELD=VALUE`; two numbers are
written `a,b`, and `--set clip=` stands for none.
"""


def render() -> str:
    """A table of all, and one section a method: what its file says it is, and every setting in both presets."""
    rows = methods_table()
    parts = [HEAD, "| method | modality | family | paper |\n|---|---|---|---|"]
    parts += [f"| [`{r['name']}`](#{r['name']}) | {r['modality']} | {r['family']} | {r['paper']} |" for r in rows]
    for row in rows:
        module = inspect.getmodule(find(row["name"]))
        path = module.__name__.replace(".", "/") + ".py"
        parts += [f"\n## {row['name']}\n\n{inspect.getdoc(module)}\n", f"The method's file: [{path}](../{path})."]
        if row["needs"]:
            parts.append(f"Its encoder must offer: {', '.join(row['needs'])}.")
        parts.append("\n| setting | `paper` | `small` | allowed | what it is |\n|---|---|---|---|---|")
        parts += [_setting(row, setting) for setting in row["settings"]]
    return "\n".join(parts) + "\n"


def _setting(row: dict, setting: dict) -> str:
    paper, small = (row["presets"][preset][setting["name"]] for preset in ("paper", "small"))
    cells = [f"`{setting['name']}`", _cell(paper), "" if small == paper else _cell(small), setting["allowed"]]
    return f"| {' | '.join([*cells, setting['help']])} |"


def _cell(value: object) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value)) or "none"
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def table() -> str:
    """The README's."""
    return "\n".join(f"| `{m['name']}` | {m['modality']} | {m['family']} | {m['paper']} |" for m in methods_table())


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
    readme = README.read_text(encoding="utf-8")
    start = readme.index("<!-- made by")
    start = readme.index("|---|---|---|---|\n", start) + len("|---|---|---|---|\n")
    end = readme.index("\n<!-- end -->", start)
    README.write_text(readme[:start] + table() + readme[end:], encoding="utf-8")
