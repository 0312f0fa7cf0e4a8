"""Does a run survive what happens to runs? Three proofs, each a command:

    python benchmarks/reliability.py kill      SIGKILL at 20 random moments, resumed each time: the same weights?
    python benchmarks/reliability.py broken    10,000 files, 5 % broken in ten ways: all listed? stopped by default?
    python benchmarks/reliability.py workers   0, 1 and 3 workers: the same losses and weights?

Nothing from outside is needed: the images are made. Each appends a line to benchmarks/results/LOG.md.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import random
import shutil
import signal
import time
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from log import note  # beside this file
from PIL import Image

import tacit
from tacit.errors import DataError

TINY = ["size=16", "patch=8", "hidden=32", "out=16", "queue_size=64", "check_every=0", "log_every=1"]


def pretrain(data: Path, out: Path, *, extra: tuple[str, ...] = (), **changes) -> tacit.Run:
    options = {"preset": "small", "encoder": "vit_mini", "batch_size": 16, "workers": 0, "quiet": True, **changes}
    return tacit.pretrain("moby", data, out, set=[*TINY, *extra], **options)


def pictures(folder: Path, count: int, side: int = 20) -> Path:
    """Smooth random pictures, half JPEG and half PNG, 1,000 to a folder."""
    rng = np.random.default_rng(0)
    for i in range(count):
        path = folder / f"{i // 1000:03d}" / f"{i:06d}.{'jpg' if i % 2 else 'png'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize((side, side), 3).save(path)
    return folder


def weights(run: tacit.Run) -> dict[str, torch.Tensor]:
    return torch.load(run.path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def same(a: tacit.Run, b: tacit.Run) -> bool:
    first, second = weights(a), weights(b)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def kill(work: Path, kills: int = 20, steps: int = 800) -> str:
    """A forked child trains and is killed after a random time; what it left is resumed by the next."""
    data = pictures(work / "data", 400)
    whole = pretrain(data, work / "whole", steps=steps)
    context, rng, out = multiprocessing.get_context("fork"), random.Random(0), work / "killed"
    done, reached = 0, []
    while done < kills:
        options = {"steps": steps, "resume": True, "workers": done % 2, "extra": ("save_every=0.1",)}
        child = context.Process(target=pretrain, args=(data, out), kwargs=options)
        child.start()
        time.sleep(rng.uniform(0.3, 4.5))
        assert child.is_alive(), "the run ended before it was killed often enough: give it more steps"
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        done += 1
        last = out / "checkpoints" / "last.ckpt"
        reached.append(torch.load(last, weights_only=True)["tacit"]["step"] if last.is_file() else 0)
    run = pretrain(data, out, steps=steps, resume=True)
    logged = [step for step, _ in run.metrics["loss"]]
    assert same(run, whole), "the weights differ"
    assert logged == list(range(steps)), "the log has gaps or repeats"
    assert run.metrics["loss"] == whole.metrics["loss"], "the losses differ"
    litter = sum(1 for p in out.rglob("*.part"))
    return (
        f"{done} SIGKILLs in a run of {steps} steps, saved at steps {reached}: weights, losses and log are to the bit "
        f"those of a run never killed; {litter} temporary files left"
    )


def broken_kinds() -> dict[str, bytes | None]:
    """Ten ways for a file to be broken; None is a link to nowhere."""
    smooth = Image.fromarray(np.random.default_rng(1).integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize((64, 64), 3)
    jpeg, png, nan = io.BytesIO(), io.BytesIO(), io.BytesIO()
    smooth.save(jpeg, "JPEG")
    smooth.save(png, "PNG")
    np.save(nan, np.full((8, 8, 3), np.nan, dtype=np.float32))
    header = b"IHDR" + (60_000).to_bytes(4, "big") * 2 + png.getvalue()[24:29]
    bomb = png.getvalue()[:12] + header + zlib.crc32(header).to_bytes(4, "big") + png.getvalue()[33:]
    five = io.BytesIO()
    np.save(five, np.zeros((8, 8, 5), dtype=np.uint8))
    return {
        "empty": b"",
        "truncated jpeg": jpeg.getvalue()[: len(jpeg.getvalue()) // 2],
        "truncated png": png.getvalue()[: len(png.getvalue()) // 2],
        "web page": b"<!doctype html><title>404</title>",
        "text": b"This is not a picture at all, whatever its name says.",
        "zip": b"PK\x03\x04" + bytes(60),
        "zeros": bytes(512),
        "bomb": bomb,
        "nan.npy": nan.getvalue(),
        "five.npy": five.getvalue(),
        "link": None,
    }


def break_some(data: Path, share: float) -> dict[str, str]:
    """Break every n-th file, by the kinds in turn; `{name: kind}`."""
    kinds = list(broken_kinds().items())
    kinds = [kind for kind in kinds if kind[0] != "zeros"]
    broken = {}
    for number, path in enumerate(sorted(data.rglob("*.*"))[:: round(1 / share)]):
        kind, content = kinds[number % len(kinds)]
        path.unlink()
        target = path.with_suffix(".npy") if kind.endswith(".npy") else path
        if content is None:
            target.symlink_to("nowhere")
        else:
            target.write_bytes(content)
        broken[str(target.relative_to(data))] = kind
    return broken


def broken(work: Path, count: int = 10_000) -> str:
    data = pictures(work / "data", count)
    made = break_some(data, 0.05)
    try:
        pretrain(data, work / "default", epochs=1, batch_size=64)
        raise AssertionError("5 % of broken files did not stop a run that allows 1 %")
    except DataError as error:
        message = str(error).replace(str(work), "WORK")
    run = pretrain(data, work / "allowed", epochs=1, batch_size=64, max_bad=0.1)
    listed = dict(run.bad_files)
    assert listed.keys() == made.keys(), f"{len(listed)} of {len(made)} listed"
    reasons = {
        kind: Counter(listed[n] for n, k in made.items() if k == kind).most_common(1)[0][0] for kind in made.values()
    }
    print(message)
    for kind, reason in reasons.items():
        print(f"  {kind:15} {reason}")
    return (
        f"{count:,} files, {len(made)} broken in {len(reasons)} ways: one epoch with --max-bad 10% finished and listed "
        f"each with its reason; by default the run stopped: {message.splitlines()[0][:120]}…"
    )


def workers(work: Path) -> str:
    data = pictures(work / "data", 400)
    runs = [pretrain(data, work / str(n), steps=50, workers=n) for n in (0, 1, 3)]
    for run in runs[1:]:
        assert run.metrics["loss"] == runs[0].metrics["loss"], "the losses differ"
        assert same(run, runs[0]), "the weights differ"
    return "0, 1 and 3 workers: the same 50 losses and the same weights to the bit"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("proof", choices=["kill", "broken", "workers"])
    parser.add_argument("--work", type=Path, default=Path("runs/reliability"), help="where files and runs are made")
    options = parser.parse_args()
    work = options.work / options.proof
    shutil.rmtree(work, ignore_errors=True)
    told = {"kill": kill, "broken": broken, "workers": workers}[options.proof](work.resolve())
    note(f"reliability {options.proof}: {told}")


if __name__ == "__main__":
    main()
