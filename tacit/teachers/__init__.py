from tacit.teachers.center import Center
from tacit.teachers.ema import ema_update, momentum_copy
from tacit.teachers.frozen import Frozen
from tacit.teachers.queue import EmbeddingQueue, KeyQueue, queue_problems
from tacit.teachers.taught import TaughtHead

__all__ = [
    "Center",
    "EmbeddingQueue",
    "Frozen",
    "KeyQueue",
    "TaughtHead",
    "ema_update",
    "momentum_copy",
    "queue_problems",
]
