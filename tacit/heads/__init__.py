from tacit.heads.decoder import TokenDecoder, decoder_problems
from tacit.heads.mlp import mlp
from tacit.heads.pixel_decoder import PixelDecoder
from tacit.heads.pixels import pixel_head
from tacit.heads.projection import PROJECTIONS, projection
from tacit.heads.prototypes import PrototypeHead, Prototypes

__all__ = [
    "PROJECTIONS",
    "PixelDecoder",
    "PrototypeHead",
    "Prototypes",
    "TokenDecoder",
    "decoder_problems",
    "mlp",
    "pixel_head",
    "projection",
]
