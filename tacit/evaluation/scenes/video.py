"""`video`: the objects of a first frame followed by patch features alone, as DAVIS-2017 scores it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tacit.encoders import Encoder, step
from tacit.errors import BadSettings
from tacit.evaluation.scenes.scene import Found, Job, Opened, Scene, one_folder
from tacit.evaluation.video import summary, track_all
from tacit.evaluation.video_sets import Video, open_videos

NEEDS = "videos with a mask a frame: DAVIS-2017, or frames/VIDEO/ and masks/VIDEO/"


def open_data(data: Path, test: Path | None, encoder: Encoder, options: dict[str, Any]) -> Opened:
    videos = open_videos(one_folder("video", data, test, NEEDS), options["split"], options["resolution"])
    return Opened(videos, [[f"{video.name}/{frame.name}" for video in videos for frame in video.frames]])


def check(encoder: Encoder, options: dict[str, Any]) -> None:
    unit = step(encoder)
    wrong = [f"video:{name} = {options[name]}: must be a multiple of {unit}, which {encoder.name} takes."
             for name in ("short", "multiple") if options[name] % unit]  # fmt: skip
    if wrong:
        raise BadSettings(wrong)


def run(
    job: Job, data: list[Video], *,
    short: int = 480, multiple: int = 64, context: int = 7, radius: int = 12, top: int = 5, temperature: float = 0.1,
    split: str = "val", resolution: str = "480p",
) -> Found:  # fmt: skip
    """J&F, J and F, each the mean over objects of the mean over frames, intervals over videos (DINO, section 4.2).

    See `video.propagate`; `short` and `multiple` are those of `video.working_size`, and `split` and `resolution` name
    the parts of a DAVIS folder.
    """
    how = {"short": short, "multiple": multiple, "context": context, "radius": radius, "top": top,
           "temperature": temperature}  # fmt: skip
    tracked = track_all(job.encoder, data, device=job.device, progress=job.tell, **how)
    values = summary(tracked)
    of_video = [one.video for one in tracked]
    about = how | {
        "split": split, "resolution": resolution, "feature": "patch tokens after the last norm", "videos": len(data),
        **{name: round(float(values[name].mean()), 4) for name in ("j_recall", "j_decay", "f_recall", "f_decay")},
    }  # fmt: skip
    scores = [job.mean(name, values[name], about, of_video, "videos") for name in ("jf_mean", "j_mean", "f_mean")]
    return Found(scores, [])


SCENE = Scene(open_data, run, NEEDS, reads=("split", "resolution"), check=check)
