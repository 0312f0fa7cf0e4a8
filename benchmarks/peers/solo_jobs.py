"""solo-learn's methods, transforms and trainer, put together as its main_pretrain.py does. Run by benchmarks/jobs.py.

Of its repository (vturrisi/solo-learn, seen at 9187ea3): the release of the package index is pinned to torch 1.9. Its
ViT-S has 12 heads in MAE too, and its MoCo v3 trains the patch projection; its DINO has no small crops, so is not here.
"""

import sys

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from omegaconf import OmegaConf
from solo.args.pretrain import parse_cfg
from solo.data.pretrain_dataloader import (
    FullTransformPipeline,
    NCropAugmentation,
    build_transform_pipeline,
    prepare_dataloader,
    prepare_datasets,
)
from solo.methods import METHODS
from timing import Steps  # beside this file


def crop(smallest: float, *, colours: float = 0.8, blur: float = 0.0, solarize: float = 0.0) -> dict:
    return {
        "crop_size": 224, "num_crops": 1,
        "rrc": {"enabled": True, "crop_min_scale": smallest, "crop_max_scale": 1.0},
        "color_jitter": {"prob": colours, "brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1},
        "grayscale": {"prob": 0.25 * colours}, "gaussian_blur": {"prob": blur}, "solarization": {"prob": solarize},
        "equalization": {"prob": 0.0}, "horizontal_flip": {"prob": 0.5},
    }  # fmt: skip


JOBS = {
    "moco_v3": {
        "method": "mocov3",
        "augmentations": [crop(0.08, blur=1.0), crop(0.08, blur=0.1, solarize=0.2)],
        "method_kwargs": {
            "proj_hidden_dim": 4096, "proj_output_dim": 256, "pred_hidden_dim": 4096, "temperature": 0.2,
        },
        "momentum": {"base_tau": 0.99, "final_tau": 1.0},
    },
    "mae": {
        "method": "mae",
        "augmentations": [crop(0.2, colours=0.0)],
        "method_kwargs": {
            "decoder_embed_dim": 512, "decoder_depth": 8, "decoder_num_heads": 16, "mask_ratio": 0.75,
            "norm_pix_loss": True,
        },
    },
}  # fmt: skip


class Told(Callback):
    """A look at the clock after every step."""

    def __init__(self, clock: Steps):
        self.clock = clock

    def on_train_batch_end(self, trainer: Trainer, *_) -> None:
        # The loss of the step holds that of labels, which are not there and make it NaN; the method's is logged alone.
        (loss,) = (trainer.callback_metrics[f"train_{name}_loss_step"] for name in ("contrastive", "reconstruction")
                   if f"train_{name}_loss_step" in trainer.callback_metrics)  # fmt: skip
        self.clock.tick(loss)


job, folder, batch, steps, threads, workers = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:7])
bf16 = sys.argv[7:] == ["bf16"]
torch.set_num_threads(threads)
seed_everything(0)
options = parse_cfg(OmegaConf.create(JOBS[job] | {
    "name": job, "max_epochs": 100, "devices": [0], "backbone": {"name": "vit_small"},
    "data": {"dataset": "custom", "train_path": folder, "no_labels": True, "num_workers": workers},
    "optimizer": {"name": "adamw", "batch_size": batch, "lr": 1e-4 * 256 / batch, "weight_decay": 0.05,
                  "classifier_lr": 1e-4},
    "scheduler": {"name": "none"}, "checkpoint": {"enabled": False}, "auto_resume": {"enabled": False},
}))  # fmt: skip
model = METHODS[options.method](options).to(memory_format=torch.channels_last)
pipelines = [NCropAugmentation(build_transform_pipeline("custom", view), 1) for view in options.augmentations]
data = prepare_datasets("custom", FullTransformPipeline(pipelines), folder, no_labels=True)
clock = Steps(batch)
Trainer(
    accelerator="cpu", devices=1, max_steps=steps, precision="bf16-mixed" if bf16 else "32-true", logger=False,
    callbacks=[Told(clock)], enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
).fit(model, prepare_dataloader(data, batch, workers))  # fmt: skip
clock.say()
