"""Stores that both engines write and read: files, Mooncake's store, LMCache's server. Nothing is handed over by requests."""

from pilothouse.wire.transfer.adapter import Adapter


class Store(Adapter):
    """Content-addressed: what is not there is computed, nothing is claimed, nothing runs out."""


class Files(Store):
    """vLLM's ExampleConnector: the whole prompt is the key, and `cache_salt` no part of it."""

    salted = False
