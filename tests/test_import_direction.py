"""Imports point downwards only: a room may use the rooms below it, never those above or beside it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "tacit"
FLOORS = [
    ["cli"],
    ["api"],
    ["study"],
    ["methods"],
    ["engine"],
    ["evaluation"],
    ["export", "report"],
    ["objectives"],
    ["encoders"],
    ["heads", "teachers"],
    ["views"],
    ["data"],
    ["distributed", "precision", "run", "scores", "settings"],
    ["errors"],
]
FLOOR = {room: depth for depth, rooms in enumerate(FLOORS) for room in rooms}


def room_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "tacit" and len(parts) > 1 else None


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports in full"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {room for name in found if (room := room_of(name)) in FLOOR}


def files() -> list[Path]:
    return sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_downwards(path: Path):
    room = path.relative_to(ROOT).parts[0].removesuffix(".py")
    if room == "__main__":
        return
    assert room in FLOOR, f"{room} is on no floor; add it to FLOORS"
    for other in imported(path):
        assert other == room or FLOOR[other] > FLOOR[room], f"{room} may not import {other}: it lies above or beside it"


def test_the_rule_can_fail(tmp_path: Path):
    wrong = tmp_path / "queue.py"
    wrong.write_text("from tacit.engine import train\nimport tacit.methods.image.moby\n")
    assert imported(wrong) == {"engine", "methods"}
    assert FLOOR["engine"] < FLOOR["teachers"]
