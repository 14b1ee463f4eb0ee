"""The files of a run: their names, and the errors about a folder of them.

===================  =========================================================================
file                 holds
===================  =========================================================================
``config.json``      the command with all its settings, the seed, versions and the machine
``policy.*``         the weights (``.safetensors``) and what they belong to (``.json``)
``ids.json``         the source's ids of the users and items that the model was trained on
``metrics.json``     the result; written last, so it exists only if the run ended
``log.csv``, ``tb``  scalars of every iteration, as a table and as TensorBoard events
``curve.png``        a picture of the log
``trials.jsonl``     of ``refit tune``: what was tried, a line each
``settings.json``    of ``refit tune``: what ``pretrain`` and ``finetune`` take by ``--settings``
``candidates``       of ``refit tune``, until it ends: policies that it may still need
``.earlier``         the finished run that ``--overwrite`` replaces, until the new one is finished, too
``.lock``            there while a process works on the run
===================  =========================================================================
"""

from __future__ import annotations

CONFIG, METRICS, POLICY, POLICY_META = "config.json", "metrics.json", "policy.safetensors", "policy.json"
IDS = "ids.json"
LOG, TENSORBOARD, CURVE, LOCK = "log.csv", "tb", "curve.png", ".lock"
TRIALS, SETTINGS, CANDIDATES = "trials.jsonl", "settings.json", "candidates"
EARLIER = ".earlier"
DATASET = "dataset.json"
"""What a folder with a data set holds."""
LARGEST = 2**20
"""Bytes of the largest ``config.json`` or ``metrics.json`` that is read."""
PRETRAINING, FINE_TUNING = "pretrain", "resume"
"""Stems of the files that hold the state of a training."""
STATES = tuple(f"{stem}.safetensors" for stem in (PRETRAINING, FINE_TUNING))
"""Files of the state of a training; a finished run has none."""
KEEPING = (*STATES, POLICY, METRICS, TRIALS, CANDIDATES)
"""What a run that failed is kept for."""
OF_FINE_TUNING = ("before", "after", "users", "paired_bootstrap")
"""What ``metrics.json`` of a fine-tuning holds, all of it."""
RUN_FILES = (METRICS, *STATES, POLICY, POLICY_META, IDS, LOG, CURVE, TRIALS, SETTINGS)
"""The files of a run but ``config.json``."""
RUN_FOLDERS = (TENSORBOARD, CANDIDATES)
"""The folders of a run."""


class RunError(ValueError):
    """A run folder is missing, incomplete, or holds another run than expected."""


class RunInUseError(RunError):
    """Another process works on a run."""
