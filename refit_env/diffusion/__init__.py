"""Gaussian diffusion: noise schedules, the forward process, the posterior, step respacing, likelihood."""

from refit_env.diffusion.process import Diffusion
from refit_env.diffusion.schedule import SCHEDULES, betas, vp_betas

__all__ = ["SCHEDULES", "Diffusion", "betas", "vp_betas"]
