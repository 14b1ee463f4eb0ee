"""Write docs/images/chain.png: the chain of one user of the embedded data set, by a closed-form policy.

Run it by hand after a change of the renderer: ``python docs/make_picture.py [USER]``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
from PIL import Image

import refit_env

PICTURE = Path(__file__).resolve().parent / "images" / "chain.png"
USER = 19
"""Of the embedded set: 15 items shown, 3 of 4 hidden ones in the list."""


def chain(user: int) -> np.ndarray:
    """The finished chain of a user as a picture, (H, W, 3) uint8."""
    policy = refit_env.load_policy("ReFiT-Synthetic-v0")
    env = gym.make("ReFiT-Synthetic-v0", backbone=policy.backbone.name, render_mode="rgb_array")
    observation, _ = env.reset(seed=0, options={"user": user})
    terminated = False
    while not terminated:
        observation, _, terminated, _, _ = env.step(policy.act(observation))
    return np.asarray(env.render())


if __name__ == "__main__":
    PICTURE.parent.mkdir(exist_ok=True)
    Image.fromarray(chain(int(sys.argv[1]) if len(sys.argv) > 1 else USER)).save(PICTURE, optimize=True)
    print(f"wrote {PICTURE.name}: {PICTURE.stat().st_size / 1000:.0f} kB")
