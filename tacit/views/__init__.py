from tacit.views.augment import erase, rand_augment
from tacit.views.corruption import Blocks, Corrupted, Spoiled, corruption_problems
from tacit.views.crop import Crop, View, compiles_first
from tacit.views.dataset import Plain, Views, collate, finish
from tacit.views.excerpt import Another, Excerpt
from tacit.views.film import FilmClip, FilmInputs
from tacit.views.filterbank import kaldi_fbank, mel_db
from tacit.views.hiding import Hiding, hide, hiding_problems, patches_of
from tacit.views.inputs import IMAGENET_MEAN, IMAGENET_STD, Inputs, input_spec
from tacit.views.kinds import field_of, inputs_from_dict
from tacit.views.levels import levels
from tacit.views.listening import Backgrounds, Heard, log_mixed, resized_crop
from tacit.views.masks import (
    Masked,
    Sampler,
    block_mask,
    block_problems,
    count_problems,
    exact_mask,
    multi_block_masks,
    random_mask,
    ratio_problems,
    sometimes_blocks,
    span_mask,
    span_problems,
    tube_mask,
)
from tacit.views.mixing import Mixable, mixture
from tacit.views.mixup import mixed
from tacit.views.multi_crop import augmented_multi_crop, equal_multi_crop, masked_multi_crop, multi_crop
from tacit.views.pair import SIT_PAIRS, sit_pair, unlike_pair
from tacit.views.pieces import Grid, Lengths, Piece, Pieces
from tacit.views.random import rng
from tacit.views.rendering import Rendering, rendered_twice
from tacit.views.sequences import SequenceInputs
from tacit.views.showing import shown
from tacit.views.sound import AUDIOSET_MEAN, AUDIOSET_STD, SoundInputs, kaldi_inputs, mel_db_inputs
from tacit.views.talking import Talk
from tacit.views.turns import Tilted, Turned
from tacit.views.wave import WaveClip, WaveInputs, sound_lengths
from tacit.views.words import SentenceBag, TextInputs, texts_of, vocabulary

__all__ = [
    "AUDIOSET_MEAN",
    "AUDIOSET_STD",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "SIT_PAIRS",
    "Another",
    "Backgrounds",
    "Blocks",
    "Corrupted",
    "Crop",
    "Excerpt",
    "FilmClip",
    "FilmInputs",
    "Grid",
    "Heard",
    "Hiding",
    "Inputs",
    "Lengths",
    "Masked",
    "Mixable",
    "Piece",
    "Pieces",
    "Plain",
    "Rendering",
    "Sampler",
    "SentenceBag",
    "SequenceInputs",
    "SoundInputs",
    "Spoiled",
    "Talk",
    "TextInputs",
    "Tilted",
    "Turned",
    "View",
    "Views",
    "WaveClip",
    "WaveInputs",
    "augmented_multi_crop",
    "block_mask",
    "block_problems",
    "collate",
    "compiles_first",
    "corruption_problems",
    "count_problems",
    "equal_multi_crop",
    "erase",
    "exact_mask",
    "field_of",
    "finish",
    "hide",
    "hiding_problems",
    "input_spec",
    "inputs_from_dict",
    "kaldi_fbank",
    "kaldi_inputs",
    "levels",
    "log_mixed",
    "masked_multi_crop",
    "mel_db",
    "mel_db_inputs",
    "mixed",
    "mixture",
    "multi_block_masks",
    "multi_crop",
    "patches_of",
    "rand_augment",
    "random_mask",
    "ratio_problems",
    "rendered_twice",
    "resized_crop",
    "rng",
    "shown",
    "sit_pair",
    "sometimes_blocks",
    "sound_lengths",
    "span_mask",
    "span_problems",
    "texts_of",
    "tube_mask",
    "unlike_pair",
    "vocabulary",
]
