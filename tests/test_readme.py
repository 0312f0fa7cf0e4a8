"""The README's table of methods is what the code says."""

import re
from pathlib import Path

from tacit.api import methods_table

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_table_of_methods_is_made_by_the_code():
    rows = [f"| `{m['name']}` | {m['modality']} | {m['family']} | {m['paper']} |" for m in methods_table()]
    (table,) = re.findall(r"<!-- made by .*?-->\n\| method .*?\n\|---\S*\n(.*?)\n<!-- end -->", README, re.S)
    assert table.splitlines() == rows
