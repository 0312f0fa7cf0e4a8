from tacit.heads.decoder import TokenDecoder, decoder_problems
from tacit.heads.mlp import mlp
from tacit.heads.prototypes import PrototypeHead, Prototypes

__all__ = ["PrototypeHead", "Prototypes", "TokenDecoder", "decoder_problems", "mlp"]
