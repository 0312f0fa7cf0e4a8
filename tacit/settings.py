"""Settings are one frozen dataclass with a sentence under each field: declared, checked, parsed and printed here."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Sequence
from typing import Any

import yaml

from tacit.errors import BadSettings, Unknown, nearest


def setting(default: Any, help: str, *, low: float | None = None, high: float | None = None, choices=None) -> Any:
    """A dataclass field with its sentence and what is allowed (`low` and `high` inclusive)."""
    metadata = {"help": help, "low": low, "high": high, "choices": choices}
    return dataclasses.field(default=default, metadata=metadata)


def again(base: type, name: str, default: Any) -> Any:
    """A field of `base` with another default: its sentence and what is allowed stay."""
    return dataclasses.field(default=default, metadata=base.__dataclass_fields__[name].metadata)


def problems(settings: Any) -> list[str]:
    """Every field whose value is of the wrong type, out of its range or not among its choices."""
    found = []
    hints = typing.get_type_hints(type(settings))
    for f in dataclasses.fields(settings):
        value, allowed = getattr(settings, f.name), _allowed(f, hints[f.name])
        if not _fits(value, hints[f.name]) or not _in_range(value, f.metadata):
            found.append(f"{f.name} = {_show(value)}: must be {allowed}.")
    return found


def with_assignments(settings: Any, assignments: Sequence[str]) -> Any:
    """A copy of `settings` with `FIELD=VALUE` strings applied. Raises `BadSettings` naming all that is wrong."""
    hints = typing.get_type_hints(type(settings))
    fields = {f.name: f for f in dataclasses.fields(settings)}
    changes, wrong = {}, []
    for item in assignments:
        name, equals, text = item.partition("=")
        name = name.strip().replace("-", "_")
        if not equals:
            wrong.append(f"--set {item!r}: write FIELD=VALUE, for example --set temperature=0.1.")
        elif name not in fields:
            near = nearest(name, fields)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            wrong.append(f"there is no setting {name!r}.{hint} All settings: {', '.join(fields)}.")
        else:
            try:
                changes[name] = _convert(yaml.safe_load(text) if text else "", hints[name])
            except (ValueError, yaml.YAMLError):
                wrong.append(f"{name} = {text!r}: must be {_allowed(fields[name], hints[name])}.")
    changed = dataclasses.replace(settings, **changes)
    wrong += problems(changed)
    if wrong:
        raise BadSettings(wrong)
    return changed


def to_dict(settings: Any) -> dict[str, Any]:
    """Plain lists, numbers and strings, in the order of the fields; `from_dict` undoes it."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(settings).items()}


def from_dict(cls: type, values: dict[str, Any]) -> Any:
    hints = typing.get_type_hints(cls)
    for name in values:
        if name not in hints:
            raise Unknown("setting", name, hints)
    settings = cls(**{name: _convert(value, hints[name]) for name, value in values.items()})
    if wrong := problems(settings):
        raise BadSettings(wrong)
    return settings


def describe(settings: Any) -> list[dict[str, Any]]:
    """One row a field: `name`, `value`, `allowed`, `help`."""
    hints = typing.get_type_hints(type(settings))
    return [
        {
            "name": f.name,
            "value": to_dict(settings)[f.name],
            "allowed": _allowed(f, hints[f.name]),
            "help": f.metadata.get("help", ""),
        }
        for f in dataclasses.fields(settings)
    ]


def _members(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)


def _convert(value: Any, hint: Any) -> Any:
    """YAML reads `1e-3` as a string and knows no tuples; settings want both."""
    members = _members(hint)
    if value is None or (value == "" and type(None) in members):
        if type(None) in members:
            return None
        raise ValueError
    if isinstance(value, bool) or bool in members:
        if isinstance(value, bool) and bool in members:
            return value
        raise ValueError
    for member in members:
        if typing.get_origin(member) is tuple and isinstance(value, list | tuple):
            inner = typing.get_args(member)
            inner = [inner[0]] * len(value) if inner[-1] is Ellipsis else inner
            if len(inner) != len(value):
                raise ValueError
            return tuple(_convert(v, h) for v, h in zip(value, inner, strict=True))
    if (
        typing.get_origin(members[0]) is tuple
        and isinstance(value, int | float)
        and Ellipsis in (inner := typing.get_args(members[0]))
    ):
        return (_convert(value, inner[0]),)
    if typing.get_origin(members[0]) is tuple and isinstance(value, str):
        if not value:
            return ()
        return _convert([yaml.safe_load(part) for part in value.split(",")], hint)
    if int in members and isinstance(value, int):
        return value
    if int in members and isinstance(value, float) and value.is_integer():
        return int(value)
    if float in members and isinstance(value, int | float | str):
        return float(value)
    if str in members:
        return str(value)
    raise ValueError


def _fits(value: Any, hint: Any) -> bool:
    for member in _members(hint):
        origin = typing.get_origin(member) or member
        if origin is float and isinstance(value, int | float) and not isinstance(value, bool):
            return value == value
        if origin is int and isinstance(value, bool):
            continue
        if isinstance(value, origin):
            return True
    return False


def _in_range(value: Any, metadata: Any) -> bool:
    low, high, choices = (metadata.get(k) for k in ("low", "high", "choices"))
    if value is None:
        return True
    if choices is not None and value not in choices:
        return False
    values = value if isinstance(value, tuple) else (value,)
    return all(
        not isinstance(v, int | float) or ((low is None or v >= low) and (high is None or v <= high)) for v in values
    )


def _allowed(field: dataclasses.Field, hint: Any) -> str:
    low, high, choices = (field.metadata.get(k) for k in ("low", "high", "choices"))
    names = {float: "a number", int: "a whole number", str: "a text", bool: "true or false"}
    kinds = []
    for member in _members(hint):
        if member is type(None):
            continue
        if typing.get_origin(member) is tuple:
            inner = typing.get_args(member)
            several = "words a,b,…" if inner[0] is str else "numbers a,b,…"
            kinds.append(several if inner[-1] is Ellipsis else f"{len(inner)} values such as a,b")
        else:
            kinds.append(names.get(member, getattr(member, "__name__", str(member))))
    text = " or ".join(kinds)
    if choices is not None:
        text = "one of " + ", ".join(str(c) for c in choices)
    if low is not None and high is not None:
        text += f" from {low:g} to {high:g}"
    elif low is not None:
        text += f" of at least {low:g}"
    elif high is not None:
        text += f" of at most {high:g}"
    return f"{text}, or nothing" if type(None) in _members(hint) else text


def _show(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else repr(value)
