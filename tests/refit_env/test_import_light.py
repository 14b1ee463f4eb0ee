"""`import refit_env` registers ids and does not load slow packages."""

from __future__ import annotations

import json
import subprocess
import sys

HEAVY = ("torch", "pandas", "scipy", "pyarrow", "matplotlib", "stable_baselines3", "pooch", "agents")


def modules_after(statement: str) -> set[str]:
    """Return the top-level modules that a new interpreter has loaded after ``statement``."""
    code = (
        f"{statement}\nimport json, sys\nprint(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_the_import_loads_no_slow_package() -> None:
    loaded = modules_after("import refit_env")
    assert "gymnasium" in loaded
    assert not loaded & set(HEAVY)


def test_the_ids_are_there_after_the_import_alone() -> None:
    modules_after("import refit_env, gymnasium; assert 'ReFiT-ML1M-v0' in gymnasium.registry")


def test_the_module_prefix_imports_the_package() -> None:
    modules_after("import gymnasium; gymnasium.make('refit_env:ReFiT-Synthetic-v0')")
