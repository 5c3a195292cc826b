"""The engine's block hashes, computed outside the engine.

A prefix cache names each full block of tokens by a digest over its parent's digest, its tokens and, where they apply,
the adapter and the salt of the request. Whoever knows the algorithm, the block size and the seed computes the same
digests. Events carry the low 64 bits of each digest, so keys are those bits as an unsigned integer.
"""

import hashlib
import pickle
from collections.abc import Callable, Sequence
from struct import Struct
from typing import Literal

import cbor2
import msgspec
import xxhash

Algorithm = Literal["sha256", "sha256_cbor", "xxhash", "xxhash_cbor", "own"]
SEED_OF_ENGINE = "vllm-none-hash"  # what vLLM hashes as the root when PYTHONHASHSEED is not set
_LOW_BYTES = 8
ID_BYTES = 4  # token ids travel packed as native unsigned 32-bit integers


class Scope(msgspec.Struct, frozen=True):
    """What separates equal tokens: the adapter (name, path) in every block, the salt in the first."""

    lora: tuple[str, str] | None = None
    cache_salt: str | None = None

    def extra(self, first: bool) -> tuple[tuple[str, ...], ...] | None:
        keys: list[tuple[str, ...]] = []
        if self.lora is not None:
            keys.append(("lora", *self.lora))
        if self.cache_salt and first:
            keys.append(("cache_salt", self.cache_salt))
        return tuple(keys) or None


NO_SCOPE = Scope()


class Dialect(msgspec.Struct, frozen=True):
    """One engine's way of naming blocks: algorithm, tokens per block, and its PYTHONHASHSEED if that is set."""

    algorithm: Algorithm
    block_size: int  # tokens
    seed: str | None = None

    @property
    def reproducible(self) -> bool:
        """False where the engine draws a random seed per process: nobody outside can compute its hashes."""
        return self.seed is not None or not self.algorithm.startswith("xxhash")

    def root(self, scope: Scope) -> bytes:
        """The parent of the first block."""
        if not self.reproducible:
            raise ValueError(f"{self.algorithm} without PYTHONHASHSEED is seeded at random: use Own")
        return _digester(self.algorithm)(self.seed if self.seed is not None else SEED_OF_ENGINE)

    def extend(self, parent: bytes, packed: bytes, scope: Scope, first: bool) -> tuple[bytes, list[int]]:
        """Names the full blocks of `packed` token ids after `parent`; returns the last digest and the keys."""
        digest, unpack = _digester(self.algorithm), Struct(f"{self.block_size}I").unpack_from
        step, keys, extra = self.block_size * ID_BYTES, [], scope.extra(first)
        for offset in range(0, len(packed) - step + 1, step):
            parent = digest((parent, unpack(packed, offset), extra))
            keys.append(int.from_bytes(parent[-_LOW_BYTES:], "big"))
            if first and offset == 0:
                extra = scope.extra(False)
        return parent, keys

    def chain(
        self, ids: Sequence[int], lora: tuple[str, str] | None = None, cache_salt: str | None = None
    ) -> list[int]:
        """The keys of all full blocks of one prompt."""
        scope = Scope(lora, cache_salt)
        return self.extend(self.root(scope), pack(ids), scope, True)[1]


class Own(Dialect, frozen=True):
    """Our own fast names, for engines whose hashes cannot be computed outside: xxh3_64 chained over packed ids."""

    algorithm: Algorithm = "own"
    block_size: int = 64

    def root(self, scope: Scope) -> bytes:
        return xxhash.xxh3_64_digest(msgspec.msgpack.encode(scope))

    def extend(self, parent: bytes, packed: bytes, scope: Scope, first: bool) -> tuple[bytes, list[int]]:
        keys, step = [], self.block_size * ID_BYTES
        for offset in range(0, len(packed) - step + 1, step):
            parent = xxhash.xxh3_64_digest(parent + packed[offset : offset + step])
            keys.append(int.from_bytes(parent, "big"))
        return parent, keys


class TextDialect(msgspec.Struct, frozen=True):
    """Names for blocks of text, where nothing is known of the tokens: a chained hash over UTF-8 in fixed blocks."""

    block_size: int  # tokens; the text block is sized to match
    bytes_per_token: int = 4  # English prose under a large byte-level vocabulary; only the granularity depends on it

    @property
    def block_bytes(self) -> int:
        return self.block_size * self.bytes_per_token

    def tokens(self, text: bytes) -> int:
        """An estimate of the length, rounded up."""
        return -(-len(text) // self.bytes_per_token)

    def chain(self, text: bytes, scope: Scope = NO_SCOPE) -> list[int]:
        """The keys of all full blocks of `text`."""
        parent, keys, step = xxhash.xxh3_64_digest(msgspec.msgpack.encode(("text", scope))), [], self.block_bytes
        for offset in range(0, len(text) - step + 1, step):
            parent = xxhash.xxh3_64_digest(parent + text[offset : offset + step])
            keys.append(int.from_bytes(parent, "big"))
        return keys


def pack(ids: Sequence[int]) -> bytes:
    """Token ids as this package stores them. Raises `struct.error` for an id outside 0 .. 2**32 - 1."""
    return Struct(f"{len(ids)}I").pack(*ids)


def unpack(packed: bytes) -> tuple[int, ...]:
    """The inverse of `pack`."""
    return Struct(f"{len(packed) // ID_BYTES}I").unpack(packed)


def _digester(algorithm: Algorithm) -> Callable[[object], bytes]:
    return _DIGESTERS[algorithm]


def _pickled(value: object) -> bytes:
    return pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)


_DIGESTERS: dict[Algorithm, Callable[[object], bytes]] = {
    "sha256": lambda value: hashlib.sha256(_pickled(value)).digest(),
    "sha256_cbor": lambda value: hashlib.sha256(cbor2.dumps(value, canonical=True)).digest(),
    "xxhash": lambda value: xxhash.xxh3_128_digest(_pickled(value)),
    "xxhash_cbor": lambda value: xxhash.xxh3_128_digest(cbor2.dumps(value, canonical=True)),
}
