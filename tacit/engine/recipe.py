"""The settings every method shares: encoder, length, optimiser and how the run is kept. Methods change the defaults."""

from __future__ import annotations

from dataclasses import dataclass

from tacit import encoders
from tacit.data import Source
from tacit.settings import again, setting


@dataclass(frozen=True)
class Recipe:
    encoder: str = setting("swin_tiny", "trunk: any timm name, or deit_small, swin_mini, vit_mini, resnet_mini")
    size: int = setting(224, "side of the square inputs, in pixels", low=4)
    channels: int = setting(3, "channels of the inputs", low=1)
    patch: int | None = setting(None, "patch size, where the trunk lets it be chosen", low=1)
    window: int | None = setting(None, "attention window of a Swin trunk, in patches", low=1)

    epochs: int = setting(300, "passes over the records; with epoch_steps, so many times these", low=1)
    epoch_steps: int | None = setting(
        None, "optimiser steps that every schedule counts as an epoch; nothing for a pass over the records", low=1
    )
    batch_size: int = setting(512, "records of one optimiser step, over all devices and micro-batches", low=1)
    accumulate: int = setting(1, "micro-batches an optimiser step is split into", low=1)
    optimizer: str = setting(
        "adamw", "what takes the steps", choices=("adamw", "sgd", "lars", "lars_lr_inside", "larc")
    )
    lr: float = setting(1e-3, "peak learning rate for `lr_batch` records a step; scaled by `lr_scaling`", low=0)
    lr_batch: int = setting(512, "batch size the learning rates are given for", low=1)
    lr_scaling: str = setting(
        "linear",
        "how rates grow with batch_size / lr_batch; the peak ones leave lr_warmup and lr_end as they are",
        choices=("linear", "linear_peak", "sqrt", "sqrt_peak"),
    )
    lr_warmup: float = setting(5e-7, "learning rate the warm-up starts from", low=0)
    lr_end: float = setting(5e-6, "learning rate at the end", low=0)
    lr_lag: int = setting(0, "the update of step i uses the rate of step i - lr_lag", low=0)
    lr_cosine: str = setting(
        "after_warmup",
        "where the cosine counts from; by_epoch: from zero, one rate for a whole epoch; quarter: after the warm-up, a "
        "quarter of a period; steps: none, see lr_drops; line: none, straight down after the warm-up",
        choices=("after_warmup", "from_zero", "by_epoch", "quarter", "steps", "line"),
    )
    lr_drops: tuple[float, ...] = setting(
        (), "shares of the run from which the rate is a tenth, where lr_cosine is steps", low=0, high=1
    )
    warmup_epochs: float = setting(5.0, "epochs of linear warm-up", low=0)
    warmup_inclusive: bool = setting(False, "the last step of the warm-up has the full rate, not the one after it")
    layer_decay: float = setting(1.0, "rate of an encoder's layer as a share of the next one's", low=0.01, high=1)
    patch_rate: float = setting(1.0, "rate of the patch embedding as a share of its layer's", low=0)
    betas: tuple[float, float] = setting((0.9, 0.999), "AdamW's averages", low=0, high=1)
    eps: float = setting(1e-8, "AdamW's epsilon", low=0)
    sgd_momentum: float = setting(0.9, "momentum of SGD, LARS and LARC", low=0, high=1)
    trust: float = setting(1e-3, "LARS' and LARC's share of a tensor's norm that a step of rate 1 changes", low=0)
    weight_decay: float = setting(0.05, "weight decay (decoupled in AdamW)", low=0)
    weight_decay_end: float | None = setting(None, "weight decay at the end, reached by a cosine", low=0)
    decay_vectors: bool = setting(False, "also decay, and adapt by LARS, biases and other 1-D tensors")
    decay_positions: bool = setting(
        True, "also decay relative-position tables, position embeddings and class tokens (2-D and 3-D tensors)"
    )
    clip: float | None = setting(None, "largest gradient norm; nothing to leave gradients alone", low=0)
    clip_by: str = setting(
        "all",
        "clip the norm of all gradients, of each part's (the encoder's, a head's), or each tensor's own",
        choices=("all", "part", "tensor"),
    )

    compile: bool = setting(False, "compile the encoders with torch.compile")
    channels_last: bool = setting(False, "keep images and convolutions in channels-last order")
    log_every: int = setting(10, "steps between two rows of metrics.csv", low=1)
    check_every: float = setting(1.0, "epochs between two online k-NN checks (labelled data only)", low=0)
    save_every: float | None = setting(
        None, "epochs between two saves of checkpoints/last.ckpt; by default one, or as many as hold 100 steps", low=0
    )
    save_minutes: float = setting(15.0, "minutes after which last.ckpt is saved in any case", low=0)
    keep_every: int = setting(0, "epochs between checkpoints that are kept as step-*.ckpt; 0 for none", low=0)
    keep: int = setting(3, "how many step-*.ckpt to keep, the newest", low=1)
    on_collapse: str = setting("stop", "what a collapse does to the run", choices=("stop", "warn"))
    loggers: tuple[str, ...] = setting((), "more loggers beside CSV and TensorBoard: wandb, mlflow")

    @property
    def shape(self) -> int | tuple[int, int]:
        """Side of the square inputs, or their height and width where they are no squares."""
        return self.size

    @property
    def cells(self) -> int | tuple[int, int] | None:
        """What `encoders.build` is told of patches."""
        return self.patch

    @property
    def trunk(self) -> dict[str, object]:
        """More arguments of `encoders.build` that a method takes, so that its problems are those of what is built."""
        return {}

    @property
    def encoders(self) -> tuple[str, ...]:
        """Names of what is trained."""
        return (self.encoder,)

    def measured(self, source: Source) -> Recipe:
        """The same with what was left to the data, which is read off it once, when a new run begins."""
        return self


@dataclass(frozen=True)
class DINORecipe(Recipe):
    """How DINO takes its steps (Caron et al. 2021, appendix): so do those that build on it, and the authors of GMML."""

    lr: float = again(Recipe, "lr", 5e-4)
    lr_batch: int = again(Recipe, "lr_batch", 256)
    lr_scaling: str = again(Recipe, "lr_scaling", "linear_peak")
    lr_warmup: float = again(Recipe, "lr_warmup", 0.0)
    lr_end: float = again(Recipe, "lr_end", 1e-6)
    warmup_epochs: float = again(Recipe, "warmup_epochs", 10.0)
    warmup_inclusive: bool = again(Recipe, "warmup_inclusive", True)
    weight_decay: float = again(Recipe, "weight_decay", 0.04)
    weight_decay_end: float | None = again(Recipe, "weight_decay_end", 0.4)
    clip: float | None = again(Recipe, "clip", 3.0)
    clip_by: str = again(Recipe, "clip_by", "tensor")


@dataclass(frozen=True)
class SoundRecipe(DINORecipe):
    """The same for methods that learn from sounds; their inputs are spectrograms, rows of which are frames."""

    size: int = setting(592, "frames of an excerpt, one each 10 ms: rows of the encoder's input", low=4)
    mels: int = setting(128, "bands of the mel filterbank", low=1)
    rate: int = setting(16_000, "samples a second; recordings of another rate are resampled", low=1000)
    channels: int = setting(1, "of the input: sounds are mixed down to one", low=1, high=1)

    @property
    def shape(self) -> tuple[int, int]:
        return self.size, self.mels


def problems(recipe: Recipe, *, ranks: int = 1) -> list[str]:
    """What cannot work whatever the method: the encoder's geometry and how a batch is split."""
    found = encoders.problems(
        recipe.encoder, recipe.shape, recipe.cells, recipe.window, recipe.channels, **recipe.trunk
    )  # fmt: skip
    parts = ranks * recipe.accumulate
    if recipe.batch_size % parts:
        below, above = max(recipe.batch_size // parts, 1) * parts, (recipe.batch_size // parts + 1) * parts
        found.append(
            f"batch_size = {recipe.batch_size}: must split evenly over {ranks} device{'s' * (ranks > 1)} x "
            f"{recipe.accumulate} micro-batch{'es' * (recipe.accumulate > 1)} = {parts}; "
            f"{recipe.batch_size} % {parts} = {recipe.batch_size % parts}. Set batch_size={below} or {above}."
        )
    ratio = recipe.batch_size / recipe.lr_batch
    scale = {"linear_peak": ratio, "sqrt_peak": ratio**0.5}.get(recipe.lr_scaling, 1.0)
    if max(recipe.lr_end, recipe.lr_warmup) > recipe.lr * scale:
        found.append(
            f"lr = {recipe.lr}: is the peak, not below lr_warmup = {recipe.lr_warmup} or lr_end = {recipe.lr_end}."
        )
    if recipe.optimizer == "adamw" and recipe.eps == 0:
        found.append("eps = 0: AdamW would divide by nothing where a gradient is 0. Set eps=1e-8.")
    for name in recipe.loggers:
        if name not in ("wandb", "mlflow"):
            found.append(f"loggers = {name}: must be wandb or mlflow (CSV and TensorBoard are always written).")
    return found


def steps_per_epoch(recipe: Recipe, records: int) -> int:
    """Optimiser steps that the schedules count as one epoch: a pass over the records, unless `epoch_steps` says."""
    return recipe.epoch_steps or records // recipe.batch_size


def per_device_batch(recipe: Recipe, ranks: int) -> int:
    """Records of one forward pass of one device."""
    return recipe.batch_size // (ranks * recipe.accumulate)
