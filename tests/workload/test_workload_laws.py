"""What every kind of workload keeps: order, names, chained keys, same seed same bytes, load, and what an engine reuses."""

import pickle

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.core.dispatcher import Dispatcher, DispatcherSettings
from pilothouse.core.units import Micros, Seconds
from pilothouse.perf.step_time import StepTime
from pilothouse.policies.rivals import RIVALS
from pilothouse.sim.engine import Engine, EngineSpec, Job
from pilothouse.sim.world import Fleet, Pool, world
from pilothouse.workload.agentic import Agentic
from pilothouse.workload.chat import Chat
from pilothouse.workload.lengths import Length, Lognormal
from pilothouse.workload.profile import describe
from pilothouse.workload.requests import Planned, Workload
from pilothouse.workload.sessions import Phase
from pilothouse.workload.spec import Recipe
from tests.workload.recipes import RECIPES, SECOND, USERS, check

KINDS = sorted(RECIPES)
TIME = StepTime(a_us=1000, b_us=10, c_ns=5, p_us=4, q_ps=80, rho=0.8)


def lengths(most: int) -> st.SearchStrategy[Length]:
    fixed = st.integers(1, most)
    between = st.tuples(fixed, fixed).map(lambda pair: (min(pair), max(pair)))
    return st.one_of(fixed, between, st.floats(1, most).map(lambda mean: Lognormal(mean, most, sigma=1.0)))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_keeps_the_laws(kind: str) -> None:
    for seed in (1, 2):
        check(RECIPES[kind].make(seed))
        check(RECIPES[kind].make(seed, 2.5))


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_fixes_every_byte_in_another_process_too(kind: str) -> None:
    recipe = RECIPES[kind]
    sent = pickle.loads(pickle.dumps(recipe))
    first, again = recipe.make(7, 1.5), sent.make(7, 1.5)
    assert msgspec.msgpack.encode(first) == msgspec.msgpack.encode(again)
    if kind != "sharegpt":  # it has nothing to draw
        assert msgspec.msgpack.encode(first) != msgspec.msgpack.encode(recipe.make(8, 1.5))


def clocked(workload: Workload) -> list[Planned]:
    return [planned for stage in workload.stages for planned in stage.requests if planned.after is None]


@pytest.mark.parametrize("kind", ["shared_prefix", "open_loop", "rag", "batch", "batch steady", "chat rate"])
def test_load_multiplies_what_comes_within_the_same_time(kind: str) -> None:
    once, twice = RECIPES[kind].make(1), RECIPES[kind].make(1, 2.0)
    assert len(clocked(twice)) == 2 * len(clocked(once))
    assert [stage.seconds for stage in twice.stages] == [stage.seconds for stage in once.stages]


@pytest.mark.parametrize("kind", ["mooncake", "azure", "sharegpt"])
def test_load_makes_a_trace_faster_and_changes_nothing_else(kind: str) -> None:
    once, twice = RECIPES[kind].make(1).stages[0], RECIPES[kind].make(1, 2.0).stages[0]
    assert [planned.blocks for planned in once.requests] == [planned.blocks for planned in twice.requests]
    for slow, fast in zip(once.requests, twice.requests, strict=True):
        assert abs(slow.arrival_us - 2 * fast.arrival_us) <= 2
    assert twice.rate == pytest.approx(2 * once.rate, rel=1e-3)


@pytest.mark.parametrize(("load", "users"), [(0.1, 1), (1.0, 3), (2.0, 6), (1.2, 4)])
def test_load_multiplies_users_who_each_have_as_much_to_do(load: float, users: int) -> None:
    stage = RECIPES["chat users"].make(1, load).stages[0]
    assert sum(planned.after is None for planned in stage.requests) == users
    assert len({planned.request.split("-")[1] for planned in stage.requests}) == round(7 * users / 3)
    assert stage.rate == 0 and stage.name.startswith(f"{users} user")


def test_users_begin_one_after_the_other_and_never_have_two_conversations() -> None:
    stage = RECIPES["chat users"].make(1).stages[0]
    assert [p.arrival_us for p in stage.requests if p.after is None] == [0, 2 * SECOND // 3, 4 * SECOND // 3]
    followers = [planned.after for planned in stage.requests if planned.after is not None]
    assert len(set(followers)) == len(followers)


def test_no_load_is_no_workload() -> None:
    with pytest.raises(ValueError, match="load"):
        RECIPES["chat users"].make(1, 0)


@given(lengths(5000), lengths(3000), st.integers(1, 6), st.integers(200, 6000), st.integers(1, 64), st.integers())
def test_conversations_are_bounded_and_bring_all_that_was_said(
    user: Length, output: Length, turns: int, context_max: int, size: int, seed: int
) -> None:
    spec = Chat(USERS, system_tokens=150, turns=turns, user_tokens=user, output_tokens=output, context_max=context_max)
    workload = Recipe(msgspec.structs.replace(spec, block_size=size)).make(seed)
    check(workload)
    said: dict[int, Planned] = {}
    for planned in workload.stages[0].requests:
        assert planned.prompt_tokens + planned.output_tokens <= context_max
        before = said.get(planned.session) if planned.session else None
        if before is not None:
            assert planned.after == before.request
            assert planned.prompt_tokens > before.prompt_tokens + before.output_tokens
            head = [*before.blocks, *before.output_blocks]
            assert len(head) == (before.prompt_tokens + before.output_tokens - 1) // size
            assert planned.blocks[: len(head)] == head
        said[planned.session] = planned


def reused(workload: Workload) -> dict[str, int]:
    """Prompt tokens that one engine with room for everything takes from its cache, one request after the other."""
    engine = Engine(EngineSpec(TIME, 400_000, workload.block_size))
    cached: dict[str, int] = {}
    for stage in workload.stages:
        for p in stage.requests:
            engine.submit(Job(p.request, p.blocks, p.prompt_tokens, p.output_tokens, p.output_blocks), Micros(10**15))
            while (at_us := engine.next_step_us()) is not None:
                cached |= {job.request: tokens for job, tokens in engine.step(at_us).finished}
    return cached


@pytest.mark.parametrize("kind", ["chat users", "agentic", "azure", "agentic trace", "mooncake"])
def test_an_engine_reuses_what_the_profile_says(kind: str) -> None:
    workload = RECIPES[kind].make(3)
    prompts = sum(planned.prompt_tokens for stage in workload.stages for planned in stage.requests)
    assert sum(reused(workload).values()) == pytest.approx(describe(workload).shared_ratio * prompts)


@given(st.integers(1, 400), st.integers(1, 200), st.integers(1, 100), st.integers(1, 33))
def test_the_second_turn_finds_the_whole_first_one_in_the_cache(user: int, output: int, system: int, size: int) -> None:
    spec = Chat([Phase(users=1, count=1)], system_tokens=system, turns=2, user_tokens=user, output_tokens=output)
    workload = Recipe(msgspec.structs.replace(spec, block_size=size)).make(1)
    first, second = workload.stages[0].requests
    held = (first.prompt_tokens + output - 1) // size  # the last token was never computed on
    assert reused(workload) == {first.request: 0, second.request: held * size}


def test_sub_agents_begin_with_what_their_parent_knows() -> None:
    spec = Agentic([Phase(users=1, count=1)], branches=1.0, steps=2, sub_agents=2, sub_steps=2, system_tokens=500)
    first, *others = Recipe(spec).make(1).stages[0].requests
    subs = [planned for planned in others if planned.after == first.request]
    assert len(subs) == 2  # the main agent waits for one of them
    head = [*first.blocks, *first.output_blocks]
    assert all(planned.blocks[: len(head)] == head for planned in subs)
    assert subs[0].blocks[len(head) + 1] != subs[1].blocks[len(head) + 1]
    assert reused(Recipe(spec).make(1))[subs[0].request] >= len(head) * 16


def test_tenants_share_nothing_and_keep_their_names() -> None:
    workload = RECIPES["mix"].make(1)
    keys = {name: set[int]() for name in ("a", "b")}
    for planned in workload.stages[0].requests:
        assert planned.request.startswith(f"{planned.tenant}/")
        assert planned.after is None or planned.after.startswith(f"{planned.tenant}/")
        keys[planned.tenant].update(planned.blocks)
    assert keys["a"] and keys["b"] and not keys["a"] & keys["b"]
    assert sum(planned.tenant == "b" for planned in workload.stages[0].requests) == 2 * 2 * 5  # twice its own rate
    assert workload.stages[0].rate == 4.0


def test_a_profile_by_hand() -> None:
    spec = Chat([Phase(users=1, count=1)], system_tokens=64, turns=2, user_tokens=36, output_tokens=29, think=Micros(5))
    profile = describe(Recipe(spec).make(1))
    assert (profile.requests, profile.conversations, profile.rate) == (2, 1, 0.0)
    assert (profile.prompt.mean, profile.prompt.most, profile.output.p99) == (132.5, 165, 29)
    assert profile.shared_ratio == pytest.approx(128 / 265)
    steady = describe(RECIPES["open_loop"].make(1))
    assert (steady.requests, steady.seconds, steady.rate) == (20, 5.0, 4.0)
    assert steady.output_per_second == pytest.approx(steady.output.mean * 4)


def test_warm_up_counts_for_the_cache_alone() -> None:
    same = [Phase(rate=1, seconds=Seconds(4), reported=False), Phase(rate=1, seconds=Seconds(4))]
    spec = msgspec.structs.replace(
        RECIPES["rag"].spec, phases=same, documents=1, document_tokens=1600, question_tokens=1
    )
    profile = describe(Recipe(spec).make(1))
    assert profile.requests == 4 and profile.shared_ratio > 0.99


def test_one_user_in_the_simulator_waits_thinks_and_finds_all_that_was_said() -> None:
    """Through dispatcher, engine and clients: nothing overlaps, so the hits are those of an unlimited cache."""
    workload = Recipe(Chat([Phase(users=1, count=5)], turns=(2, 5), think=Micros(3 * SECOND))).make(2)
    fleet = Fleet([Pool("p", 1, EngineSpec(TIME, 100_000))])
    driver = world(fleet, Dispatcher(DispatcherSettings(strict=True), RIVALS["least_prefill"]), workload)
    outcomes = {outcome.request: outcome for outcome in driver.run()[0].outcomes}
    assert len(outcomes) == len(workload.stages[0].requests) > 10
    for planned in workload.stages[0].requests:
        if planned.after is not None:
            assert outcomes[planned.request].sent_us == outcomes[planned.after].end_us + 3 * SECOND
    profile = describe(workload)
    cached = sum(outcome.cached_tokens for outcome in outcomes.values())
    assert cached == pytest.approx(profile.shared_ratio * profile.prompt.mean * profile.requests)
