"""Episodes whose truth is known: a sprite that bounces over a ground, and a bar that fills as time goes."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def episode(rng: np.random.Generator, length: int, size: int = 84, speeds: tuple[float, float] = (2.0, 5.0)):
    """Frames [length, size, size] uint8 and states [length, 4]: the sprite's centre (x, y), its velocity, in pixels.

    Every episode has a ground of its own, soft waves of grey up to 200, as every game has its scenes. The sprite is a
    white square of an eighth of the frame with black edges; it starts anywhere in any direction and turns at the walls.
    The uppermost tenth is the bar: white from the left as far as the episode has come, black beyond.
    """
    half, top = max(size // 16, 1), size // 10
    low, high = np.array([half, half + top]), size - half
    place, way = rng.uniform(low, high), rng.choice([-1.0, 1.0], 2) * rng.uniform(*speeds, 2) * size / 84
    waves = rng.uniform(-12, 12, (3, 2)) / size
    phase = np.tensordot(waves, np.mgrid[:size, :size], 1) + rng.uniform(0, 2 * np.pi, (3, 1, 1))
    ground = (100 + 33 * np.sin(phase).sum(0)).astype(np.uint8)
    frames, states = np.empty((length, size, size), np.uint8), np.empty((length, 4))
    for t in range(length):
        frames[t] = ground
        x, y = np.round(place).astype(int)
        frames[t, y - half : y + half, x - half : x + half] = 0
        frames[t, y - half + 1 : y + half - 1, x - half + 1 : x + half - 1] = 255
        frames[t, :top] = 0
        frames[t, :top, : round(size * (t + 1) / length)] = 255
        states[t] = *place, *way
        place = place + way
        for axis in (0, 1):
            if not low[axis] <= place[axis] <= high:
                place[axis] = np.clip(
                    2 * (low[axis] if place[axis] < high / 2 else high) - place[axis], low[axis], high
                )
                way[axis] *= -1
    return frames, states


def write_episodes(folder: Path, count: int, length: int = 50, size: int = 84, seed: int = 0) -> np.ndarray:
    """`count` episodes as one array with terminal flags, as replay buffers have them. Returns the states [N, 4]."""
    rng = np.random.default_rng(seed)
    made = [episode(rng, length, size) for _ in range(count)]
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "observation_1.npy", np.concatenate([frames for frames, _ in made]))
    np.save(folder / "terminal_1.npy", np.arange(1, count * length + 1) % length == 0)
    return np.concatenate([states for _, states in made])
