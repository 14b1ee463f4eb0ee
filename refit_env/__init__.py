"""refit-env: reinforcement-learning environments on diffusion recommenders."""
