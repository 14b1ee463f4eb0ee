"""Data sets: readers of official formats, the canonical form, splits and the cache."""
