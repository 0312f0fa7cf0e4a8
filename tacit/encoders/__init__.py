from tacit.encoders.build import SMALL, build, crop_problems, lacking, problems, set_norm_eps
from tacit.encoders.encoder import Encoder, set_drop_path
from tacit.encoders.initialise import Initialised, initialise
from tacit.encoders.multi_crop import by_size
from tacit.encoders.names import to_transformers
from tacit.encoders.sizes import any_size, pad, refused, step, token_grid
from tacit.encoders.storage import describe, like, load, read_description, save, write_tensors

__all__ = [
    "SMALL",
    "Encoder",
    "Initialised",
    "any_size",
    "build",
    "by_size",
    "crop_problems",
    "describe",
    "initialise",
    "lacking",
    "like",
    "load",
    "pad",
    "problems",
    "read_description",
    "refused",
    "save",
    "set_drop_path",
    "set_norm_eps",
    "step",
    "to_transformers",
    "token_grid",
    "write_tensors",
]
