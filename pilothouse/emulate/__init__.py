"""Engines that are not there: vLLM's API, metrics and KV events, with the simulated engine's behaviour in real time."""
