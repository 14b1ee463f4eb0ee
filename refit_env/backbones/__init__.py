"""Diffusion recommenders, one file each, and their registry.

A file may hold, by data set, the configurations that the authors published (``PUBLISHED``) and smaller ones
that two cores train in minutes (``SMALL``).
"""

from refit_env.backbones.base import Backbone, Condition, Context, Look, check_task
from refit_env.backbones.registry import (
    backbone_class,
    backbone_config,
    backbone_for,
    backbone_names,
    make_backbone,
    published_config,
    register_backbone,
    sized_config,
)

__all__ = [
    "Backbone",
    "Condition",
    "Context",
    "Look",
    "backbone_class",
    "backbone_config",
    "backbone_for",
    "backbone_names",
    "check_task",
    "make_backbone",
    "published_config",
    "register_backbone",
    "sized_config",
]
