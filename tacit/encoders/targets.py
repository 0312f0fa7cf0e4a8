"""What is told of patches in the place of their pixels: codes of a tokeniser, or features of a frozen encoder."""

from __future__ import annotations

from tacit.encoders.token_features import TokenFeatures, feature_problems, token_features
from tacit.encoders.tokenizers import Tokenizer, build_tokenizer, tokenizer_problems

TARGETS = ("codes", "features")


def build_targets(
    targets: str, what: str, size: int, grid: int, channels: int, vocabulary: int
) -> Tokenizer | TokenFeatures:
    """`build_tokenizer` or `token_features`, by `targets`, one of `TARGETS`."""
    told = {"size": size, "grid": grid, "channels": channels}
    return build_tokenizer(what, vocabulary=vocabulary, **told) if targets == "codes" else token_features(what, **told)


def target_problems(targets: str, what: str, size: int, grid: int, channels: int) -> list[str]:
    """Why these cannot be had, as far as can be told without loading them; empty when they can."""
    if targets == "features":
        return feature_problems(what)
    return tokenizer_problems(what, size=size, grid=grid, channels=channels)
