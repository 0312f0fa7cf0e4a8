"""Real encoded clips whose truth is known: a shape that moves, a tone that goes with it, and captions that tell of it.

`python benchmarks/made_clips.py FOLDER --count 600` writes FOLDER/train and FOLDER/test: .mp4 files of H.264 and AAC,
an .srt (or .vtt) beside each, and `clips.csv` with the class of each (shape and motion), shape, motion and colour.

The class gives the caption's nouns and verbs and the tone: its pitch by the motion, its overtones by the shape. The
colour is in the picture and in the caption, and no class. Ground, size, place, speed, phase, loudness and noise vary
and tell nothing. A film lasts `seconds`; its sentences are spread over it, and those near its ends are of other things.
"""

from __future__ import annotations

import argparse
import csv
from fractions import Fraction
from pathlib import Path

import numpy as np

SHAPES = ("disc", "square", "triangle", "cross")
MOTIONS = ("right", "left", "up", "down", "growing", "spinning")
COLOURS = {"red": (220, 50, 40), "green": (60, 190, 70), "blue": (60, 90, 220), "yellow": (225, 205, 60)}
NAMES = {
    "disc": ("disc", "ball", "circle"), "square": ("square", "box", "block"), "triangle": ("triangle", "wedge"),
    "cross": ("cross", "plus"),
}  # fmt: skip
VERBS = {
    "right": ("moves to the right", "slides rightwards", "travels right"),
    "left": ("moves to the left", "slides leftwards", "travels left"), "up": ("rises", "goes up", "climbs"),
    "down": ("falls", "goes down", "sinks"), "growing": ("grows", "becomes larger"),
    "spinning": ("turns round", "spins", "rotates"),
}  # fmt: skip
FRAMES_OF_SPEECH = (
    "a {c} {n} {v}",
    "here the {c} {n} {v}",
    "look, the {n} {v}",
    "this {n} {v} now",
    "see how it {v}, the {n}",
)
CHATTER = (
    "welcome back everyone",
    "thank you for watching",
    "so let us begin",
    "and that was that",
    "please subscribe",
)
PITCH, OVERTONES = 300.0, {"disc": (1,), "square": (1, 0, 0.6, 0, 0.4), "triangle": (1, 0.8), "cross": (0.5, 0, 0, 1)}


def classes(shapes: int = 4, motions: int = 6) -> list[tuple[str, str]]:
    return [(shape, motion) for shape in SHAPES[:shapes] for motion in MOTIONS[:motions]]


def pictures(rng: np.random.Generator, shape: str, motion: str, colour: str, frames: int, size: int) -> np.ndarray:
    """[frames, size, size, 3] uint8; what moves goes round at the edges."""
    rows, columns = np.mgrid[:size, :size] / size
    waves, phase = rng.uniform(-9, 9, (3, 2)), rng.uniform(0, 2 * np.pi, (3, 1))
    ground = 110 + 40 * np.sin(waves @ np.stack([rows.ravel(), columns.ravel()]) + phase)
    ground = ground.T.reshape(size, size, 3) + rng.uniform(-35, 35, 3)
    centre, radius, speed = rng.uniform(0, 1, 2), rng.uniform(0.14, 0.22), rng.uniform(0.03, 0.06)
    way = {"right": (0, 1), "left": (0, -1), "up": (-1, 0), "down": (1, 0)}.get(motion, (0, 0))
    angle, turn = rng.uniform(0, 2 * np.pi), 0.35 * (motion == "spinning") * rng.uniform(0.7, 1.3)
    swell = rng.uniform(0, 1)
    paint = np.array(COLOURS[colour]) + rng.uniform(-25, 25, 3)
    made = np.empty((frames, size, size, 3), np.uint8)
    for t in range(frames):
        y, x = ((a - c - t * speed * w + 0.5) % 1 - 0.5 for a, c, w in zip((rows, columns), centre, way, strict=True))
        r = radius * (0.6 + 0.9 * ((swell + t * speed * 1.5) % 1)) if motion == "growing" else radius
        turned = angle * (motion == "spinning") + turn * t
        u, v = (x * np.cos(turned) + y * np.sin(turned)) / r, (y * np.cos(turned) - x * np.sin(turned)) / r
        inside = {
            "disc": u**2 + 1.6 * v**2 < 1, "square": (abs(u) < 0.9) & (abs(v) < 0.9),
            "triangle": (v < 0.8) & (v > 2 * abs(u) - 1),
            "cross": ((abs(u) < 0.33) | (abs(v) < 0.33)) & (abs(u) < 1) & (abs(v) < 1),
        }[shape]  # fmt: skip
        frame = np.where(inside[..., None], paint, ground) + rng.normal(0, 5, (size, size, 1))
        made[t] = frame.clip(0, 255)
    return made


def sound(rng: np.random.Generator, shape: str, motion: str, seconds: float, rate: int) -> np.ndarray:
    """[n] float32: the motion's pitch with the shape's overtones, beating at a rate of its own, in noise."""
    t = np.arange(int(seconds * rate)) / rate
    pitch = PITCH * 2 ** (MOTIONS.index(motion) / 3) * rng.uniform(0.97, 1.03)
    tone = sum(
        a * np.sin(2 * np.pi * (k + 1) * pitch * t + rng.uniform(0, 2 * np.pi)) for k, a in enumerate(OVERTONES[shape])
    )
    beat = 0.7 + 0.3 * np.sin(2 * np.pi * rng.uniform(1, 4) * t + rng.uniform(0, 2 * np.pi))
    wave = rng.uniform(0.1, 0.3) * beat * tone + rng.normal(0, rng.uniform(0.005, 0.03), len(t))
    return wave.astype(np.float32)


def sentences(rng: np.random.Generator, shape: str, motion: str, colour: str, seconds: float, count: int = 5):
    """(start, end, words) in their order; of `count` those at the ends may be chatter."""
    edges, found = np.linspace(0, seconds, count + 1), []
    for k in range(count):
        words = str(rng.choice(FRAMES_OF_SPEECH)).format(
            c=colour, n=rng.choice(NAMES[shape]), v=rng.choice(VERBS[motion])
        )
        if k in (0, count - 1) and rng.random() < 0.5:
            words = str(rng.choice(CHATTER))
        found.append((float(edges[k]), float(edges[k + 1]) - 0.05, words))
    return found


def write_film(path: Path, frames: np.ndarray, fps: int, wave: np.ndarray | None, rate: int) -> None:
    """H.264 and, where there is a wave, AAC."""
    import av

    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=fps, options={"preset": "ultrafast", "crf": "20"})
        video.height, video.width, video.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        video.codec_context.gop_size, video.codec_context.thread_count = fps, 1
        audio = None
        if wave is not None:
            audio = out.add_stream("aac", rate=rate, layout="mono")
            audio.bit_rate = 64_000
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
        if audio is not None:
            frame = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
            frame.rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
            out.mux(audio.encode(frame))
            out.mux(audio.encode(None))


def write_words(path: Path, said: list[tuple[float, float, str]]) -> None:
    """As SubRip or WebVTT, by the ending."""
    mark = "." if path.suffix == ".vtt" else ","

    def clock(t: float) -> str:
        return f"{int(t // 3600):02d}:{int(t // 60 % 60):02d}:{t % 60:06.3f}".replace(".", mark)

    cues = [f"{k}\n{clock(a)} --> {clock(b)}\n{words}\n" for k, (a, b, words) in enumerate(said, start=1)]
    path.write_text(("WEBVTT\n\n" if path.suffix == ".vtt" else "") + "\n".join(cues), encoding="utf-8")


def write_clips(
    folder: Path, count: int, *, shapes: int = 4, motions: int = 6, seconds: tuple[float, float] = (2.0, 4.0),
    size: int = 64, fps: int = 10, rate: int = 16_000, no_sound: float = 0.0, no_text: float = 0.0,
    no_video: float = 0.0, words: str = ".srt", seed: int = 0,
) -> Path:  # fmt: skip
    """`count` clips, classes in turn, and `clips.csv`, which is returned. Shares lack their sound, text or pictures; a
    clip without pictures is a .wav. A clip is the same whatever the count."""
    folder.mkdir(parents=True, exist_ok=True)
    kinds, rows = classes(shapes, motions), []
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        shape, motion = kinds[number % len(kinds)]
        colour = str(rng.choice(list(COLOURS)))
        length = round(rng.uniform(*seconds) * fps) / fps
        u = rng.random(3)
        frames = pictures(rng, shape, motion, colour, round(length * fps), size)
        wave = sound(rng, shape, motion, length, rate)
        said = sentences(rng, shape, motion, colour, length)
        name, stem = "", f"{number:05d}"
        row = {"video": "", "audio": "", "text": "", "label": f"{shape} {motion}", "shape": shape, "motion": motion}
        if u[2] < no_video:
            import soundfile

            row["audio"] = name = f"{stem}.wav"
            soundfile.write(folder / name, wave, rate)
        else:
            row["video"] = name = f"{stem}.mp4"
            write_film(folder / name, frames, fps, None if u[0] < no_sound else wave, rate)
            row["audio"] = "" if u[0] < no_sound else name
        if u[1] >= no_text:
            row["text"] = f"{stem}{words}"
            write_words(folder / row["text"], said)
        rows.append({**row, "colour": colour, "caption": said[len(said) // 2][2]})
    with open(folder / "clips.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return folder / "clips.csv"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    for name, default in {"count": 600, "test": 240, "shapes": 4, "motions": 6, "size": 64, "fps": 10}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--rate", type=int, default=16_000, help="of the sound, Hz")
    parser.add_argument("--seconds", type=float, nargs=2, default=(2.0, 4.0))
    for name in ("no-sound", "no-text", "no-video"):
        parser.add_argument(f"--{name}", type=float, default=0.0, help="share of the training clips")
    parser.add_argument("--words", choices=(".srt", ".vtt"), default=".srt")
    parser.add_argument("--seed", type=int, default=0)
    given = vars(parser.parse_args())
    folder, count, test = given.pop("folder"), given.pop("count"), given.pop("test")
    lacking = ("no_sound", "no_text", "no_video")
    write_clips(folder / "train", count, **given)
    whole = {name: value for name, value in given.items() if name not in lacking}
    write_clips(folder / "test", test, **{**whole, "seed": given["seed"] + 1_000_003})
    print(f"{count} clips in {folder / 'train'}, {test} in {folder / 'test'}")


if __name__ == "__main__":
    main()
