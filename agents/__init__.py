"""Agents that fine-tune diffusion recommenders."""
