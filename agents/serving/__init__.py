"""Recommendations outside of training: lists for users and histories, exported models, the HTTP service."""
