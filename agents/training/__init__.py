"""The training loops, their settings and their checkpoints."""
