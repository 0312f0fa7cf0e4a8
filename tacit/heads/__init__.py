from tacit.heads.mlp import mlp
from tacit.heads.prototypes import PrototypeHead, Prototypes

__all__ = ["PrototypeHead", "Prototypes", "mlp"]
