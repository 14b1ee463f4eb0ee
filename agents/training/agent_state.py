"""The state of a fine-tuning agent: its policies, environments, optimiser and random numbers.

Letters: E environments, U users, K list length.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from agents.rollouts.parts import PartDraws
from agents.rollouts.training_envs import check_training_env
from agents.runs.files import FINE_TUNING
from agents.training.checkpoint import TrainingMeta
from agents.training.config import TrainerConfig
from agents.training.lagrangian import Constrained, Lagrangian
from agents.training.precision import check_precision
from agents.training.resumable import TrainingState
from agents.training.tensors import part, resolve_device
from agents.training.training_users import TrainingUsers
from agents.training.world import world_of
from refit_env.backbones import Backbone
from refit_env.backbones.products import WeightGradients
from refit_env.checkpoint import check_tensors
from refit_env.data.identity import DataIdentity
from refit_env.envs.vector import DenoisingVectorEnv
from refit_env.errors import CheckpointError, SettingError
from refit_env.evaluation.ranking import Evaluation, evaluate, selecting_rule
from refit_env.policy import DiffusionPolicy
from refit_env.rewards.registry import RewardSpec
from refit_env.settings import Seed, check_kind, check_setting
from refit_env.utils.memory import check_memory
from refit_env.utils.user_code import in_words, sources_in

EVALUATED = 512
"""Users evaluated at a time; fewer where training has smaller batches, so that it needs the memory."""


class AgentState(TrainingUsers):
    """A policy, the pretrained one, environments, an optimiser and random numbers.

    Random numbers come from two generators of the agent's own (users, noise), so that neither the
    caller's seeds nor a validation in between changes a run, and a resumed run repeats an unbroken one.
    """

    config: TrainerConfig
    stem, unit, model_part, meta_class = FINE_TUNING, "iteration", "policy", TrainingMeta

    name: ClassVar[str]
    config_class: ClassVar[type[TrainerConfig]] = TrainerConfig
    maximize: ClassVar[bool] = False
    """Whether ``update`` computes the gradient of an objective to maximise, instead of a loss."""

    fixed_because: ClassVar[Mapping[str, str]] = {
        "iterations": "the step sizes (--anneal-lr, which the preset data has) or a reward's weights are "
        "planned over all iterations, whose number cannot change then: leave --iterations out"
    }

    divides_batches: ClassVar[bool] = False
    """Whether ``update`` can be divided among processes and into chunks."""

    def __init__(
        self,
        policy: DiffusionPolicy,
        env: str | DenoisingVectorEnv,
        config: TrainerConfig | None = None,
        *,
        env_kwargs: Mapping[str, Any] | None = None,
        seed: int = 0,
        device: str | torch.device = "auto",
    ) -> None:
        """Prepare an agent.

        Args:
            policy: the pretrained policy; trained in place.
            env: an environment id, or a torch-backend ``DenoisingVectorEnv`` with
                ``users_per_batch * samples_per_user`` sub-environments and the policy's T.
            config: settings; the class's defaults if None.
            env_kwargs: for an id: keywords of ``gym.make_vec`` (reward, relevance, data ...).
            seed: of the users drawn and of the noise.
            device: ``"auto"``, ``"cpu"``, ``"cuda"`` ...

        Raises:
            ValueError: if the environment does not fit the policy or the configuration; for a wrong setting.
            ValueError: if the settings need another kind of reward than the environment's.
        """
        check_kind("policy", policy, DiffusionPolicy)
        check_kind("env", env, str, DenoisingVectorEnv)
        check_kind("config", config, self.config_class, type(None))
        check_kind("env_kwargs", env_kwargs, Mapping, type(None))
        check_setting("seed", seed, Seed)
        self.config = config if config is not None else self.config_class()
        reward = (env_kwargs or {}).get("reward") if isinstance(env, str) else env.problem.config.reward
        self.config = self.adapted(self.config, reward, fixed_batch=not isinstance(env, str))
        self._reward_files = [in_words(found) for found in sources_in("reward", reward).values()]
        self.device = resolve_device(device)
        check_precision(self.config.precision, self.device)
        self.world = world_of(self.device)
        if self.world.size > 1 and not self.divides_batches:
            raise ValueError(f"algorithm {self.name!r} trains in one process; 'reinforce' in several, too")
        self.seed = seed
        self.policy = policy.to(self.device).eval()  # dropout off: samples and log-probs share one network
        self.policy.set_exploration(self.config.exploration_std, self.config.posterior_share)
        self._make_envs(env, env_kwargs)
        self.env = self.envs[0]
        check_training_env(self.env, self.policy, self.config, self.parts)
        self._check_memory()
        self.rule = selecting_rule(self.config.select, self.env.problem.dataset)
        self.config = replace(self.config, select=str(self.rule))
        self.lagrangian = Lagrangian.of(self.config, self.env.problem)
        self._constrained: list[Constrained] = []
        if self.lagrangian.conditions:
            self._constrain()
        self.policy.backbone.trained_on = DataIdentity.of(self.env.problem.dataset)
        self.reference = copy.deepcopy(self.policy).requires_grad_(False)
        self.optimizer: torch.optim.Optimizer = torch.optim.Adam(
            self._parameter_groups(), self.config.learning_rate, maximize=self.maximize, fused=True
        )
        self.gradients = WeightGradients()
        self.user_generator = torch.Generator().manual_seed(seed)
        self.noise_generator = torch.Generator(self.device).manual_seed(seed + 1)
        self.noise = PartDraws(self.noise_generator)
        self._begin()
        self._best_state = self.reference.state_dict()  # the same weights: no second copy
        self._prepare_users()
        self.check_settings()
        self.prepare()

    @classmethod
    def adapted(
        cls, config: TrainerConfig, reward: RewardSpec | None, *, fixed_batch: bool = False
    ) -> TrainerConfig:
        """Return the settings for a reward; subclasses change those that need another kind of reward.

        Args:
            config: as given.
            reward: the environment's; None where it is the environment's default.
            fixed_batch: whether the size of a batch cannot change.
        """
        return config

    def _constrain(self) -> None:
        """Mix the rewards of the constraints into the environments' rewards."""
        for env in self.envs:
            self._constrained.append(Constrained(env.problem, self.lagrangian))
            env.problem = replace(env.problem, reward_fn=self._constrained[-1].mix)

    def adapt_multipliers(self, means: Mapping[str, float], start: Mapping[str, float]) -> dict[str, float]:
        """Adapt the multipliers of the constraints to a validation; returns what is logged of them."""
        if not self._constrained:
            return {}
        self.lagrangian.update(means, start)
        self._weigh()
        return self.lagrangian.scalars()

    def _weigh(self) -> None:
        """Weigh the rewards of the constraints by the multipliers."""
        for constrained in self._constrained:
            constrained.weigh(self.lagrangian)

    def _check_memory(self) -> None:
        """Refuse a batch whose chains and weights alone do not fit into the free memory.

        Of each step an episode keeps its state, its mean and its noise; the environment and the derivatives
        need five more vectors. Of the weights there are the pretrained ones, the gradient and Adam's two
        moments. What the network keeps comes on top.

        Raises:
            ValueError: with what is needed and what is free.
        """
        vectors = 3 * self.policy.num_steps + 5
        needed = self.largest_array * vectors
        needed += 4 * 4 * sum(weight.numel() for weight in self.policy.parameters())
        hint = " (--chunks divides it)" if self.divides_batches else ""
        check_memory(needed, self.device, f"a batch of {self.env.num_envs:,} episodes{hint}")

    @property
    def largest_array(self) -> int:
        """Bytes of the vectors of a batch's episodes."""
        return 4 * self.env.num_envs * self.policy.backbone.dim

    @property
    def chunks(self) -> int:
        """Parts of a batch that a process runs one after the other."""
        return 1

    @property
    def parts(self) -> int:
        """Equal parts that a batch is divided into: the processes times their chunks."""
        return self.world.size * self.chunks

    def _parameter_groups(self) -> list[dict[str, Any]]:
        """Return the weights with their step sizes: one group, or item biases in a group of their own.

        Raises:
            SettingError: naming ``item_bias_learning_rate``, if the backbone has no item bias.
        """
        weights = list(self.policy.parameters())
        rate = self.config.item_bias_learning_rate
        if rate is None:
            return [{"params": weights}]
        biases = [weight for weight in weights if weight.shape == (self.policy.backbone.num_items,)]
        if not biases:
            name = self.policy.backbone.name
            raise SettingError(
                "item_bias_learning_rate",
                f"needs a backbone with weights of one number an item, {name!r} as fitted has none"
                + (": fit it with popularity_penalty" if name == "linear" else ""),
            )
        others = [weight for weight in weights if all(weight is not bias for bias in biases)]
        if not self.config.learning_rate:
            for weight in others:
                weight.requires_grad_(False)
            return [{"params": biases, "lr": rate}]
        return [{"params": others}, {"params": biases, "lr": rate}]

    def check_settings(self) -> None:
        """Refuse settings, policies and rewards that the algorithm cannot use; subclasses add their own.

        Raises:
            ValueError: for a wrong setting, or a policy that does not go with it.
            ValueError: if the settings need another kind of reward.
        """

    def prepare(self) -> None:
        """Prepare the algorithm, after the settings are checked."""

    def evaluate(self, split: str = "test", users: Any = None, *, start: bool = False) -> Evaluation:
        """Return the full-ranking evaluation by the noise-free chain.

        Args:
            split: which items count as relevant.
            users: whose lists; all if None.
            start: whether of the policy that training began with, else of the policy as it is now.
        """
        dataset, policy = self.dataset, self.reference if start else self.policy
        batch = min(self.config.users_per_batch, EVALUATED)
        scorer = policy.scorer(dataset)
        return evaluate(scorer, dataset, split, users=users, batch=batch, device=self.device)

    # ------------------------------------------------------------------ state

    @property
    def iteration(self) -> int:
        """Iterations done."""
        return self.done

    @property
    def model(self) -> DiffusionPolicy:
        """The policy."""
        return self.policy

    @property
    def trained_backbone(self) -> Backbone:
        """The policy's network."""
        return self.policy.backbone

    @property
    def generators(self) -> dict[str, torch.Generator]:
        """The generators of the users drawn and of the noise."""
        return {"generator.users": self.user_generator, "generator.noise": self.noise_generator}

    def identity(self) -> dict[str, Any]:
        """Return the algorithm, the data set, T and the reward."""
        problem = self.env.problem
        data = {"data": problem.dataset.name, "data_fingerprint": problem.dataset.fingerprint}
        reward = {
            "reward": list(problem.term_names),
            "relevance": problem.relevance.mode,
            "k": problem.reward_fn.k,
        }
        reward |= {"reward_file": "; ".join(self._reward_files)} if self._reward_files else {}
        return {"agent": self.name, "problem": data | {"num_steps": problem.num_steps} | reward}

    def free_settings(self) -> set[str]:
        """Return the number of iterations, but where step sizes or the reward's weights depend on it."""
        fixed = self.config.anneal_lr or self.env.problem.reward_fn.scheduled
        return set() if fixed else {"iterations"}

    def state_dict(self) -> TrainingState:
        """Return the state of the training, with the pretrained policy and what the algorithm keeps."""
        tensors, meta = super().state_dict()
        tensors |= {f"reference.{k}": v for k, v in self.reference.state_dict().items()}
        tensors |= {f"own.{k}": v for k, v in self.own_tensors().items()}
        tensors |= {} if self._lists is None else {"lists": self._lists}
        tensors |= {} if self._cache is None else {"lists_made": self._cache.made}
        tensors |= {"multipliers": self.lagrangian.values} if self._constrained else {}
        return TrainingState(tensors, meta | {"policy": self.reference.describe()})

    def check_state(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], where: str) -> None:
        """Refuse a state that is not such an agent's."""
        super().check_state(tensors, meta, where)
        self.check_model(part(tensors, "reference."), f"{where}: reference.*")
        own = part(tensors, "own.")
        check_tensors(own, self.own_tensors(), f"{where}: own.*", f"agent {self.name!r}")
        wanted = {"multipliers": self.lagrangian.values} if self._constrained else {}
        found = {name: tensor for name, tensor in tensors.items() if name == "multipliers"}
        check_tensors(found, wanted, where, "the constraints")
        problem = self.env.problem
        lists = {name: tensor for name, tensor in tensors.items() if name == "lists"}
        if problem.reward_fn.uses_lists and meta["history"]:
            sizes = len(self.envs), problem.dataset.num_users, problem.reward_fn.k
            shape = torch.zeros(sizes, dtype=torch.int64)  # (E, U, K)
            check_tensors(lists, {"lists": shape}, where, "the reward")
            if not 0 <= int(lists["lists"].min()) <= int(lists["lists"].max()) < problem.num_items:
                raise CheckpointError(f"{where}: 'lists' names items outside 0..{problem.num_items - 1}")
        elif lists:
            raise CheckpointError(f"{where}: 'lists' is not a tensor of a resume state")
        ages = {name: tensor for name, tensor in tensors.items() if name == "lists_made"}
        check_tensors(
            ages, {} if self._cache is None else {"lists_made": self._cache.made}, where, "the cache"
        )

    def check_model(self, tensors: Mapping[str, Tensor], where: str) -> None:
        """Refuse tensors that are not such a policy's."""
        check_tensors(tensors, self.policy.state_dict(), where, "the agent's policy")
        super().check_model(part(tensors, "backbone."), where)

    def known_tensors(self) -> tuple[set[str], tuple[str, ...]]:
        """Return the names and prefixes of every training's tensors, and of those of ``state_dict``."""
        names, prefixes = super().known_tensors()
        return names | {"lists", "lists_made", "multipliers"}, (*prefixes, "reference.", "own.")

    def take_state(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Put back a state that ``check_state`` passed."""
        super().take_state(tensors, meta)
        self.reference.load_state_dict(part(tensors, "reference."))
        self._start_values = None
        self.take_own_tensors(part(tensors, "own."))
        if self._constrained:
            self.lagrangian.restore(tensors["multipliers"])
            self._weigh()
        if "lists" in tensors:
            self._show_lists(tensors["lists"].to(self.device))
        if self._cache is not None and self._lists is not None:
            self._cache.lists, self._cache.made = self._lists[0], tensors["lists_made"].to(self.device)

    def own_tensors(self) -> dict[str, Tensor]:
        """Tensors that the algorithm keeps besides weights, optimiser and generators, for the state."""
        return {}

    def take_own_tensors(self, tensors: Mapping[str, Tensor]) -> None:  # most keep nothing
        """Put back the tensors of ``own_tensors``; the weights are put back before."""
