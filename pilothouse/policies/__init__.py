"""Plugins: filters, scorers, pickers, queues, deciders. Pure. This list is what ships; importing it fills the registries."""

from pilothouse.policies import deciders, filters, marginal, pickers, profiles, queues, rivals, scorers

__all__ = ["deciders", "filters", "marginal", "pickers", "profiles", "queues", "rivals", "scorers"]
