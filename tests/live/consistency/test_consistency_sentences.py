"""What a person reads about engines that differ."""

import pytest
from engines_alike import WHOLE, engine, pool

from pilothouse.config.schema import Pool
from pilothouse.live.consistency.comparing import differences, rollouts
from pilothouse.live.consistency.facts import Breaks, Member, exchange
from pilothouse.live.consistency.pairing import sentences

PREFILL, DECODE = pool("prefill", name="p"), pool("decode", name="d")
TOGETHER = "pool p and pool d both run several versions: change one pool at a time"


def test_a_pair_that_cannot_be_is_named_with_what_differs() -> None:
    pair = [engine("a", PREFILL), engine("b", DECODE, block_size="64")]
    assert sentences(pair) == ["prefill endpoint a has block size 32, decode endpoint b 64: they are not paired"]
    more = [*pair, engine("a2", PREFILL), engine("c", DECODE, cache_dtype="fp8", dtype=None)]
    begins = (
        "prefill endpoint a has block size 32, decode endpoint b 64: they",
        "prefill endpoint a has model dtype bfloat16, cache dtype auto, decode endpoint c untold, fp8: they",
    )
    assert sentences(more) == [f"{begin} are not paired (the same with 1 more pairs)" for begin in begins]


def test_a_decode_engine_that_would_renew_leases_too_late_is_no_partner() -> None:
    short = engine("a", pool("prefill", name="p", lease_s=6), lease="6", renewal="6")
    assert sentences([short, engine("b", DECODE)]) == [
        "prefill endpoint a has KV lease 6, decode endpoint b 30: they are not paired"
    ]


def test_who_has_a_partner_is_not_complained_of() -> None:
    assert sentences([engine("a", PREFILL), engine("b", DECODE)]) == []
    mixed = [engine("a", PREFILL), engine("b", DECODE), engine("c", DECODE, version="0.33.0")]
    assert sentences(mixed) == ["prefill endpoint a has version 0.32.0, decode endpoint c 0.33.0: they are not paired"]


def test_engines_of_different_models_are_no_pair() -> None:
    other = Member("b", DECODE, WHOLE, ("another",))
    assert sentences([engine("a", PREFILL, block_size="64"), other]) == []


def test_pools_that_change_at_the_same_time_are_told_so() -> None:
    old = [engine("p1", PREFILL), engine("d1", DECODE)]
    assert rollouts([*old, engine("p2", PREFILL, version="0.33.0")]) == []
    both = [*old, engine("p2", PREFILL, version="0.33.0"), engine("d2", DECODE, version="0.33.0")]
    assert rollouts(both) == [TOGETHER] and TOGETHER in sentences(both)
    assert TOGETHER in [d.sentence for d in differences(both) if d.breaks is Breaks.EXCHANGE]


@pytest.mark.parametrize(
    ("of", "told", "doubt"),
    [
        (PREFILL, {"connector": "mooncake"}, "runs connector mooncake, the configuration says nixl"),
        (PREFILL, {"connector": ""}, "runs no connector, the configuration says nixl"),
        (PREFILL, {"role": "kv_consumer"}, "has role kv_consumer, its pool prefill"),
        (DECODE, {"role": "kv_producer"}, "has role kv_producer, its pool decode"),
        (PREFILL, {"lease": "4"}, "keeps KV for 4 s, the configuration says 30 s"),
        (pool("prefill", "multi", "p"), {"connector": "multi/files+mooncake"},
         "runs connector multi/files+mooncake, the configuration says multi/nixl"),
    ],
)  # fmt: skip
def test_an_engine_started_otherwise_than_configured_is_paired_with_nobody(
    of: Pool, told: dict[str, str], doubt: str
) -> None:
    wrong = engine("a", of, **told)
    assert wrong.doubts == (doubt,) and '"only":"a"' in exchange(wrong)
    assert sentences([wrong]) == [f"endpoint a {doubt}: it is paired with nobody"]
    assert [d.breaks for d in differences([wrong])] == [Breaks.EXCHANGE]


def test_engines_as_configured_are_in_no_doubt() -> None:
    several = engine("a", pool("prefill", "multi"), connector="multi/nixl+files", lease="31", role="kv_producer")
    assert several.doubts == () and engine("b", DECODE, lease="4", role="kv_both").doubts == ()


def test_a_store_is_shared_by_names_that_are_alike_in_each_process() -> None:
    of = pool("both", "mooncake_store")
    found = differences([engine("a", of, connector="mooncake_store", hash_algorithm="xxhash", hash_seed=None)])
    assert found[0].breaks is Breaks.EXCHANGE and "PYTHONHASHSEED" in found[0].sentence
