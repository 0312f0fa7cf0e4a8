"""How a protocol is asked for: its name, and options that are the keywords of its function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from tacit.errors import BadSettings, Unknown


@dataclass(frozen=True)
class Asked:
    """One protocol with its options, as a user asked for it."""

    spec: str
    name: str
    options: dict[str, Any]


def parse(spec: str, functions: dict[str, Callable]) -> Asked:
    """`name` or `name:option=value:…`; several values are `10/20/100`.

    Raises:
        Unknown: no such protocol or option. BadSettings: a value that is no number where one is needed.
    """
    name, *pairs = spec.strip().split(":")
    if name not in functions:
        raise Unknown("protocol", name, functions)
    known = options_of(functions[name])
    options: dict[str, Any] = {}
    for pair in pairs:
        option, _, text = pair.partition("=")
        if option not in known:
            raise Unknown(f"option of {name}", option, known)
        options[option] = _value(f"{name}:{option}", text, known[option])
    return Asked(spec.strip(), name, options)


def options_of(function: Callable) -> dict[str, Any]:
    """Options of a protocol and their defaults: its keyword-only parameters."""
    return {p.name: p.default for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY}


def one_of(what: str, value: str, known: Collection[str]) -> None:
    """Raises `Unknown` with the nearest match."""
    if value not in known:
        raise Unknown(what, value, known)


def _value(where: str, text: str, default: Any) -> Any:
    many = isinstance(default, tuple)
    like = (default[0] if default else 1) if many else default
    if isinstance(like, bool):
        if text not in ("yes", "no"):
            raise BadSettings([f"{where} = {text}: must be yes or no."])
        return text == "yes"
    try:
        values = tuple(type(like)(part) for part in (text.split("/") if many else [text]))
    except ValueError as error:
        raise BadSettings([f"{where} = {text}: must be {'numbers like 1/5/10' if many else 'a number'}."]) from error
    if not isinstance(like, str) and min(values) <= 0:
        raise BadSettings([f"{where} = {text}: must be above 0."])
    return values if many else values[0]
