from tacit.evaluation.compare import compare, latest
from tacit.evaluation.evaluate import difference, evaluate, store, stored, table
from tacit.evaluation.features import Features, features, raw
from tacit.evaluation.knn import knn_predict
from tacit.evaluation.protocols import PROTOCOLS, parse

__all__ = [
    "PROTOCOLS",
    "Features",
    "compare",
    "difference",
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
