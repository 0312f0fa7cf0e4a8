"""Episodes whose truth is known: one sprite that bounces inside a frame, with its position and velocity."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def episode(rng: np.random.Generator, length: int, size: int = 84, speeds: tuple[float, float] = (2.0, 5.0)):
    """Frames [length, size, size] uint8 and states [length, 4]: the sprite's centre (x, y), its velocity, in pixels.

    The sprite is a pale rectangle of an eighth of the frame on a dark ground with a grid, so that its place can be
    seen; it starts anywhere in any direction and turns at the walls.
    """
    half = max(size // 16, 1)
    low, high = half, size - half
    place, way = rng.uniform(low, high, 2), rng.choice([-1.0, 1.0], 2) * rng.uniform(*speeds, 2) * size / 84
    ground = np.full((size, size), 40, np.uint8)
    ground[:: size // 7] = ground[:, :: size // 7] = 60
    frames, states = np.empty((length, size, size), np.uint8), np.empty((length, 4))
    for t in range(length):
        frames[t] = ground
        x, y = np.round(place).astype(int)
        frames[t, y - half : y + half, x - half : x + half] = 220
        states[t] = *place, *way
        place = place + way
        for axis in (0, 1):
            if not low <= place[axis] <= high:
                place[axis] = np.clip(2 * (low if place[axis] < low else high) - place[axis], low, high)
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
