"""The settings that validation chose, by environment."""
