"""Choices for one's own data: what is there, what to try, and a study that tries it on validation."""
