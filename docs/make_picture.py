"""Write the pictures of README: the chain of one user of the embedded data set, the curves of ``refit demo``.

Run it by hand after a change of the renderer, ``python docs/make_picture.py [--user USER]``, or after a demo,
``python docs/make_picture.py --demo runs/demo``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gymnasium as gym
import numpy as np
from PIL import Image

import refit_env

IMAGES = Path(__file__).resolve().parent / "images"
USER = 19
"""A user of the embedded set: 15 items shown, 3 of 4 hidden ones in the list."""


def chain(user: int) -> np.ndarray:
    """The finished chain of a user as a picture, (H, W, 3) uint8."""
    policy = refit_env.load_policy("ReFiT-Synthetic-v0")
    env = gym.make("ReFiT-Synthetic-v0", backbone=policy.backbone.name, render_mode="rgb_array")
    observation, _ = env.reset(seed=0, options={"user": user})
    terminated = False
    while not terminated:
        observation, _, terminated, _, _ = env.step(policy.act(observation))
    return np.asarray(env.render())


def save(picture: Image.Image, name: str) -> None:
    """Write a picture into docs/images."""
    IMAGES.mkdir(exist_ok=True)
    path = IMAGES / name
    picture.save(path, optimize=True)
    print(f"wrote {path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the pictures of README.")
    parser.add_argument("--user", type=int, default=USER)
    parser.add_argument("--demo", type=Path, help="the folder of a finished refit demo: its curve is copied")
    options = parser.parse_args()
    if options.demo is not None:
        save(Image.open(options.demo / "curve.png").convert("P", palette=Image.Palette.ADAPTIVE), "demo.png")
    else:
        save(Image.fromarray(chain(options.user)), "chain.png")
