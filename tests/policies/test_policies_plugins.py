"""Every shipped scorer, filter and picker: a table of what it answers, and the laws of its kind."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from pilothouse.core.events import Arrived, LoadReported
from pilothouse.core.fleet import Endpoint
from pilothouse.core.policy import Filter, Known, Picker, Policy, Scorer, filters, pickers, scorers
from pilothouse.core.speed import Speed
from pilothouse.core.units import EndpointId, Micros
from pilothouse.policies.filters import InFlightLimit, KvHeadroom, WithoutSpeculation
from pilothouse.policies.pickers import Best, PowerOfTwo, Random, RoundRobin, WeightedRandom
from pilothouse.policies.rivals.gates import AibrixPrefixCache
from pilothouse.policies.rivals.llmd import LlmdNoHitLru
from pilothouse.policies.scorers import CacheAndLoad, KvFree, LeastRequests, PrefixCache, QueueDepth, Session
from tests.core.worlds import NOW, arrived, seen

TOKENS = 1600


@dataclass
class At:
    """One endpoint, as far as a policy can tell."""

    cached: int = 0
    prefill: int = 0
    in_flight: int = 0
    others: int = 0
    queue: int | None = None  # of its report; None with kv None: no fresh report
    kv: float | None = None
    session: bool = False
    name: str = ""
    context: int = 0
    cold_turn: int = -1


@dataclass
class Setting:
    """A decision to be made."""

    known: Known
    arrived: Arrived = field(default_factory=lambda: arrived("r", TOKENS))


def setting(*fleet: At, turn: int = 0, seed: int = 0, request: str = "r") -> Setting:
    endpoints, reports = [], []
    for i, at in enumerate(fleet):
        description = seen(at.name or f"e{i}")
        endpoint = Endpoint(
            description,
            frozenset("m"),
            prefill_tokens=at.prefill,
            in_flight=at.in_flight,
            distinct_tokens=at.context,
            cold_turn=at.cold_turn,
        )
        fresh = at.queue is not None or at.kv is not None
        reports.append(LoadReported(NOW, endpoint.id, 0, at.queue or 0, at.kv or 0.0) if fresh else None)
        endpoints.append(endpoint)
    cached, others = [at.cached for at in fleet], [at.others for at in fleet]
    session = next((EndpointId(e.id) for e, at in zip(endpoints, fleet, strict=True) if at.session), None)
    uncached = [TOKENS - c for c in cached]
    known = Known(Micros(0), endpoints, cached, uncached, reports, others, session, turn, seed, [Speed()] * len(fleet))
    return Setting(known, arrived(request, TOKENS))


def scores(scorer: Scorer, *fleet: At) -> list[float]:
    made = setting(*fleet)
    return scorer.score(made.arrived, made.known)


SCORES: list[tuple[Scorer, list[At], list[float]]] = [
    (CacheAndLoad(step_tokens=16), [At(), At()], [1.0, 1.0]),
    (CacheAndLoad(work_weight=0), [At(), At(prefill=1616)], [1.0, 0.5]),
    (CacheAndLoad(work_weight=0), [At(cached=1584), At()], [1.0, 32 / 1616]),
    (CacheAndLoad(work_weight=0.25), [At(cached=1584), At()], [1.0, (32 + 4) / (1616 + 400)]),
    (CacheAndLoad(work_weight=0, decode_slowdown=0.5), [At(), At(in_flight=1, others=1)], [1.0, 0.5]),
    (CacheAndLoad(decode_slowdown=0), [At(), At(in_flight=99)], [1.0, 1.0]),
    (CacheAndLoad(work_weight=0), [At(cached=800, prefill=800), At()], [1.0, 1.0]),
    (CacheAndLoad(work_weight=0.5), [At(cached=800, prefill=800), At()], [1.0, (1616 + 400) / (1616 + 800)]),
    (PrefixCache(), [At(cached=0), At(cached=400), At(cached=1600)], [0.0, 0.25, 1.0]),
    (LeastRequests(), [At(in_flight=1), At(others=3), At()], [0.5, 0.25, 1.0]),
    (QueueDepth(), [At(queue=0), At(queue=64), At(queue=128), At(queue=500), At()], [1.0, 0.5, 0.0, 0.0, 0.5]),
    (QueueDepth(requests_max=1), [At(queue=1), At(queue=0)], [0.0, 1.0]),
    (KvFree(), [At(kv=0.25), At(kv=1.5), At(kv=0), At()], [0.75, 0.0, 1.0, 0.5]),
    (Session(), [At(), At(session=True)], [0.0, 1.0]),
    (Session(), [At(), At()], [0.0, 0.0]),
]


@pytest.mark.parametrize(("scorer", "fleet", "expected"), SCORES)
def test_scores(scorer: Scorer, fleet: list[At], expected: list[float]) -> None:
    assert scores(scorer, *fleet) == pytest.approx(expected)


KEEPS: list[tuple[Filter, list[At], list[bool]]] = [
    (KvHeadroom(), [At(kv=0.95), At(kv=0.951), At()], [True, False, True]),
    (KvHeadroom(used_ratio_max=0.5), [At(kv=0.6), At(kv=0.9)], [True, True]),  # rather a full one than none
    (InFlightLimit(requests_max=2), [At(in_flight=1), At(in_flight=2)], [True, False]),
    (InFlightLimit(requests_max=1), [At(in_flight=1)], [False]),
]


@pytest.mark.parametrize(("policy", "fleet", "expected"), KEEPS)
def test_filters(policy: Filter, fleet: list[At], expected: list[bool]) -> None:
    made = setting(*fleet)
    assert policy.keep(made.arrived, made.known) == expected


PLAIN, EAGLE = "", "eagle3"
BOUND: list[tuple[WithoutSpeculation, list[tuple[str, int]], list[bool]]] = [
    (WithoutSpeculation(), [(PLAIN, 9), (EAGLE, 0), (PLAIN, 0)], [True, False, True]),
    (WithoutSpeculation(), [(EAGLE, 0), (EAGLE, 0)], [True, True]),  # rather with speculation than nowhere
    (WithoutSpeculation(requests_max=3), [(PLAIN, 3), (EAGLE, 0), (PLAIN, 2)], [False, False, True]),
    (WithoutSpeculation(requests_max=3), [(PLAIN, 3), (EAGLE, 0)], [True, True]),
]


@pytest.mark.parametrize(("policy", "fleet", "expected"), BOUND)
def test_bound_requests_go_where_nobody_speculates(
    policy: WithoutSpeculation, fleet: list[tuple[str, int]], expected: list[bool]
) -> None:
    made = setting(*(At(in_flight=count) for _, count in fleet))
    for endpoint, (method, _) in zip(made.known.endpoints, fleet, strict=True):
        endpoint.seen = replace(endpoint.seen, speculation=method)
    assert policy.keep(replace(made.arrived, constrained=True), made.known) == expected
    assert policy.keep(made.arrived, made.known) == [True] * len(fleet), "others go anywhere"


@given(
    st.lists(st.tuples(st.sampled_from(["", "ngram"]), st.integers(0, 9)), min_size=1), st.integers(0, 9), st.booleans()
)
def test_somebody_is_always_left(fleet: list[tuple[str, int]], most: int, constrained: bool) -> None:
    made = setting(*(At(in_flight=count) for _, count in fleet))
    for endpoint, (method, _) in zip(made.known.endpoints, fleet, strict=True):
        endpoint.seen = replace(endpoint.seen, speculation=method)
    assert any(WithoutSpeculation(most).keep(replace(made.arrived, constrained=constrained), made.known))


def pick(picker: Picker, totals: list[float], **more: Any) -> int:
    made = setting(*[At()] * len(totals), **more)
    return picker.pick(made.arrived, made.known, totals)


def test_best_takes_turns_among_the_best() -> None:
    assert [pick(Best(), [1.0, 2.0, 2.0], turn=turn) for turn in range(4)] == [1, 2, 1, 2]
    assert pick(Best(), [1.0, 1.0 + 1e-12], turn=0) == 0, "what differs by rounding is equal"


def test_round_robin_takes_turns_among_all() -> None:
    assert [pick(RoundRobin(), [0.0, 5.0, 1.0], turn=turn) for turn in range(4)] == [0, 1, 2, 0]


@pytest.mark.parametrize(
    ("picker", "totals", "shares"),
    [
        (Random(), [9.0, 0.0, 0.0, 1.0], [0.25] * 4),
        (WeightedRandom(), [3.0, 0.0, 0.0, 1.0], [0.75, 0, 0, 0.25]),
        (WeightedRandom(), [0.0, 0.0], [0.5, 0.5]),
        (PowerOfTwo(), [1.0, 2.0, 3.0], [0, 1 / 3, 2 / 3]),
        (PowerOfTwo(), [1.0], [1.0]),
    ],
)
def test_luck_is_shared_as_promised(picker: Picker, totals: list[float], shares: list[float]) -> None:
    draws = [pick(picker, totals, request=f"r{i}") for i in range(1500)]
    assert [draws.count(i) / 1500 for i in range(len(totals))] == pytest.approx(shares, abs=0.04)


def test_luck_belongs_to_the_request_and_the_seed() -> None:
    picks = [pick(Random(), [0.0] * 9, request=f"r{i}", turn=i) for i in range(50)]
    assert picks == [pick(Random(), [0.0] * 9, request=f"r{i}") for i in range(50)]
    assert picks != [pick(Random(), [0.0] * 9, request=f"r{i}", seed=1) for i in range(50)]


@pytest.mark.parametrize(
    ("kind", "parameters", "message"),
    [
        (CacheAndLoad, {"decode_slowdown": -0.1}, "decode_slowdown must be at least 0"),
        (CacheAndLoad, {"decode_slowdown": float("nan")}, "decode_slowdown must be at least 0"),
        (CacheAndLoad, {"step_tokens": 0}, "step_tokens must be at least 1"),
        (QueueDepth, {"requests_max": 0}, "requests_max must be at least 1"),
        (KvHeadroom, {"used_ratio_max": 0}, "used_ratio_max must be above 0"),
        (KvHeadroom, {"used_ratio_max": 1.1}, "used_ratio_max must be above 0"),
        (InFlightLimit, {"requests_max": 0}, "requests_max must be at least 1"),
    ],
)
def test_parameters_are_checked(kind: type[Policy], parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**parameters)


# Laws

SHIPPED = [kind() for _, kind in scorers]
fleets = st.lists(
    st.builds(
        At,
        cached=st.integers(0, 99).map(lambda n: n * 16),
        prefill=st.integers(0, 200_000),
        in_flight=st.integers(0, 500),
        others=st.integers(0, 500),
        queue=st.none() | st.integers(0, 1000),
        kv=st.none() | st.floats(0, 1.5),
        session=st.booleans(),
        context=st.integers(0, 500_000),
        cold_turn=st.integers(-1, 9),
    ),
    min_size=1,
    max_size=6,
)
quick = settings(max_examples=60, deadline=None, derandomize=True)


@quick
@given(fleets)
def test_every_score_lies_between_0_and_1(fleet: list[At]) -> None:
    for scorer in SHIPPED:
        column = scores(scorer, *fleet)
        assert len(column) == len(fleet) and all(0 <= score <= 1 for score in column), scorer


@quick
@given(fleets, st.randoms(use_true_random=False))
def test_scores_depend_neither_on_names_nor_on_order(fleet: list[At], luck: Any) -> None:
    if sum(at.session for at in fleet) > 1:
        return  # a conversation was served last by one endpoint
    order = list(range(len(fleet)))
    luck.shuffle(order)
    moved = [fleet[i] for i in order]
    for scorer in SHIPPED:
        before = scores(scorer, *fleet)
        assert scores(scorer, *moved) == [before[i] for i in order], scorer
        renamed = [At(**{**at.__dict__, "name": f"z{9 - i}"}) for i, at in enumerate(fleet)]
        assert scores(scorer, *renamed) == before, scorer


WORSE = {"prefill": 500, "in_flight": 1, "others": 1, "context": 500}
# A cold prompt ranks the fleet and a warm one does not; one endpoint's load moves the bounds on everybody's.
NOT_MONOTONE = (LlmdNoHitLru, AibrixPrefixCache)


@quick
@given(fleets, st.sampled_from(sorted(WORSE)))
def test_more_load_never_helps_and_more_cache_never_hurts(fleet: list[At], what: str) -> None:
    first, *rest = fleet
    loaded = At(**{**first.__dict__, what: getattr(first, what) + WORSE[what]})
    warmer = At(**{**first.__dict__, "cached": min(1584, first.cached + 160)})
    for scorer in SHIPPED:
        if isinstance(scorer, NOT_MONOTONE):
            continue
        assert scores(scorer, loaded, *rest)[0] <= scores(scorer, first, *rest)[0], scorer
        assert scores(scorer, warmer, *rest)[0] >= scores(scorer, first, *rest)[0], scorer


@quick
@given(fleets)
def test_a_filter_answers_for_every_endpoint(fleet: list[At]) -> None:
    made = setting(*fleet)
    for _, kind in filters:
        assert [type(kept) for kept in kind().keep(made.arrived, made.known)] == [bool] * len(fleet)


@quick
@given(st.lists(st.floats(0, 10), min_size=1, max_size=8), st.integers(0, 10**9))
def test_a_picker_picks_somebody_who_is_there(totals: list[float], turn: int) -> None:
    for _, kind in pickers:
        assert 0 <= pick(kind(), totals, turn=turn) < len(totals)


@quick
@given(fleets, st.data())
def test_known_keeps_its_lists_aligned(fleet: list[At], data: st.DataObject) -> None:
    known = setting(*fleet).known
    keep = data.draw(st.lists(st.booleans(), min_size=len(fleet), max_size=len(fleet)))
    left, kept = known.only(keep), [i for i, k in enumerate(keep) if k]
    for name in ("endpoints", "cached_tokens", "uncached_tokens", "reports", "others"):
        assert getattr(left, name) == [getattr(known, name)[i] for i in kept]
    assert (left.session_endpoint, left.turn, left.seed) == (known.session_endpoint, known.turn, known.seed)


def test_every_plugin_has_a_manual_page() -> None:
    for registry in (scorers, filters, pickers):
        for name, kind in registry:
            page = kind.__doc__ or ""
            assert page.strip() and page != Policy.__doc__, name
            if registry is not pickers:
                assert "Signal" in page, f"{name} does not state its signal"
