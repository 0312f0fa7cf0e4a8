"""Tacit learns encoders from unlabelled data. The verbs of the command line are functions here.

`import tacit` loads nothing heavy: the verbs are imported when they are first used.
"""

import sys
from types import ModuleType

__version__ = "0.1.0"
__all__ = [
    "Run",
    "audit",
    "bags",
    "compare",
    "embed",
    "evaluate",
    "exams",
    "export",
    "finetune",
    "predict",
    "pretrain",
    "report",
    "study",
    "transfer",
]

_VERBS = tuple(name for name in __all__ if name != "Run")


def __getattr__(name: str):
    if name in _VERBS:
        from tacit import api

        return getattr(api, name)
    if name == "Run":
        from tacit.run import Run

        return Run
    raise AttributeError(f"module 'tacit' has no attribute {name!r}")


class _Package(ModuleType):
    """`export`, `report` and `study` are rooms and verbs; the import system must not put the room where the verb is."""

    def __setattr__(self, name, value):
        if not (name in _VERBS and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
