"""A detector the user supplies, and the score from which a picture is rejected (PASSify, arXiv 2109.13228)."""

from __future__ import annotations

import importlib
import math
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from tacit.errors import RunFailed, UsageError

# PASSify's: any face above .5, then any person of at least .5.
PUBLISHED = {"face": (">", 0.5), "person": (">=", 0.5)}
SPEC = re.compile(r"(?:(?P<name>\w+)=)?(?P<module>[\w.]+):(?P<function>\w+)(?:(?P<rule>>=|>)(?P<threshold>[-+.\de]+))?")


@dataclass(frozen=True)
class Stage:
    """`module:function` is called with the pixels [H, W, 3] uint8 of a picture and returns its score, or the scores of
    all candidates (the highest counts, none is a score of 0). A picture is rejected where score > threshold, or
    score >= threshold, as `rule` says."""

    name: str
    entry: str
    rule: str = ">="
    threshold: float = 0.5

    @classmethod
    def parse(cls, text: str) -> Stage:
        """`NAME=MODULE:FUNCTION`, with `>T` or `>=T` unless the name is face or person. Raises `UsageError`."""
        found = SPEC.fullmatch(text.replace(" ", ""))
        if not found:
            raise UsageError(
                f"detector {text!r}: write NAME=MODULE:FUNCTION>=0.5, for example face=my_faces:scores>0.5."
            )
        name = found["name"] or found["function"]
        rule, threshold = PUBLISHED.get(name, (None, None))
        if found["rule"]:
            try:
                rule, threshold = found["rule"], float(found["threshold"])
            except ValueError as error:
                raise UsageError(f"detector {text!r}: {found['threshold']!r} is no number.") from error
        if rule is None:
            raise UsageError(f"detector {text!r}: say from which score on to reject, for example {text}>=0.5.")
        return cls(name, f"{found['module']}:{found['function']}", rule, threshold)

    @cached_property
    def _function(self) -> tuple[Callable[[np.ndarray], Any], str | None]:
        module, _, function = self.entry.partition(":")
        if "" not in sys.path:
            sys.path.insert(0, "")  # a file beside the user, as `python -m` finds it
        try:
            loaded = importlib.import_module(module)
            return getattr(loaded, function), getattr(loaded, "__version__", None)
        except ModuleNotFoundError as error:
            raise UsageError(
                f"detector {self.name}: no module {error.name!r} (looked here and where Python does)."
            ) from error
        except AttributeError as error:
            raise UsageError(f"detector {self.name}: {module} has no function {function!r}.") from error

    @property
    def version(self) -> str | None:
        """`__version__` of the module."""
        return self._function[1]

    @property
    def key(self) -> str:
        """Whose scores may be used again: those of the same function of the same version."""
        return f"{self.name}={self.entry}@{self.version}"

    def score(self, pixels: np.ndarray, name: str) -> float:
        """The highest score of a picture. Raises `RunFailed` when the detector fails or returns no numbers."""
        try:
            found = self._function[0](pixels)
            scores = [float(s) for s in (found if isinstance(found, Iterable) else [found])]
        except Exception as error:  # it is the user's own code: nothing it fails at may pass for "nothing found"
            raise RunFailed(
                f"detector {self.name} ({self.entry}) failed on {name}: {type(error).__name__}: {str(error)[:200]}. "
                "What was found so far is kept: mend it and give the same command again."
            ) from error
        if any(math.isnan(s) for s in scores):
            raise RunFailed(f"detector {self.name} ({self.entry}) gives {name} a score that is no number.")
        return max(scores, default=0.0)

    def rejects(self, score: float) -> bool:
        return score > self.threshold if self.rule == ">" else score >= self.threshold
