"""The verbs. The command line calls these, with the same names and arguments."""

from tacit.api.exam_labels import exams
from tacit.api.few_labels import finetune, predict
from tacit.api.hand_over import audit, export, report
from tacit.api.scoring import compare, evaluate, transfer
from tacit.api.shared import to_json
from tacit.api.studies import study
from tacit.api.training import methods_table, pretrain
from tacit.api.vectors import bags, embed

__all__ = [
    "audit",
    "bags",
    "compare",
    "embed",
    "evaluate",
    "exams",
    "export",
    "finetune",
    "methods_table",
    "predict",
    "pretrain",
    "report",
    "study",
    "to_json",
    "transfer",
]
