from tacit.evaluation.compare import compare, latest
from tacit.evaluation.evaluate import difference, drawn_folds, evaluate, store, stored
from tacit.evaluation.features import Features, features, raw
from tacit.evaluation.knn import knn_predict
from tacit.evaluation.protocols import PROTOCOLS, parse
from tacit.evaluation.tables import table

__all__ = [
    "PROTOCOLS",
    "Features",
    "compare",
    "difference",
    "drawn_folds",
    "evaluate",
    "features",
    "knn_predict",
    "latest",
    "parse",
    "raw",
    "store",
    "stored",
    "table",
]
