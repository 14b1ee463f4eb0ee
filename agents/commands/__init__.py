"""The commands of ``refit``: one file each, one typed dataclass each, loaded when it is called."""
