"""Atomic writing of files and folders, a cache keyed by content, text for terminals, ridge regression."""
