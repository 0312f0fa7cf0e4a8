"""Writes docs/methods.md from the methods themselves: python docs/make_methods.py

A test compares the page with what this would write.
"""

from __future__ import annotations

import inspect
from pathlib import Path

from tacit.api import methods_table
from tacit.methods import find

PAGE = Path(__file__).with_name("methods.md")


def render() -> str:
    """One section a method: what its file says it is, its paper, and every setting in both presets."""
    parts = ["# Methods\n\nMade by `python docs/make_methods.py` from the code.\n"]
    for row in methods_table():
        about = inspect.getdoc(inspect.getmodule(find(row["name"])))
        parts.append(f"## {row['title']} (`{row['name']}`)\n\n{about}\n\n{row['paper']}\n")
        parts.append("| setting | paper | small | what it is |\n|---|---|---|---|")
        for setting in row["settings"]:
            paper, small = (row["presets"][preset][setting["name"]] for preset in ("paper", "small"))
            changed = "" if small == paper else _cell(small)
            parts.append(f"| `{setting['name']}` | {_cell(paper)} | {changed} | {setting['help']} |")
    return "\n".join(parts) + "\n"


def _cell(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
