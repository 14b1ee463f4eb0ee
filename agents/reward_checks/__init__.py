"""Measurements of a reward before any training: is it well formed, does it vary, what does it prefer."""
