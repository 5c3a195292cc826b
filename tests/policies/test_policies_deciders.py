"""When a split pays: laws of the default decider, on sides made up for it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.core.events import Arrived, EndpointSeen, Role
from pilothouse.core.fleet import Endpoint
from pilothouse.core.policy import Side
from pilothouse.core.speed import Speed
from pilothouse.core.units import EndpointId, Micros, RequestId
from pilothouse.policies.deciders import OVERTAKEN, Pays

HANDOVER_US = Micros(40_000)
counts = st.integers(0, 200)


def side(name: str, uncached: int, **state: Any) -> Side:
    """20 us a token to compute, 10 ms a step."""
    role = Role.PREFILL if name == "p" else Role.DECODE
    endpoint = Endpoint(
        EndpointSeen(Micros(0), EndpointId(name), f"http://{name}", name, ["m"], role=role), frozenset("m")
    )
    for key, value in state.items():
        setattr(endpoint, key, value)
    endpoint.in_flight += endpoint.decoding
    return Side(endpoint, Speed([10_000.0, 50.0, 0.01, 20.0, 0.0]), 0, uncached)


def splits(tokens: int, decode: dict[str, Any], prefill: dict[str, Any], decider: Pays | None = None) -> bool:
    request = Arrived(Micros(0), RequestId("r"), "m", tokens, [])
    whole, first, rest = side("d", tokens, **decode), side("p", tokens, **prefill), side("d", 0, **decode)
    return (decider or Pays()).decide(request, whole, first, rest, HANDOVER_US).split


@given(tokens=st.integers(1, 50_000), decoding=counts, more=counts, queued=st.integers(0, 100_000))
def test_the_more_decode_there_the_sooner_it_is_split(tokens: int, decoding: int, more: int, queued: int) -> None:
    prefill = {"prefill_tokens": queued, "in_flight": 1}
    if splits(tokens, {"decoding": decoding}, prefill):
        assert splits(tokens, {"decoding": decoding + more}, prefill)


@given(tokens=st.integers(1, 50_000), decoding=counts, queued=st.integers(0, 50_000), more=st.integers(0, 50_000))
def test_the_more_waits_for_prefill_the_sooner_it_stays(tokens: int, decoding: int, queued: int, more: int) -> None:
    if not splits(tokens, {"decoding": decoding}, {"prefill_tokens": queued}):
        assert not splits(tokens, {"decoding": decoding}, {"prefill_tokens": queued + more})
        assert not splits(tokens, {"decoding": decoding}, {"prefill_tokens": queued, "held": 1, "held_tokens": more})


@given(tokens=st.integers(1, 50_000), decoding=counts, more=st.integers(0, 50_000))
def test_of_itself_a_request_is_never_faster_split(tokens: int, decoding: int, more: int) -> None:
    """Two idle engines: what speaks for a split is others."""
    assert not splits(tokens, {"decoding": decoding}, {"decoding": decoding}, Pays(others=0.0))
    assert not splits(tokens, {}, {"prefill_tokens": more})


@given(tokens=st.integers(1, 50_000), size=st.integers(1, 50_000), count=st.integers(1, 50))
def test_who_is_far_longer_lets_it_pass(tokens: int, size: int, count: int) -> None:
    """Held requests count with at most a few times its own length each, so long ones do not deter short ones."""
    held = {"held": count, "held_tokens": count * size}
    bounded = {"held": count, "held_tokens": count * min(size, OVERTAKEN * tokens)}
    for decoding in (0, 5, 50):
        assert splits(tokens, {"decoding": decoding}, held) == splits(tokens, {"decoding": decoding}, bounded)


def test_what_is_cached_stays() -> None:
    request = Arrived(Micros(0), RequestId("r"), "m", 16_000, [])
    warm, cold = side("d", 0, decoding=100), side("p", 16_000)
    assert not Pays().decide(request, warm, cold, warm, HANDOVER_US).split


def test_a_split_of_nothing_but_margin_is_none() -> None:
    assert splits(4000, {"decoding": 10}, {})
    assert not splits(4000, {"decoding": 10}, {}, Pays(margin_us=Micros(10_000_000)))


def test_weights_are_checked() -> None:
    with pytest.raises(ValueError, match="others"):
        Pays(others=-1.0)
