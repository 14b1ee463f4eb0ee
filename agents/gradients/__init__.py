"""Pure functions: a rollout and a reward give derivatives or advantages."""
