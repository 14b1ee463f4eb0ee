"""Readers of official file formats, and the unpickler that runs nothing."""
