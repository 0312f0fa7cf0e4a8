"""Does TOV-VICReg serve an agent? Pre-train on what a random policy saw of an Atari game, then probe and play.

    pip install gymnasium ale-py stable-baselines3 opencv-python-headless
    python benchmarks/atari.py --game MsPacman --set size=48

Frames are as in the paper's data: 84 x 84, grey, every fourth, the last two pooled. What is asked, beside the encoder
with random weights, over seeds that each draw frames, run and agent anew:

- order: does the head tell the right order of unseen episodes from that with before and after exchanged (chance: half)?
- state: R² of a ridge probe for where things are, read from the machine's memory, on unseen episodes;
- play: a DQN (of stable-baselines3, its defaults but for the short run) that sees the frozen features alone; its mean
  return over episodes after training, beside that of random actions.

A line goes to benchmarks/results/LOG.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import ale_py
import gymnasium as gym
import numpy as np
import torch
from gymnasium.wrappers import AtariPreprocessing
from log import note  # beside this file
from order import of_stacks, time_accuracy, trained  # beside this file
from stable_baselines3 import DQN

import tacit
from tacit.data import Source, open_source
from tacit.encoders import Encoder
from tacit.evaluation import difference, features
from tacit.evaluation.regression import ridge
from tacit.evaluation.task import random_twin
from tacit.run import write_json

# Where in the machine's memory positions are.
MEMORY = {
    "MsPacman": {"player x": 10, "player y": 16, "ghost x": 9, "ghost y": 15},
    "Pong": {"player y": 51, "enemy y": 50, "ball x": 49, "ball y": 54},
    "Breakout": {"player x": 72, "ball x": 99, "ball y": 101},
}


def environment(game: str) -> gym.Env:
    return AtariPreprocessing(gym.make(f"ALE/{game}-v5", frameskip=1), screen_size=84, frame_skip=4, noop_max=30)


def rollout(game: str, folder: Path, steps: int, seed: int) -> tuple[np.ndarray, float]:
    """Frames of random actions as arrays with terminal flags. Returns the states [steps, S] and the mean return."""
    if (folder / "states.npy").is_file():
        return np.load(folder / "states.npy"), float(np.load(folder / "return.npy"))
    env, rng = environment(game), np.random.default_rng(seed)
    frames, ends, states, returns = [], [], [], [0.0]
    frame, _ = env.reset(seed=seed)
    for _ in range(steps):
        frames.append(frame)
        states.append(env.unwrapped.ale.getRAM()[list(MEMORY[game].values())])
        frame, reward, terminated, truncated, _ = env.step(int(rng.integers(env.action_space.n)))
        returns[-1] += float(reward)
        ends.append(terminated or truncated)
        if ends[-1]:
            frame, _ = env.reset()
            returns.append(0.0)
    folder.mkdir(parents=True, exist_ok=True)
    ends[-1] = True
    np.save(folder / "observation_1.npy", np.stack(frames))
    np.save(folder / "terminal_1.npy", np.array(ends))
    np.save(folder / "return.npy", np.mean(returns[:-1] or returns))
    np.save(folder / "states.npy", np.stack(states))
    return np.stack(states), float(np.mean(returns[:-1] or returns))


def state(encoder: Encoder, train: Source, states: np.ndarray, test: Source, truth: np.ndarray) -> np.ndarray:
    """R² [S] on unseen episodes; the penalty is chosen on the last fifth of the training stacks."""
    x, y = (features(encoder, s, workers=0).x.numpy() for s in (train, test))
    states, truth = (of_stacks(s, v.astype(np.float64)) for s, v in ((train, states), (test, truth)))
    cut = len(x) * 4 // 5
    predicted = ridge(x, states, y, select="held-out", parts=(np.arange(cut), np.arange(cut, len(x)))).predicted
    return 1 - np.square(predicted - truth).sum(0) / np.square(truth - truth.mean(0)).sum(0)


class Seen(gym.ObservationWrapper):
    """Observations are a frozen encoder's features of the last frames, standardised by those of the rollout."""

    def __init__(self, env: gym.Env, encoder: Encoder, mean: np.ndarray, std: np.ndarray):
        super().__init__(env)
        self.encoder, self.mean, self.std = encoder.eval(), mean, std
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, mean.shape, np.float32)
        self.frames: list[np.ndarray] = []

    def reset(self, **how):
        self.frames = []
        return super().reset(**how)

    @torch.no_grad()
    def observation(self, frame: np.ndarray) -> np.ndarray:
        inputs = self.encoder.inputs
        self.frames = [*(self.frames or [frame] * inputs.channels), frame][-inputs.channels :]
        image = torch.from_numpy(np.stack(self.frames))[None]
        image = torch.nn.functional.interpolate(image.float(), size=inputs.size, mode="bilinear", antialias=True)
        found = self.encoder(inputs.prepare(image.round().to(torch.uint8)))[0]
        return (found.numpy() - self.mean) / self.std


def play(game: str, encoder: Encoder, source: Source, steps: int, episodes: int, seed: int) -> float:
    """Mean return of the trained agent over episodes, exploring in one action of twenty."""
    x = features(encoder, source, workers=0).x.numpy()
    env = Seen(environment(game), encoder, x.mean(0), x.std(0) + 1e-6)
    agent = DQN(
        "MlpPolicy", env, seed=seed, learning_rate=3e-4, learning_starts=1000, target_update_interval=500,
        exploration_fraction=0.5, buffer_size=steps, device="cpu", policy_kwargs={"net_arch": [256, 256]},
    )  # fmt: skip
    agent.learn(steps)
    rng, returns = np.random.default_rng(seed), []
    for episode in range(episodes):
        seen, _ = env.reset(seed=1000 * (seed + 1) + episode)
        total, over = 0.0, False
        while not over:
            action = agent.predict(seen, deterministic=True)[0] if rng.random() > 0.05 else env.action_space.sample()
            seen, reward, terminated, truncated, _ = env.step(int(action))
            total, over = total + float(reward), terminated or truncated
        returns.append(total)
    return float(np.mean(returns))


def one_seed(options: argparse.Namespace, seed: int) -> dict:
    out = options.out / f"{options.game}-{seed}"
    if (out / "result.json").is_file():
        return json.loads((out / "result.json").read_text(encoding="utf-8"))
    states, chance = rollout(options.game, out / "train", options.frames, 2 * seed)
    truth, _ = rollout(options.game, out / "test", options.frames // 4, 2 * seed + 1)
    run = tacit.pretrain(
        "tov_vicreg", f"episodes:{out / 'train'}:edges=drop", out / "run", preset="small", seed=seed, resume=True,
        epochs=options.epochs, set=["check_every=0", *options.set], workers=0,
    )  # fmt: skip
    train, test = (open_source(f"episodes:{out / part}:edges=drop") for part in ("train", "test"))
    method = trained(run)
    found: dict = {"order": float(time_accuracy(method, test).mean()), "return": {"random actions": chance}, "r2": {}}
    for of, encoder in (("run", method.encoder), ("random init", random_twin(method.encoder, seed).eval())):
        found["r2"][of] = state(encoder, train, states, test, truth).tolist()
        if options.play:
            found["return"][of] = play(options.game, encoder, train, options.play, options.episodes, seed)
    print(f"seed {seed}: {json.dumps(found)}", file=sys.stderr)
    write_json(out / "result.json", found)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--game", default="MsPacman", choices=list(MEMORY))
    parser.add_argument("--frames", type=int, default=8000, help="of the random policy, to train on")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--play", type=int, default=20000, help="steps of the agent's training; 0 for none")
    parser.add_argument("--episodes", type=int, default=10, help="the trained agent is scored on")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--out", type=Path, default=Path("runs/atari"))
    options = parser.parse_args()
    gym.register_envs(ale_py)
    seeds = [one_seed(options, seed) for seed in options.seeds]

    def against(values: list[float], others: list[float]) -> str:
        gain, low, high = difference(np.array(values), np.array(others))
        return f"{np.mean(values):.2f} and {np.mean(others):.2f}, {gain:+.2f} ({low:.2f} to {high:.2f})"

    order, low, high = difference(np.array([s["order"] for s in seeds]), np.zeros(len(seeds)))
    told = [f"order told {100 * order:.1f} % ({100 * low:.1f} to {100 * high:.1f})"]
    for i, name in enumerate(MEMORY[options.game]):
        told.append(f"R² of {name} " + against(*([s["r2"][of][i] for s in seeds] for of in ("run", "random init"))))
    if options.play:
        told.append("return " + against(*([s["return"][of] for s in seeds] for of in ("run", "random init"))))
        told.append(f"of random actions {np.mean([s['return']['random actions'] for s in seeds]):.2f}")
    note(f"{options.game} tov_vicreg, pre-trained and random init, {len(seeds)} seeds: {'; '.join(told)}")


if __name__ == "__main__":
    main()
