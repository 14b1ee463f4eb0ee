"""Choices for the user's own data: facts of the data, candidates, and a study of them on validation."""
