"""Plugins: filters, scorers, pickers. Pure. This list is what ships; importing it fills the registries."""

from pilothouse.policies import filters, pickers, profiles, rivals, scorers

__all__ = ["filters", "pickers", "profiles", "rivals", "scorers"]
