"""KV event bytes of real engines, their variants, and bytes that are none."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.core.events import Tier
from pilothouse.wire.kv_events import (
    END,
    AllBlocksCleared,
    BatchDecoder,
    BlockRemoved,
    BlockStored,
    KvEventError,
    Message,
    Source,
    key_of,
    parse_message,
    parse_sources,
    tier_of,
)

HASHES = [15507953348575842235, 5987027064892030333]
MAP = {
    "type": "BlockStored",
    "block_hashes": HASHES,
    "parent_block_hash": None,
    "token_ids": [575, 3, 9, 70_000],
    "block_size": 2,
    "lora_id": None,
    "medium": "GPU",
    "lora_name": None,
    "extra_keys": [["salt"], None],
    "group_idx": 0,
    "kv_cache_spec_kind": "full_attention",
}
ARRAY = ["BlockStored", HASHES, None, [575, 3, 9, 70_000], 2, None]
# vLLM 0.32 on CPU, sha256_cbor, block size 32: a prompt of token ids 100 to 139 with cache_salt "tenant"
RECORDED = bytes.fromhex(
    "93cb41dac055df3dc154918ba474797065ab426c6f636b53746f726564ac626c6f636b5f68617368657391cf38b86a57903d"
    "e637b1706172656e745f626c6f636b5f68617368c0a9746f6b656e5f696473dc00206465666768696a6b6c6d6e6f70717273"
    "7475767778797a7b7c7d7e7fcc80cc81cc82cc83aa626c6f636b5f73697a6520a76c6f72615f6964c0a66d656469756da347"
    "5055a96c6f72615f6e616d65c0aa65787472615f6b6579739191a674656e616e74a967726f75705f69647800b26b765f6361"
    "6368655f737065635f6b696e64ae66756c6c5f617474656e74696f6e00"
)


def decode(*events: object, rank: int | None = 0) -> list[object]:
    return list(BatchDecoder().decode(msgspec.msgpack.encode([1.5, events, rank])).events)


@pytest.mark.parametrize("event", [MAP, ARRAY, [*ARRAY, "GPU", None, [["salt"], None], 0, "full_attention", None, "x"]])
def test_both_forms_of_a_stored_event(event: object) -> None:
    (stored,) = decode(event)
    assert isinstance(stored, BlockStored)
    assert [key_of(h) for h in stored.block_hashes] == HASHES
    assert (stored.tokens(), stored.block_size, stored.parent_block_hash) == ([575, 3, 9, 70_000], 2, None)
    assert stored.extras() in ([], [["salt"], None])


def test_a_recorded_batch() -> None:
    batch = BatchDecoder().decode(RECORDED)
    (stored,) = batch.events
    assert isinstance(stored, BlockStored)
    assert (stored.tokens(), stored.extras()) == (list(range(100, 132)), [["tenant"]])
    assert [key_of(h) for h in stored.block_hashes] == [0x38B86A57903DE637]
    assert (tier_of(stored), stored.group_idx, stored.kv_cache_spec_kind) == (Tier.HBM, 0, "full_attention")
    assert (batch.rank, batch.skipped) == (0, 0)


def test_the_other_events_and_an_unknown_one() -> None:
    events = [{"type": "AllBlocksCleared"}, {"type": "BlockRemoved", "block_hashes": [1], "new": 2}, {"type": "Moved"}]
    batch = BatchDecoder().decode(msgspec.msgpack.encode([1, events]))
    assert batch.events == [AllBlocksCleared(), BlockRemoved([1])]
    assert (batch.skipped, batch.rank) == (1, None)
    assert BatchDecoder().decode(msgspec.msgpack.encode([1, [["Moved", 1], ["AllBlocksCleared"]]])).skipped == 1


def test_every_form_of_a_hash_has_one_key() -> None:
    digest = bytes(range(32))
    low = int.from_bytes(digest[-8:], "big")
    assert key_of(digest) == key_of(low) == low
    assert key_of(-1) == 2**64 - 1  # SGLang


@pytest.mark.parametrize(
    ("medium", "locality", "tier"),
    [
        (None, None, Tier.HBM),
        ("GPU", "LOCAL", Tier.HBM),
        ("cpu", None, Tier.DRAM),
        ("CPU", None, Tier.DRAM),
        ("STORAGE", None, Tier.DISK),
        ("GPU", "REMOTE", Tier.REMOTE),
        ("STORAGE", "remote", Tier.REMOTE),
        ("tape", None, Tier.REMOTE),
    ],
)
def test_tiers(medium: str | None, locality: str | None, tier: Tier) -> None:
    event = BlockRemoved([1], medium=medium, locality=locality)
    assert tier_of(event) is tier
    assert tier_of(event, shares=True) is (tier if tier is Tier.HBM else Tier.REMOTE)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"\x91" * 100_000,
        msgspec.msgpack.encode({"a": 1}),
        msgspec.msgpack.encode([1.0, [{"block_hashes": [1]}]]),
        msgspec.msgpack.encode([1.0, [{"type": "BlockStored", "block_hashes": "x"}]]),
        msgspec.msgpack.encode([1.0, [[]]]),
        msgspec.msgpack.encode([1.0, [7]]),
    ],
)
def test_malformed_batches(payload: bytes) -> None:
    with pytest.raises(KvEventError):
        BatchDecoder().decode(payload)


@given(
    st.binary(max_size=60) | st.builds(lambda at, byte: _flipped(at, byte), st.integers(0, 200), st.integers(0, 255))  # noqa: PLW0108 - it is defined below
)
def test_any_bytes_decode_or_are_refused(payload: bytes) -> None:
    try:
        for event in BatchDecoder().decode(payload).events:
            if isinstance(event, BlockStored):
                event.tokens(), event.extras()
    except KvEventError:
        pass


def _flipped(at: int, byte: int) -> bytes:
    payload = bytearray(msgspec.msgpack.encode([1.5, [MAP, ARRAY], 0]))
    payload[at % len(payload)] = byte
    return bytes(payload)


def test_messages_and_the_end_of_a_replay() -> None:
    seven = (7).to_bytes(8, "big")
    assert parse_message([b"topic", seven, b"x"]) == Message(7, b"x")  # live
    assert parse_message([b"", b"topic", seven, b"x"]) == Message(7, b"x")  # replay, vLLM
    assert parse_message([b"", seven, b"x"]) == Message(7, b"x")  # replay, SGLang
    assert parse_message([b"", b"", END, b""]) is None
    for frames in ([], [b"x"], [b"", b"7", b"x"], [b"", b"", b"", seven, b"x"]):
        with pytest.raises(KvEventError):
            parse_message(frames)


def test_sources_by_rank_with_reachable_addresses() -> None:
    body = b"""{"1": {"endpoint": "tcp://*:5558", "replay_endpoint": "tcp://0.0.0.0:6558", "topic": "kv", "hwm": 9},
               "0": {"endpoint": "ipc:///run/kv", "replay_endpoint": null}}"""
    assert parse_sources(body, "10.0.0.7") == [
        Source("ipc:///run/kv"),
        Source("tcp://10.0.0.7:5558", "tcp://10.0.0.7:6558", "kv", 1),
    ]
    assert parse_sources(b'{"0": {"endpoint": "tcp://*:1"}}', "fd00::1") == [Source("tcp://[fd00::1]:1")]
    assert parse_sources(b"{}", "x") == []
    with pytest.raises(KvEventError):
        parse_sources(b"<html>", "x")
