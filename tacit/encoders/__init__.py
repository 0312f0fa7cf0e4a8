from tacit.encoders.build import SMALL, build, lacking, problems
from tacit.encoders.encoder import Encoder, set_drop_path
from tacit.encoders.initialise import Initialised, initialise
from tacit.encoders.names import to_transformers
from tacit.encoders.storage import describe, like, load, read_description, save, write_tensors

__all__ = [
    "SMALL",
    "Encoder",
    "Initialised",
    "build",
    "describe",
    "initialise",
    "lacking",
    "like",
    "load",
    "problems",
    "read_description",
    "save",
    "set_drop_path",
    "to_transformers",
    "write_tensors",
]
