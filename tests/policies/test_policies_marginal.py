"""Laws of the default policy: what costs more scores less, names mean nothing, and nobody idle is kept waiting for."""

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from pilothouse.core.fleet import Endpoint
from pilothouse.core.policy import Known
from pilothouse.core.speed import TYPICAL, Speed
from pilothouse.core.units import EndpointId, Micros
from pilothouse.policies.marginal import MarginalCost
from pilothouse.policies.queues import ShortQueues
from tests.core.worlds import arrived, seen

TOKENS = 1600
State = dict[str, Any]
states = st.fixed_dictionaries(
    {
        "uncached": st.integers(1, TOKENS // 16).map(lambda n: 16 * n),
        "others": st.integers(0, 50),
        "prefill_tokens": st.integers(0, 100_000),
        "prefill_squares": st.integers(0, 10**9),
        "in_flight": st.integers(0, 100),
        "decoding": st.integers(0, 100),
        "distinct_tokens": st.integers(0, 200_000),
        "kv_rest_tokens": st.none() | st.integers(0, 50_000),
        "pace": st.floats(0.2, 5),
        "kv_blocks": st.sampled_from([0, 1000, 20_000]),
    }
)
fleets = st.lists(states, min_size=1, max_size=5)
quick = settings(max_examples=50)
COSTLY = {"uncached": 160, "prefill_tokens": 500, "prefill_squares": 10**6, "others": 1, "decoding": 1}


def endpoint(name: str, state: State) -> Endpoint:
    fields = {k: v for k, v in state.items() if k not in ("uncached", "others", "kv_blocks")}
    fields["in_flight"] = max(state["in_flight"], state["decoding"])
    return Endpoint(seen(name, kv_blocks=state["kv_blocks"], block_size=16), frozenset("m"), **fields)


def known(fleet: list[State], theta: tuple[float, ...] = TYPICAL, names: str = "abcde", answer: float = 256.0) -> Known:
    endpoints = [endpoint(names[i], state) for i, state in enumerate(fleet)]
    uncached = [state["uncached"] for state in fleet]
    return Known(
        Micros(0),
        endpoints,
        [TOKENS - u for u in uncached],
        uncached,
        reports=[None] * len(fleet),
        others=[state["others"] for state in fleet],
        session_endpoint=None,
        turn=0,
        seed=0,
        speeds=[Speed(list(theta)) for _ in fleet],
        output_tokens=answer,
    )


def scores(fleet: list[State], **more: Any) -> list[float]:
    return MarginalCost().score(arrived("r", TOKENS, "p:100"), known(fleet, **more))


@quick
@given(fleets)
def test_somebody_costs_least_and_scores_one(fleet: list[State]) -> None:
    column = scores(fleet)
    assert max(column) == 1.0 and all(0 < score <= 1 for score in column)


@quick
@given(fleets, st.sampled_from(sorted(COSTLY)))
def test_more_to_compute_more_queued_more_running_never_helps(fleet: list[State], what: str) -> None:
    """Whoever was preferred to an endpoint is so when that has more to do; the fleet's means change for all alike.

    As long as there is room: who waits for memory waits shorter where more requests are about to give theirs back."""
    state, *rest = [one | {"kv_blocks": 0, "pace": 1.0} for one in fleet]
    fleet = [state, *rest]
    worse = state | {
        what: min(TOKENS, state[what] + COSTLY[what]) if what == "uncached" else state[what] + COSTLY[what]
    }
    if what == "decoding":
        worse["in_flight"] = max(state["in_flight"], state["decoding"]) + 1
    before, after = scores(fleet), scores([worse, *rest])
    preferred = [i for i in range(1, len(fleet)) if before[i] >= before[0]]
    assert all(after[i] >= after[0] * (1 - 1e-9) for i in preferred)


@quick
@given(fleets, st.floats(1.3, 10))
def test_a_slow_endpoint_costs_more(fleet: list[State], factor: float) -> None:
    state, *rest = [one | {"pace": 1.0} for one in fleet]
    assert scores([state | {"pace": factor}, *rest])[0] <= scores([state, *rest])[0]
    if len(fleet) == 1:
        twins = scores([state, state | {"pace": factor}])
        assert twins[1] < twins[0] == 1.0


@quick
@given(fleets, st.permutations(range(5)))
def test_relabelling_permutes(fleet: list[State], order: list[int]) -> None:
    order = [i for i in order if i < len(fleet)]
    before = scores(fleet)
    assert scores([fleet[i] for i in order]) == [before[i] for i in order]
    assert scores(fleet, names="zyxwv") == before


@quick
@given(fleets, st.sampled_from([1.0, 3.0, 100.0]))
def test_the_unit_of_speed_means_nothing(fleet: list[State], factor: float) -> None:
    """An engine a hundred times slower in everything is used like the fast one, unless memory is waited for."""
    fleet = [one | {"kv_blocks": 0} for one in fleet]
    before, after = scores(fleet), scores(fleet, theta=tuple(factor * t for t in TYPICAL))
    assert all(abs(a - b) <= 1e-9 for a, b in zip(after, before, strict=True))


# The queue


@quick
@given(states, st.integers(0, 10**6), st.integers(0, 10**6))
def test_the_idle_are_always_admitted_to(state: State, uncached: int, fresh: int) -> None:
    idle = state | {"prefill_tokens": 0, "decoding": 0}
    assert ShortQueues().admits(endpoint("a", idle), uncached, fresh)


@quick
@given(states, st.integers(0, 20_000), st.integers(0, 20_000), st.integers(0, 5000), st.integers(0, 5000))
def test_who_is_admitted_would_be_with_less(state: State, uncached: int, fresh: int, less: int, queued: int) -> None:
    queue = ShortQueues()
    if not queue.admits(endpoint("a", state), uncached, fresh):
        return
    assert queue.admits(endpoint("a", state), max(0, uncached - less), max(0, fresh - less))
    assert queue.admits(endpoint("a", state), 0, 0), "one that admits somebody is not full"
    shorter = state | {"prefill_tokens": max(0, state["prefill_tokens"] - queued)}
    if shorter["kv_rest_tokens"] is not None or state["kv_blocks"] == 0:
        assert queue.admits(endpoint("a", shorter), uncached, fresh)


@quick
@given(states)
def test_a_full_step_of_prefill_is_enough(state: State) -> None:
    full = state | {"prefill_tokens": max(8193, state["prefill_tokens"])}
    assert not ShortQueues().admits(endpoint("a", full), 1, 1)


@quick
@given(fleets, st.integers(0, 10**9), st.integers(1, 10**7))
def test_places_move_with_time_and_the_later_of_two_alike_stands_behind(
    fleet: list[State], at_us: int, later_us: int
) -> None:
    asked = arrived("r", TOKENS, "p:100")
    first = msgspec.structs.replace(asked, at_us=Micros(at_us))
    second = msgspec.structs.replace(asked, at_us=Micros(at_us + later_us))
    queue, state = ShortQueues(), known(fleet)
    one, two = queue.place(first, state), queue.place(second, state)
    assert two.order > one.order and two.late_order > one.late_order
    assert one.late_us is not None and one.order <= one.late_us and one.late_us >= at_us
    assert abs((two.order - one.order) - later_us) <= 1


@quick
@given(states, st.integers(1, TOKENS - 1))
def test_who_has_more_to_compute_may_be_overtaken_when_late(state: State, less: int) -> None:
    """Short ones first among the late; among those on time, long ones get more time to be in time."""
    queue = ShortQueues()
    long, short = ({"uncached": n} for n in (TOKENS, less))
    behind, ahead = (queue.place(arrived("r", TOKENS, "p:100"), known([state | one])) for one in (long, short))
    assert ahead.late_order <= behind.late_order and ahead.order <= behind.order


def test_the_endpoint_is_named_only_for_people() -> None:
    assert endpoint("a", {"kv_blocks": 0, "in_flight": 1, "decoding": 1}).id == EndpointId("a")
