"""Plugins: filters, scorers, pickers. Pure. This list is what ships; importing it fills the registries."""

from pilothouse.policies import filters, marginal, pickers, profiles, queues, rivals, scorers

__all__ = ["filters", "marginal", "pickers", "profiles", "queues", "rivals", "scorers"]
