from tacit.encoders.build import (
    SMALL,
    build,
    crop_problems,
    example,
    input_shape,
    lacking,
    mean_pooled,
    patch_of,
    problems,
    set_norm_eps,
)
from tacit.encoders.chunks import NEIGHBOURS
from tacit.encoders.crossed import SIZES as SEQUENCE_ENCODERS
from tacit.encoders.depth import depth_of
from tacit.encoders.drop_rows import uniform_drop_path
from tacit.encoders.encoder import MEAN_PATCH, Encoder, set_drop_path, set_neighbours
from tacit.encoders.frames import CutPositions, encode_valid
from tacit.encoders.initialise import Initialised, initialise
from tacit.encoders.joint import JointSpace, load_joint, save_joint
from tacit.encoders.mask_tokens import MaskTokens
from tacit.encoders.masked import embed, encode_tokens, encode_visible, patch_grid, pick, visible_ids
from tacit.encoders.multi_crop import by_size, view_by_view
from tacit.encoders.multi_depth import depth_problems, multi_depth
from tacit.encoders.names import to_transformers
from tacit.encoders.positions import sincos_2d, sincos_positions_
from tacit.encoders.resolution import at_size, trained_windows
from tacit.encoders.sizes import any_size, pad, refused, step, token_grid
from tacit.encoders.speech import Speech
from tacit.encoders.storage import describe, holds_speech, like, load, read_description, save, write_tensors
from tacit.encoders.targets import TARGETS, build_targets, target_problems
from tacit.encoders.token_features import TokenFeatures
from tacit.encoders.tokenizers import (
    DVAE,
    PatchCodes,
    Tokenizer,
    dvae_inputs,
    dvae_parts,
    dvae_stride,
    save_tokenizer,
)
from tacit.encoders.topk import topk_attention
from tacit.encoders.vatt import set_drop_token, share_stack
from tacit.encoders.word_vectors import word_vectors
from tacit.encoders.xavier import truncated_patches_, xavier_

__all__ = [
    "DVAE",
    "MEAN_PATCH",
    "NEIGHBOURS",
    "SEQUENCE_ENCODERS",
    "SMALL",
    "TARGETS",
    "CutPositions",
    "Encoder",
    "Initialised",
    "JointSpace",
    "MaskTokens",
    "PatchCodes",
    "Speech",
    "TokenFeatures",
    "Tokenizer",
    "any_size",
    "at_size",
    "build",
    "build_targets",
    "by_size",
    "crop_problems",
    "depth_of",
    "depth_problems",
    "describe",
    "dvae_inputs",
    "dvae_parts",
    "dvae_stride",
    "embed",
    "encode_tokens",
    "encode_valid",
    "encode_visible",
    "example",
    "holds_speech",
    "initialise",
    "input_shape",
    "lacking",
    "like",
    "load",
    "load_joint",
    "mean_pooled",
    "multi_depth",
    "pad",
    "patch_grid",
    "patch_of",
    "pick",
    "problems",
    "read_description",
    "refused",
    "save",
    "save_joint",
    "save_tokenizer",
    "set_drop_path",
    "set_drop_token",
    "set_neighbours",
    "set_norm_eps",
    "share_stack",
    "sincos_2d",
    "sincos_positions_",
    "step",
    "target_problems",
    "to_transformers",
    "token_grid",
    "topk_attention",
    "trained_windows",
    "truncated_patches_",
    "uniform_drop_path",
    "view_by_view",
    "visible_ids",
    "word_vectors",
    "write_tensors",
    "xavier_",
]
