from tacit.heads.aggregator import Aggregator, padded
from tacit.heads.common_space import HEADS, FineAndCoarse, Joint, common_space
from tacit.heads.decoder import TokenDecoder, decoder_problems
from tacit.heads.dvae import DVAEDecoder, convolution
from tacit.heads.mlp import mlp
from tacit.heads.pixel_decoder import PixelDecoder
from tacit.heads.pixels import pixel_head
from tacit.heads.projection import PROJECTIONS, projection
from tacit.heads.prototypes import PrototypeHead, PrototypeHeads, Prototypes
from tacit.heads.regressor import CrossAttention, LatentDecoder, LatentRegressor, hold_key_biases, latent_projection
from tacit.heads.sequences import ResidualClassifier, position_head

__all__ = [
    "HEADS",
    "PROJECTIONS",
    "Aggregator",
    "CrossAttention",
    "DVAEDecoder",
    "FineAndCoarse",
    "Joint",
    "LatentDecoder",
    "LatentRegressor",
    "PixelDecoder",
    "PrototypeHead",
    "PrototypeHeads",
    "Prototypes",
    "ResidualClassifier",
    "TokenDecoder",
    "common_space",
    "convolution",
    "decoder_problems",
    "hold_key_biases",
    "latent_projection",
    "mlp",
    "padded",
    "pixel_head",
    "position_head",
    "projection",
]
