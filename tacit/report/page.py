"""The page around the sections: one file that asks nothing of anyone else, and may not."""

from __future__ import annotations

from datetime import datetime

import tacit
from tacit.report.markup import Html, Section, join, tag
from tacit.report.style import STYLE

# Nothing may be fetched, run, framed or sent; pictures, sounds and styles come from inside the page.
POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; media-src data:; base-uri 'none'; form-action 'none'"
)


def page(title: str, intro: Html, sections: list[Section]) -> str:
    links = [tag("li", tag("a", s.title, href=f"#{s.anchor}")) for s in sections]
    head = join(
        [
            tag("meta", charset="utf-8"),
            tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("meta", name="color-scheme", content="light dark"),
            tag("title", title),
            tag("style", Html(STYLE)),
        ],
        "\n",
    )
    written = f"Written by Tacit {tacit.__version__} on {datetime.now():%Y-%m-%d at %H:%M}."
    body = join(
        [
            tag("header", tag("h1", title), intro, tag("nav", tag("ul", *links), aria_label="Sections")),
            tag("main", join([s.markup for s in sections], "\n")),
            tag("footer", tag("p", written, class_="quiet")),
        ],
        "\n",
    )
    whole = tag("html", tag("head", head), tag("body", body), lang="en")
    return f"<!doctype html>\n{whole}\n"
