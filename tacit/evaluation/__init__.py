from tacit.evaluation.evaluate import PROTOCOLS, difference, evaluate, store, table
from tacit.evaluation.features import Features, features, raw
from tacit.evaluation.knn import knn_predict

__all__ = ["PROTOCOLS", "Features", "difference", "evaluate", "features", "knn_predict", "raw", "store", "table"]
