"""Every error a user can meet. Each message says what is wrong, what is allowed and what to do next.

TacitError                  exit code 1: the run failed
├── DataError               the files cannot be used as they are
├── RunFailed               training stopped itself (NaN, collapse, a full disk, a dead worker)
└── UsageError              exit code 2: the call was wrong; nothing was loaded or written
    ├── Unknown             a name that does not exist, with the nearest that do
    ├── BadSettings         one or more settings that cannot work, all of them at once
    └── MissingExtra        an optional package is not installed, with its install line
BadRecord                   one record cannot be read; never reaches the user, becomes a line of bad_files.csv
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class TacitError(Exception):
    exit_code = 1


class DataError(TacitError):
    pass


class RunFailed(TacitError):
    pass


class UsageError(TacitError):
    exit_code = 2


class Unknown(UsageError):
    """`kind` is what was asked for ("method", "setting", "protocol"), `allowed` every name that exists."""

    def __init__(self, kind: str, name: str, allowed: Iterable[str], see: str = ""):
        allowed = list(allowed)
        near = nearest(name, allowed)
        hint = f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
        shown = ", ".join(allowed[:12]) + (f", … ({len(allowed)} in all)" if len(allowed) > 12 else "")
        super().__init__(f"There is no {kind} {name!r}.{hint} There is: {shown}.{' ' + see if see else ''}")


class BadSettings(UsageError):
    """All problems at once, one per line; each names the field, its value, what is allowed and the arithmetic."""

    def __init__(self, problems: list[str]):
        self.problems = problems
        head = "This cannot work:" if len(problems) == 1 else f"{len(problems)} settings cannot work:"
        super().__init__("\n  - ".join([head, *problems]))


class MissingExtra(UsageError):
    def __init__(self, what: str, package: str, extra: str):
        super().__init__(
            f"{what} needs {package!r}, which is not installed. Install it with: pip install 'tacit[{extra}]'"
        )


class BadRecord(Exception):
    """One record cannot be read. The message is the reason, short and without the path."""

    @classmethod
    def of(cls, error: OSError) -> BadRecord:
        """What the system says of a file, in the words of `bad_files.csv`."""
        if isinstance(error, FileNotFoundError):
            return cls("no such file")
        if isinstance(error, PermissionError):
            return cls("permission denied")
        return cls(f"cannot be read ({error.strerror or type(error).__name__})")


def nearest(name: str, allowed: Iterable[str]) -> list[str]:
    return get_close_matches(name.lower().replace("-", "_"), list(allowed), n=2, cutoff=0.5)
