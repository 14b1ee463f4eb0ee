"""A run's model, made again on a data set whose validation items are learned, too.

What validation chose in the run is kept (``agents.commands.recipes``). The model that a run began from is
made again in the same way.
"""

from __future__ import annotations

from dataclasses import replace
from tempfile import TemporaryDirectory

import torch

from agents.algorithms.registry import algorithm
from agents.commands.pretrain_run import new_policy, trainer_of
from agents.commands.recipes import ClosedForm, FineTuned, Network, Recipe
from agents.commands.target import Target
from agents.training.closed_form_search import fitted_policy
from agents.training.weight_interpolation import between
from refit_env.data import Dataset
from refit_env.policy import DiffusionPolicy


class Again:
    """Makes models by recipes, on one data set."""

    def __init__(self, target: Target, dataset: Dataset, device: torch.device) -> None:
        """Prepare.

        Args:
            target: the environment of the runs.
            dataset: ``learning_validation`` of its data set.
            device: of the models.
        """
        self.target, self.dataset, self.device = target, dataset, device

    def make(self, recipe: Recipe) -> DiffusionPolicy:
        """Make a model.

        Raises:
            KeyboardInterrupt: after Ctrl-C: half a training is no result.
        """
        if isinstance(recipe, ClosedForm):
            found = recipe.name, recipe.settings, recipe.num_steps
            return fitted_policy(self.dataset, *found, self.device).respaced(None, recipe.eta)
        if isinstance(recipe, Network):
            return self._trained(recipe)
        return self._fine_tuned(recipe)

    def _trained(self, recipe: Network) -> DiffusionPolicy:
        """A network after the chosen number of epochs."""
        training = replace(recipe.command.training, epochs=recipe.epochs)
        command = replace(recipe.command, training=training, device=str(self.device))
        if recipe.start is None:
            policy = new_policy(command, self.target, self.dataset, recipe.base)
        else:
            policy = self.make(recipe.start).respaced(command.num_steps, command.eta)
        if trainer_of(command, self.dataset, policy).learn().interrupted:
            raise KeyboardInterrupt
        return policy.to(self.device).eval()

    def _fine_tuned(self, recipe: FineTuned) -> DiffusionPolicy:
        """A policy after the chosen number of iterations, at the chosen place between these and the start."""
        start = self.make(recipe.start).respaced(recipe.num_steps, recipe.eta).to(self.device).eval()
        if not recipe.iterations:
            return start
        kwargs = {"backbone": start.backbone.name, **recipe.env, "data": self.dataset}
        kwargs.pop("other_data", None)
        with TemporaryDirectory(prefix="refit-") as folder:
            if start.backbone.embedding:  # the environment scores by the start, which is another one here
                start.save(folder, self.dataset, overwrite=True)
                kwargs["checkpoint"] = folder
            agent = algorithm(recipe.algorithm)(
                start,
                self.target.env_id,
                recipe.settings,
                env_kwargs=kwargs,
                seed=recipe.seed,
                device=self.device,
            )
            result = agent.learn(until=recipe.iterations)
        if result.interrupted:
            raise KeyboardInterrupt
        policy = result.policy
        if recipe.share < 1:
            end = {key: value.clone() for key, value in policy.state_dict().items()}
            policy.load_state_dict(between(agent.reference, end, recipe.share))
        return policy
