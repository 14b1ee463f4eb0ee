"""Readers of official file formats, and an unpickler that runs no code."""
