"""lightly-train's own pretrain command (seen at 0.18.0), for the job that it has. Run by benchmarks/jobs.py.

What is set is the model and what DINO's paper says where its defaults are others; logs and checkpoints are left out.
"""

import os
import sys
import tempfile

os.environ["LIGHTLY_TRAIN_EVENTS_DISABLED"] = "1"

import lightly_train
import torch
from lightly_train._methods.dino.dino import DINO
from timing import Steps  # beside this file


def step(self, outputs, *others) -> None:
    ended(self, outputs, *others)
    clock.tick(outputs["loss"])


job, folder, batch, steps, threads, workers = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:7])
bf16 = sys.argv[7:] == ["bf16"]
assert job == "dino", f"{job}: dino is the one job"
torch.set_num_threads(threads)
clock = Steps(batch)
ended, DINO.on_train_batch_end = DINO.on_train_batch_end, step  # it takes no callbacks of others
with tempfile.TemporaryDirectory() as out:
    lightly_train.pretrain(
        out=f"{out}/run", data=folder, model="timm/vit_tiny_patch16_224", model_args={"drop_path_rate": 0.1},
        method="dino", batch_size=batch, num_workers=workers, accelerator="cpu", devices=1,
        precision="bf16-mixed" if bf16 else "32-true", epochs=100, optim="adamw",
        method_args={"output_dim": 65536, "momentum_start": 0.996, "teacher_temp": 0.04, "warmup_teacher_temp": 0.04},
        transform_args={
            "random_resize": {"min_scale": 0.4, "max_scale": 1.0},
            "local_view": {"random_resize": {"min_scale": 0.05, "max_scale": 0.4}},
        },
        loggers={"jsonl": None, "tensorboard": None},
        callbacks={"model_checkpoint": None, "learning_rate_monitor": None}, trainer_args={"max_steps": steps},
    )  # fmt: skip
clock.say()
