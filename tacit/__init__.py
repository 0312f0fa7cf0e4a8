"""Tacit learns encoders from unlabelled data. The five verbs of the command line are functions here.

`import tacit` loads nothing heavy: the verbs are imported when they are first used.
"""

__version__ = "0.1.0"
__all__ = ["Run", "embed", "evaluate", "export", "methods", "pretrain", "report"]


def __getattr__(name: str):
    if name in ("embed", "evaluate", "export", "pretrain", "report"):
        from tacit import api

        # The names of some verbs are also the names of rooms; the verb wins, whatever was imported before.
        globals().update({verb: getattr(api, verb) for verb in ("embed", "evaluate", "export", "pretrain", "report")})
        return globals()[name]
    if name == "Run":
        from tacit.run import Run

        return Run
    raise AttributeError(f"module 'tacit' has no attribute {name!r}")
