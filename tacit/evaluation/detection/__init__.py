from tacit.evaluation.detection.ap import average_precision
from tacit.evaluation.detection.coco import read_coco
from tacit.evaluation.detection.convert import match_classes, to_coco
from tacit.evaluation.detection.folders import open_set, read_maps, read_voc
from tacit.evaluation.detection.models import MODELS, detector
from tacit.evaluation.detection.predict import predict
from tacit.evaluation.detection.records import paired_ap
from tacit.evaluation.detection.schedule import PRESETS, Schedule, preset
from tacit.evaluation.detection.sets import DetectionSet, Scene, Thing
from tacit.evaluation.detection.train import build, train

__all__ = [
    "MODELS",
    "PRESETS",
    "DetectionSet",
    "Scene",
    "Schedule",
    "Thing",
    "average_precision",
    "build",
    "detector",
    "match_classes",
    "open_set",
    "paired_ap",
    "predict",
    "preset",
    "read_coco",
    "read_maps",
    "read_voc",
    "to_coco",
    "train",
]
