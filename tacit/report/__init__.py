"""One HTML page about one run or several: outcome, probes, curves, features, neighbours, views, files, settings."""

from tacit.report.build import report

__all__ = ["report"]
