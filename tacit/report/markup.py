"""HTML that cannot be broken into: text becomes markup in one place, and what was not escaped is not `Html`."""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Iterable
from typing import Any, NamedTuple

VOID = frozenset(["br", "circle", "image", "img", "line", "meta", "path", "rect"])
# Control characters, bidirectional overrides, line separators and lone surrogates can hide or reorder what a name says.
UNSEEN = frozenset(["Cc", "Cf", "Cs", "Zl", "Zp"])


class Html(str):
    """Markup that `tag` or `join` made. Every other string is text, and is escaped on its way in."""

    __slots__ = ()


def visible(text: Any) -> str:
    """`text` with every character that shows nothing written as its escape: a newline becomes `\\n`."""
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c) in UNSEEN else c for c in str(text)
    )  # fmt: skip


def escape(value: Any) -> Html:
    return value if isinstance(value, Html) else Html(html.escape(visible(value), quote=True))


def join(parts: Iterable[Any], between: str = "") -> Html:
    return Html(between.join(escape(part) for part in parts if part is not None))


def tag(element: str, *children: Any, **attributes: Any) -> Html:
    """`tag("th", "a < b", scope="col")`. `aria_label` is written aria-label, `class_` class; None is left out."""
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for name, value in attributes.items()
        if value is not None
    )
    if element in VOID and not children:
        return Html(f"<{element}{written}>" if element in ("br", "img", "meta") else f"<{element}{written}/>")
    return Html(f"<{element}{written}>{join(children)}</{element}>")


def name(text: Any) -> Html:
    """A name from outside: set apart, so that its writing direction stays its own."""
    return tag("bdi", text, class_="name")


def table(head: list[Any], rows: Iterable[list[Any]], *, caption: str) -> Html:
    """The first cell of every row is its heading. Scrolls sideways by itself where the screen is narrow.

    The caption stands outside of what scrolls, so that a narrow screen shows all of it.
    """
    top = tag("tr", *(tag("th", cell, scope="col") for cell in head))
    body = [tag("tr", tag("th", row[0], scope="row"), *map(_cell, row[1:])) for row in rows]
    whole = tag("table", tag("thead", top), tag("tbody", *body))
    scrolls = tag("div", whole, class_="scroll", role="region", tabindex="0", aria_label=caption)
    return join([tag("p", caption, class_="caption"), scrolls])


def _cell(value: Any) -> Html:
    """Figures and single words stay on one line."""
    is_short = not isinstance(value, Html) and len(str(value)) <= 24
    return tag("td", value, class_="short" if is_short else None)


def note(text: Any) -> Html:
    """One line in place of a part that is missing."""
    return tag("p", text, class_="note")


class Section(NamedTuple):
    title: str
    anchor: str
    markup: Html


def section(title: str, *parts: Any, anchor: str) -> Section:
    return Section(title, anchor, tag("section", tag("h2", title, id=anchor), *parts, aria_labelledby=anchor))


def figure(title: Any, picture: Html, how_to_read: Any, *, class_: str | None = None) -> Html:
    return tag("figure", tag("h4", title), picture, tag("figcaption", how_to_read), class_=class_)
