"""How encoders are fine-tuned for classification: the settings, and the recipes that are known by name."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Recipe:
    """Rates are for 256 records a step and scale with the batch. `layer_decay` 1 gives all blocks the same rate.

    What is for records of one kind: `augment`, `erasing` and `cutmix` for pictures, `colours` for films. `mixup` is the
    parameter of the Beta distribution, of one share a batch of pictures and of one a waveform.
    """

    epochs: int = 100
    steps: int = 0  # in place of epochs
    batch_size: int = 1024
    lr: float = 1.25e-4
    warmup_epochs: int = 5
    warmup: float = 0.0  # share of the steps, in place of warmup_epochs
    lr_end: float = 1e-6
    weight_decay: float = 0.05
    layer_decay: float = 1.0
    drop_path: float = 0.1
    mixup: float = 0.8
    cutmix: float = 1.0
    smoothing: float = 0.1
    augment: tuple[int, int] | str | None = (2, 9)  # RandAugment's operations and magnitude (of 30), or timm's settings
    erasing: float = 0.0  # chance that a rectangle of a training image is noise
    repeats: int = 1  # of every record in a batch, each augmented by itself
    ema: float = 0.0
    clip: float | None = None
    clip_head: bool = True  # whether gradients of the last layer are clipped with the others
    optimizer: str = "adamw"  # or "sgd", with a momentum of 0.9
    dropout: float = 0.0  # before the last layer
    drop_token: float = 1.0  # share of the tokens of VATT's encoders that is kept
    flip: float = 0.5  # chance that an image or a film is mirrored
    colours: float = 0.0  # strength of the changes of colour, those of VATT's pre-training at 1


RECIPES = {
    # DeiT's, whole, as MoCo v3 fine-tunes on ImageNet.
    "deit": Recipe(
        epochs=150, batch_size=1024, lr=1.25e-4, ema=0.99996, augment="rand-m9-mstd0.5-inc1", erasing=0.25, repeats=3
    ),
    # MoCo v3's transfer of ViT-B to small sets: 128 records on each of 8 devices.
    "transfer": Recipe(
        epochs=100, batch_size=1024, lr=7.5e-5, warmup_epochs=3, weight_decay=0.1, mixup=0.8, cutmix=1.0, augment=(2, 9)
    ),
    # For some thousand small images: weaker mixing, since there are few steps, for which the rates are high, and lower
    # in the lower blocks.
    "small": Recipe(
        epochs=20, batch_size=64, lr=4e-3, warmup_epochs=2, layer_decay=0.75, drop_path=0.05, mixup=0.0, cutmix=0.0,
        augment=(1, 5),
    ),
}  # fmt: skip

# VATT's (Akbari et al. 2021), as its code has it: 0.005 at batches of 64, and 2,500 of 100,000 steps of warm-up. What
# the code has and this has not: a last layer that begins at random and not at zero.
_VATT = Recipe(
    steps=100_000, batch_size=64, lr=0.005 * 256 / 64, warmup=0.025, lr_end=0.0, weight_decay=0.0, drop_path=0.0,
    mixup=0.0, cutmix=0.0, smoothing=0.1, augment=None, clip=0.75, clip_head=False, optimizer="sgd", dropout=0.5,
    drop_token=0.5, colours=1.0,
)  # fmt: skip
_SMALL = replace(RECIPES["small"], augment=None)  # RandAugment would change every frame by itself
FILMS = {"vatt": _VATT, "small": _SMALL}
WAVES = {"vatt": replace(_VATT, mixup=5.0, smoothing=0.0, dropout=0.0), "small": _SMALL}
NAMES = {*RECIPES, *FILMS, *WAVES}
