"""Published figures, on the real data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from agents.baselines import fit_baseline
from refit_env.data import load_canonical
from refit_env.evaluation.ranking import evaluate


@pytest.mark.slow
def test_gf_cf_on_gowalla(data_home: Path) -> None:
    """Recall@20 .1849 and NDCG@20 .1518 by Shen et al. (CIKM 2021), here of 8,000 users drawn at random."""
    if not (data_home / "gowalla").is_dir():
        pytest.skip("no Gowalla in REFIT_DATA_HOME")
    dataset = load_canonical(data_home / "gowalla")
    users = np.random.default_rng(0).permutation(dataset.num_users)[:8000]
    scorer, joined = fit_baseline(dataset, "gf-cf", {"rank": 256, "alpha": 0.3}, refit=True)
    means = evaluate(scorer, joined, "test", users=np.sort(users)).means()
    assert means["recall@20"] == pytest.approx(0.1849, rel=0.02)
    assert means["ndcg@20"] == pytest.approx(0.1518, rel=0.02)
