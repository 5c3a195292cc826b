"""Pilothouse steers a fleet of LLM inference engines."""

__version__ = "0.1.0"
