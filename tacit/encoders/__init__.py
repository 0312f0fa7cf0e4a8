from tacit.encoders.build import SMALL, build, problems
from tacit.encoders.encoder import Encoder, set_drop_path
from tacit.encoders.storage import describe, initialise, like, load, save

__all__ = ["SMALL", "Encoder", "build", "describe", "initialise", "like", "load", "problems", "save", "set_drop_path"]
