"""``--reward my_reward.py:FreshHits``: one's own reward in one file, on the command line and in Python."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from agents import Reinforce, ReinforceConfig
from agents.cli import main
from agents.runs.files import CONFIG
from agents.runs.folder import RunFolder
from agents.training.fine_tuner import FineTuner
from agents.tuning.study import Study
from refit_env import load_policy
from refit_env.errors import CheckpointError
from refit_env.utils import user_code
from tests.files import content_of

TEXT = """
import torch
from refit_env.rewards import ListReward, Reward

def gap(scores, users):
    return scores.amax(1) - scores.mean(1)

class FreshHits(ListReward):
    counts_relevant = True

    def __init__(self, context, *, half_life: float = 1.0):
        super().__init__(context, 0.5 ** (torch.arange(context.k) / half_life), {"fresh": 1.0})

    def term_gains(self, users):
        return {"fresh": self.context.relevant.dense(users)}

class Idle(Reward):
    pass

number = 3
"""
OPTIONS = ["--iterations", "4", "--eval-every", "2", "--users-per-batch", "16", "--quiet", "--device", "cpu"]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "my_reward.py"
    path.write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    return path


def words(init: Path, reward: str, *more: str) -> list[str]:
    return ["finetune", "--init", str(init), "--reward", reward, "--out", "run", *OPTIONS, *more]


def interrupted(monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    step = FineTuner._step

    def stop(self: FineTuner) -> dict[str, float]:
        if self.iteration == 3:
            raise KeyboardInterrupt
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(FineTuner, "_step", stop)
        assert main(command) == 130


def test_a_list_reward_in_a_file_is_trained_and_recorded(pretrained: Path, file: Path) -> None:
    assert main(words(pretrained, "my_reward.py:FreshHits", "--reward-options", "half_life=3")) == 0
    config, digest = RunFolder("run").config, hashlib.sha256(file.read_bytes()).hexdigest()
    place = f"{file}:FreshHits"
    assert config["env_kwargs"]["reward"] == place and config["agent"]["estimator"] == "pathwise"
    assert config["reward_files"] == {place: {"file": str(file), "sha256": digest}}


def test_a_function_is_trained_by_the_score_estimator_which_is_said(
    pretrained: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(pretrained, "my_reward.py:gap=1,ndcg=0.5")) == 0
    err = capsys.readouterr().err
    assert "reward gap is no list reward, which estimator 'pathwise' needs: estimator 'score' is used" in err
    agent = RunFolder("run").config["agent"]
    assert (agent["estimator"], agent["samples_per_user"], agent["users_per_batch"]) == ("score", 16, 16)


def test_the_default_agent_accepts_a_function_in_python(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ReinforceConfig(iterations=2, eval_every=2, users_per_batch=8, samples_per_user=2)
    reward = {"ndcg": 1.0, max_score: 0.1}
    agent = Reinforce(load_policy("ReFiT-Synthetic-v0", num_steps=1), "ReFiT-Synthetic-v0", config,
                      env_kwargs={"reward": reward}, device="cpu")  # fmt: skip
    assert agent.config.estimator == "score" and agent.env.num_envs == 16
    agent.learn()
    assert "reward max_score is no list reward" in capsys.readouterr().err


def max_score(scores, users):  # type: ignore[no-untyped-def]
    return scores.amax(1)


def test_another_content_does_not_resume_the_run(
    pretrained: Path, file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(monkeypatch, words(pretrained, "my_reward.py:FreshHits"))
    was = user_code.source_of("reward", "my_reward.py:FreshHits")
    file.write_text(TEXT + "open('ran.txt', 'w').close()\n")
    assert main(["finetune", "--resume", "--out", "run", "--quiet"]) == 2
    err, now = capsys.readouterr().err, user_code.source_of("reward", "my_reward.py:FreshHits")
    assert was is not None and now is not None
    assert f"run was begun with the reward in {file} of sha256 {was['sha256'][:12]}" in err
    assert f"which is {now['sha256'][:12]} now" in err
    assert not Path("ran.txt").exists(), "refused code must not be run"
    file.write_text(TEXT)
    assert main(["finetune", "--resume", "--out", "run", "--quiet"]) == 0
    assert f"run names the reward in {file} of sha256" in capsys.readouterr().err


def test_code_of_which_the_run_knows_nothing_is_run_only_where_it_is_named(
    pretrained: Path, file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(monkeypatch, words(pretrained, "my_reward.py:FreshHits"))
    config = json.loads((Path("run") / CONFIG).read_text())
    del config["reward_files"]
    (Path("run") / CONFIG).write_text(json.dumps(config))
    file.write_text(TEXT + "open('ran.txt', 'w').close()\n")
    assert main(["finetune", "--resume", "--out", "run", "--quiet"]) == 2
    assert f"pass it, too: --reward {file}:FreshHits" in capsys.readouterr().err
    assert not Path("ran.txt").exists()
    file.write_text(TEXT)
    given = ["--reward", "my_reward.py:FreshHits"]
    assert main(["finetune", "--resume", "--out", "run", "--quiet", *given]) == 0


def test_a_state_names_both_contents(file: Path) -> None:
    config = ReinforceConfig(iterations=1, eval_every=1, users_per_batch=8)

    def agent() -> Reinforce:
        policy = load_policy("ReFiT-Synthetic-v0", num_steps=1)
        kwargs = {"reward": "my_reward.py:FreshHits"}
        return Reinforce(policy, "ReFiT-Synthetic-v0", config, env_kwargs=kwargs, device="cpu")

    agent().learn("state")
    agent().load("state")
    digests = [hashlib.sha256(file.read_bytes()).hexdigest()[:12]]
    file.write_text(TEXT + "# another\n")
    digests.append(hashlib.sha256(file.read_bytes()).hexdigest()[:12])
    with pytest.raises(CheckpointError) as error:
        agent().load("state")
    assert all(digest in str(error.value) for digest in digests)


def test_an_environment_follows_the_file(file: Path) -> None:
    (file.parent / "package_of_rewards").mkdir()
    (file.parent / "package_of_rewards" / "own.py").write_text(TEXT)
    make = {"id": "ReFiT-Synthetic-v0", "backbone": "linear", "num_steps": 1}
    means = []
    for change in ("", "def gap(scores, users):\n    return 0 * scores[:, 0] + 7\n"):
        file.write_text(TEXT + change)
        env = gym.make(reward="my_reward.py:gap", **make)  # type: ignore[arg-type]
        env.reset(seed=0)
        means.append(float(env.step(np.zeros(400, np.float32))[1]))
    assert means == [0.0, 7.0]
    env = gym.make(reward="package_of_rewards.own:FreshHits", **make)  # type: ignore[arg-type]
    assert env.unwrapped.problem.term_names == ("fresh",)  # type: ignore[attr-defined]
    mix = {"my_reward.py:gap": 1.0, "my_reward.py:FreshHits": 0.5}
    env = gym.make(reward=mix, **make)  # type: ignore[arg-type]
    assert env.unwrapped.problem.term_names == ("gap", "FreshHits")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        ("rewards.py:gap", "reward 'rewards.py:gap': there is no file rewards.py"),
        ("my_reward.py:gapp", "my_reward.py has no class or function 'gapp'. Did you mean 'gap'?"),
        ("my_reward.py:Idle", "class Idle must define compute"),
        ("my_reward.py:number", "must be a Reward class or a function (scores, users), found 3"),
        ("no_such_module:gap", "no_such_module cannot be imported: ModuleNotFoundError"),
    ],
)
def test_mistakes(
    reward: str, message: str, pretrained: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(pretrained, reward)) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1 and not Path("run").exists()


def test_an_error_in_the_file_is_one_line_with_its_place(
    pretrained: Path, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text("def broken(scores, users):\n    return {}['gain']\n")
    assert main(words(pretrained, "my_reward.py:broken")) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"{file} line 2: KeyError: 'gain'; REFIT_DEBUG=1 shows the traceback" in error
    monkeypatch.setenv("REFIT_DEBUG", "1")
    with pytest.raises(KeyError, match="gain"):
        main(words(pretrained, "my_reward.py:broken"))  # the failed run is not in the way


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def own(scores, users):\n    return None", "reward 'own' returned NoneType, expected a tensor"),
        (
            "class own(Reward):\n    term_names = ('a',)\n    def compute(self, *given): return None",
            "own: compute",
        ),
        (
            "class own(Reward):\n    term_names = ('a',)\n    def compute(self, u, *given): return u, {}",
            "own: compute returned rewards of shape",
        ),
        (
            "class own(Gains):\n    def term_gains(self, users): return None",
            "term_gains returned None, expected",
        ),
        ("class own(Gains):\n    def term_gains(self, users): return {}", "expected tensors by term"),
        (
            "class own(Gains):\n    def term_gains(self, users): return {'a': users.numpy()}",
            "term_gains returned ndarray for 'a', expected a tensor",
        ),
        (
            "class own(Reward):\n    term_names = ('a',)\n"
            "    def compute(self, u, users, *more): return users.float(), {'a': 'text'}",
            "own: compute returned 'text' for the term 'a', expected a tensor of shape",
        ),
        (
            "class own(Reward):\n    term_names = ('a',)\n"
            "    def compute(self, u, users, *more): return users.float(), {'a': u}",
            "for the term 'a', expected a tensor of shape",
        ),
        (
            "class own(Reward):\n    term_names = ('a',)\n"
            "    def compute(self, u, users, *more): return users.float(), {'a': users / 0}",
            "own: compute returned nan for user 0, term 'a'; every number must be finite",
        ),
        (
            "class own(Reward):\n    @staticmethod\n    def compute(self, u, users, lists): return u",
            "compute accepts (self, u, users, lists), expected (scores, users, lists)",
        ),
        (
            "class own(Reward):\n    term_names = ('a',)\n"
            "    def compute(self, u, users, *more): return users.float(), None",
            "own: compute returned None for the terms, expected tensors by name",
        ),
        (
            "class own(Reward):\n    term_names = ('a',)\n"
            "    def compute(self, u, users, *more): return users / users - 1, {'a': users}",
            "own: compute returned nan for user 0; every number must be finite",
        ),
        (
            "class own(Gains):\n    def term_gains(self, users):\n"
            "        gains = self.context.relevant.dense(users)\n"
            "        return {'a': torch.where(torch.arange(400) == 7, torch.inf, gains)}",
            "own: term_gains returned inf for user 0, item 7, term 'a'; every number must be finite",
        ),
        (
            "class own(Gains):\n    @property\n    def uses_lists(self): return True\n"
            "    def term_gains(self, users): return {'a': self.shown}",
            "AttributeError: 'own' object has no attribute 'shown'",
        ),
        ("async def own(scores, users): return users", "reward 'own' is an async function"),
        ("async def own(scores, users): yield users", "reward 'own' is an async function"),
        (
            "class Own:\n    async def __call__(self, scores, users): return users\nown = Own()",
            "reward 'Own' is an async function",
        ),
        (
            "class own(Reward):\n    async def compute(self, u, users, lists): return users, {}",
            "reward 'my_reward.py:own': compute is an async function, expected one without async",
        ),
        (
            "class own(Gains):\n    async def term_gains(self, users): return {}",
            "reward 'my_reward.py:own': term_gains is an async function",
        ),
        ("def own(scores): return scores", "reward 'own' accepts (scores), expected (scores, users)"),
        ("def own(*, scores, users): return 0", "'own' accepts (*, scores, users), expected (scores, users)"),
        (
            "class own(Reward):\n    def compute(self, scores, users): return scores",
            "compute accepts (self, scores, users), expected (self, scores, users, lists)",
        ),
        (
            "class own(Gains):\n    def term_gains(self): return {}",
            "reward 'my_reward.py:own': term_gains accepts (self), expected (self, users)",
        ),
        (
            "class own(Gains):\n    def __init__(self): pass\n    def term_gains(self, users): return {}",
            "reward 'my_reward.py:own': __init__ accepts (self), expected (self, context, ...)",
        ),
        (
            "class own(ListReward):\n    def term_gains(self, users): return {}",
            "class own must define __init__(self, context)",
        ),
        (
            "class own(Gains):\n    def __init__(self, context, half): pass\n"
            "    def term_gains(self, users): return {}",
            "--reward-options must have 'half', which reward",
        ),
    ],
)
def test_what_code_returns_is_checked_in_one_line(
    body: str, message: str, pretrained: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    init = "super().__init__(context, torch.ones(context.k), {'a': 1.0})"
    gains = f"class Gains(ListReward):\n    def __init__(self, context): {init}\n"
    file.write_text(f"import torch\nfrom refit_env.rewards import ListReward, Reward\n{gains}{body}\n")
    assert main(words(pretrained, "my_reward.py:own")) == 2
    assert message in capsys.readouterr().err.splitlines()[-1] and not Path("run").exists()


@pytest.mark.parametrize("calls", [0, 2])
def test_a_reward_that_fails_replaces_no_run(calls: int, pretrained: Path, file: Path) -> None:
    assert main(words(pretrained, "my_reward.py:gap")) == 0
    before = content_of(Path("run"))
    file.write_text(
        f"calls = []\ndef gap(scores, users):\n    calls.append(1)\n"
        f"    return scores[:, 0] if len(calls) <= {calls} else scores.gap()\n"
    )
    assert main(words(pretrained, "my_reward.py:gap", "--overwrite", "--eval-every", "4")) == 2
    assert content_of(Path("run")) == before


@pytest.mark.parametrize(
    ("body", "place", "message"),
    [
        ("return {}['gain']", "own.py line 4", "KeyError: 'gain'; REFIT_DEBUG=1"),
        ("raise ValueError('no gain')", "own.py line 4", "ValueError: no gain; REFIT_DEBUG=1"),
        ("return beside.broken(scores)", "beside.py line 2", "AttributeError: 'Tensor' object has no"),
        ("sys.exit()", "own.py line 4", "SystemExit: None; this code may not end the program"),
    ],
)
@pytest.mark.parametrize("module", [True, False])
def test_an_error_in_a_package_or_beside_a_file_is_one_line_with_its_place(
    body: str,
    place: str,
    message: str,
    module: bool,
    pretrained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    package = tmp_path / "rewards_of_a_user"
    package.mkdir()
    (package / "own.py").write_text(
        f"import sys\nfrom {package.name} import beside\ndef f(scores, users):\n    {body}\n"
    )
    (package / "beside.py").write_text("def broken(scores):\n    return scores.no_such(1)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        name = f"{package.name}.own:f" if module else f"{package.name}/own.py:f"
        assert main(words(pretrained, name)) == 2
    finally:
        for imported in [each for each in sys.modules if each.startswith(package.name)]:
            del sys.modules[imported]
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"{package / place}: {message}" in error and not Path("run").exists()


def test_evaluate_measures_its_mean(pretrained: Path, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(TEXT + "def seven(scores, users):\n    return 0 * scores[:, 0] + 7\n")
    command = ["evaluate", "--run", str(pretrained), "--json", "--device", "cpu"]
    assert main([*command, "--reward", "my_reward.py:seven=2,ndcg=1"]) == 0
    found = json.loads(capsys.readouterr().out)["reward"]
    assert found["terms"]["seven"] == 7.0 and found["relevance"] == "recent"
    assert found["mean"] == pytest.approx(14 + found["terms"]["ndcg"], abs=1e-6)
    assert 0 < found["terms"]["ndcg"] < 1


def test_a_number_that_is_none_is_named_in_a_mix(
    pretrained: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The sum of a mix does not hide which part is not finite."""
    file.write_text(
        "from refit_env.rewards import Reward\nclass Lost(Reward):\n    term_names = ('lost',)\n"
        "    def compute(self, scores, users, lists): return users * float('nan'), {'lost': users}\n"
    )
    assert main(words(pretrained, "my_reward.py:Lost=1,ndcg=0.5")) == 2
    assert "Lost: compute returned nan for user 0" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def own(scores, users):\n    return {}['gain']", "line 2: KeyError: 'gain'"),
        ("def own(scores, users):\n    return scores", "reward 'own' returned shape (8, 400), expected (8,)"),
    ],
)
def test_tune_ends_before_its_trials_where_the_reward_fails(
    body: str, message: str, file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna", reason="the extra 'tune' is not installed")
    monkeypatch.setattr(Study, "run", lambda self: pytest.fail("a trial began"))
    file.write_text(body)
    command = ["tune", "--env", "ReFiT-Synthetic-v0", "--out", "tuned", "--device", "cpu"]
    assert main([*command, "--reward", "ndcg=1,my_reward.py:own=1"]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1] and not Path("tuned").exists()


def test_tune_tries_it_and_a_settings_file_does_not_run_it_silently(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["tune", "--env", "ReFiT-Synthetic-v0", "--out", "tuned", "--reward", "my_reward.py:gapp"]
    assert main(command) == 2 and "Did you mean 'gap'?" in capsys.readouterr().err
    assert not Path("tuned").exists()
    settings = {
        "dataset": {},
        "pretrain": {"backbone": "linear", "backbone_options": {}, "num_steps": 1, "training": {}},
        "finetune": {"reward": f"{file}:FreshHits", "relevance": "recent", "reward_kwargs": {},
                     "algorithm": "reinforce", "agent": {}},
        "baseline": None,
    }  # fmt: skip
    Path("settings.json").write_text(json.dumps(settings))
    assert main(["finetune", "--settings", "settings.json", "--init", "x", "--out", "run"]) == 2
    err = capsys.readouterr().err
    assert f"names the reward {file}:FreshHits" in err and "pass it with --reward" in err


def test_evaluate_states_the_terms_that_a_reward_returns(
    pretrained: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``term_names`` is for rewards with weights; one that computes its terms needs none."""
    file.write_text(
        TEXT + "class Spread(Reward):\n"
        "    def compute(self, scores, users, lists): return scores.std(1), {'spread': scores.std(1)}\n"
    )
    assert main(["evaluate", "--run", str(pretrained), "--reward", "my_reward.py:Spread", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["reward"]
    assert found["terms"] == {"spread": pytest.approx(found["mean"])} and found["mean"] > 0
