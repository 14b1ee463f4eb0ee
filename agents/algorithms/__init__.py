"""Algorithms, one a file: each reads as its equation."""
