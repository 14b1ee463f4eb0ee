"""Diffusion recommenders, one file each, and their registry.

A file may define, by data set, the configurations that the authors published (``PUBLISHED``) and smaller ones
that train in minutes on two cores (``SMALL``).
"""

from refit_env.backbones.base import Backbone, Condition, Context, Lookup, check_task
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
    "Lookup",
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
