"""Rivals choose as their published formulas say."""

import pytest

from pilothouse.core.policy import scorers
from pilothouse.policies.rivals import RIVALS
from tests.core.worlds import arrived, given


@pytest.mark.parametrize("name", sorted(RIVALS))
def test_every_rival_routes_a_fleet_without_signals(name: str) -> None:
    world = given("a | b | c", RIVALS[name]).when(arrived("r", prompt="p:40"))
    assert world.last_route().endpoint in "abc"
    assert all(named.name in dict(scorers) for named in RIVALS[name].scorers)


@pytest.mark.parametrize(
    "name, fleet, chosen",
    [
        ("llmd_default", "a cached=p:40 queue=9 | b | c", "a"),  # 3 for the prefix outweigh 2 for the queue
        (
            "llmd_default",
            "a cached=p:40 queue=9 kv=.9 | b kv=.1 | c kv=.1",
            "b c",
        ),  # but not 2 for the queue and 1.6 for the KV
        ("sglang_cache_aware", "a cached=p:40 streaming=9 | b", "a"),
        ("sglang_cache_aware", "a cached=p:40 streaming=70 | b", "b"),  # imbalanced
        ("dynamo", "a cached=p:40 streaming=1 | b streaming=1", "a"),
        ("dynamo", "a cached=p:40 streaming=2 | b", "b"),
        ("lmetric", "a cached=p:40 streaming=9 | b", "a"),
        ("least_prefill", "a cached=p:40 busy=1x600 | b", "a"),
        ("least_prefill", "a cached=p:40 busy=1x700 | b", "b"),
        ("least_requests", "a cached=p:40 streaming=1 | b", "b"),
    ],
)
def test_where_a_rival_sends_a_prompt(name: str, fleet: str, chosen: str) -> None:
    world = given(fleet, RIVALS[name]).when(arrived("r", prompt="p:40"))
    assert world.last_route().endpoint in chosen.split()
