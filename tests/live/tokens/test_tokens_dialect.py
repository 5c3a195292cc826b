"""Laws of block names: a memo changes nothing, prefixes share keys, and adapters and salts separate them."""

from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilothouse.live.tokens.dialect import NO_SCOPE, Algorithm, Dialect, Own, Scope, TextDialect, pack
from pilothouse.live.tokens.encode import in_chunks
from pilothouse.live.tokens.prefix_memo import PrefixMemo, compute, keys_of

DIALECTS = [
    *(Dialect(name, size, seed) for name in ("sha256", "sha256_cbor") for size in (1, 16, 32) for seed in (None, "42")),
    Dialect("xxhash", 16, "7"),
    Dialect("xxhash_cbor", 16, "7"),
    Own(block_size=16),
]
IDS = st.lists(st.integers(0, 2**32 - 1), max_size=150)
SCOPES = st.sampled_from([NO_SCOPE, Scope(("ad", "path"), None), Scope(None, "salt"), Scope(("ad", "path"), "salt")])


def through_memo(memo: PrefixMemo, scope: Scope, chunks: list[bytes]) -> tuple[int, list[int]]:
    path = memo.walk(memo.root(scope), chunks)
    memo.keep(path, chunks, compute(memo.dialect, scope, path[-1], chunks[len(path) - 1 :]))
    return path[-1].tokens, keys_of(path)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(DIALECTS), SCOPES, st.lists(st.lists(IDS, max_size=5), min_size=1, max_size=4), st.integers(0, 6000)
)
def test_memo_changes_nothing(dialect: Dialect, scope: Scope, prompts: list[list[list[int]]], bytes_max: int) -> None:
    memo = PrefixMemo(dialect, bytes_max)
    grown = [
        [*chain.from_iterable(prompts[: count + 1])] for count in range(len(prompts))
    ]  # each continues the one before
    for parts in grown + grown:
        ids = [*chain.from_iterable(parts)]
        assert through_memo(memo, scope, [pack(part) for part in parts]) == (
            len(ids),
            dialect.chain(ids, scope.lora, scope.cache_salt),
        )
        assert memo.bytes_used <= bytes_max


@given(st.sampled_from(DIALECTS), IDS, IDS)
def test_one_key_for_each_full_block_and_prefixes_share(dialect: Dialect, ids: list[int], more: list[int]) -> None:
    keys = dialect.chain(ids)
    assert len(keys) == len(ids) // dialect.block_size
    assert dialect.chain(ids + more)[: len(keys)] == keys
    assert all(0 <= key < 2**64 for key in keys)


@pytest.mark.parametrize("dialect", DIALECTS, ids=str)
def test_adapters_and_salts_separate(dialect: Dialect) -> None:
    ids = list(range(2 * dialect.block_size))
    scopes = [(None, None), (("a", "p"), None), (("a", "q"), None), (None, "s"), (("a", "p"), "s")]
    keys = [key for lora, salt in scopes for key in dialect.chain(ids, lora, salt)]
    assert len(set(keys)) == len(keys) == 10


@pytest.mark.parametrize("algorithm", ["xxhash", "xxhash_cbor"])
def test_random_seed_is_refused(algorithm: Algorithm) -> None:
    dialect = Dialect(algorithm, 16)
    assert not dialect.reproducible
    with pytest.raises(ValueError, match="PYTHONHASHSEED"):
        dialect.chain([1] * 16)


def test_memory_forgets_the_least_recent_first() -> None:
    memo = PrefixMemo(Own(block_size=4), 20_000)
    chunks = list(in_chunks(pack(range(8))))
    for number in range(200):
        through_memo(memo, NO_SCOPE, chunks)
        through_memo(memo, Scope(None, str(number)), chunks)
    assert len(memo.walk(memo.root(NO_SCOPE), chunks)) == 2


@given(st.binary(max_size=600), st.binary(max_size=600))
def test_text_blocks_share_prefixes(text: bytes, more: bytes) -> None:
    dialect = TextDialect(16)
    keys = dialect.chain(text)
    assert len(keys) == len(text) // dialect.block_bytes
    assert dialect.chain(text + more)[: len(keys)] == keys
    assert dialect.tokens(text) * dialect.bytes_per_token >= len(text)
