"""Runs ``refit``, for launchers that start modules: ``torchrun -m agents finetune ...``."""

import sys

from agents.cli import main

if __name__ == "__main__":
    sys.exit(main())
