"""Protocols whose data has a layout of its own: segmentation, detection, attention maps, video, retrieval, copies,
and sound events."""

from tacit.evaluation.scenes.table import SCENES, check, evaluate

__all__ = ["SCENES", "check", "evaluate"]
